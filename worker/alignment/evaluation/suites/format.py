"""A suite as text: a YAML header, and samples as JSON lines or inline. Read whole, every problem told at once, and written back.

Header: name, kind, description, primary, sampling {n, temperature, top_p, max_tokens, seed}, checks (of every sample, before its
own), gates {score: {min, max, min_delta, max_delta}}, quality (checks that a sample must pass to count as an answer, for
diversity), samples (inline, or the name of the file beside it).

Sample: id, input (a text or chat messages), target (a text or several, any of which is right), category, metadata, checks.
Diversity suites read ``metadata.domain`` and ``metadata.open_ended`` (true unless said otherwise).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import yaml

from worker.alignment.evaluation.suites.declared import Check
from worker.alignment.evaluation.suites.problems import Lines, Notes, Problem, SuiteError
from worker.alignment.evaluation.suites.reading import read_lines, read_yaml, resolve

SuiteKind = Literal["eval", "diversity", "redteam", "benign"]
Primary = Literal["mean", "pass_rate"]
KINDS: tuple[SuiteKind, ...] = get_args(SuiteKind)
PRIMARIES: tuple[Primary, ...] = get_args(Primary)
GATED = ("mean", "pass_rate", "refusal_rate")
"""Scores that a gate may speak of; all are shares, 0 to 1."""
_EMPTY: tuple[Any, ...] = ("", None, [], {})
SAMPLES_FILE = "samples.jsonl"
Messages = tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    n: int = 1
    """Answers drawn for each sample."""
    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Bounds of a score; a delta is against the arm compared with."""

    min: float | None = None
    max: float | None = None
    min_delta: float | None = None
    max_delta: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteHeader:
    name: str
    kind: SuiteKind = "eval"
    description: str = ""
    primary: Primary = "mean"
    """The score that decides: the mean of the samples' scores, or the share that pass every check."""
    sampling: Sampling = field(default_factory=Sampling)
    checks: tuple[Check, ...] = ()
    """Of every sample. A red-team suite without any checks for refusal, a benign one for its absence."""
    gates: Mapping[str, Gate] = field(default_factory=dict)
    quality: tuple[Check, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Canonical: what is not given is absent, so a later edition's new fields leave old hashes alone."""
        given = {
            "name": self.name,
            "kind": self.kind,
            "description": self.description,
            "primary": self.primary,
            "sampling": asdict(self.sampling),
            "checks": [check.to_json() for check in self.checks],
            "gates": {name: _given(asdict(gate)) for name, gate in self.gates.items()},
            "quality": [check.to_json() for check in self.quality],
        }
        return _given(given)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteSample:
    id: str
    input: Messages
    """Chat messages {"role", "content"}; the last is the user's."""
    target: tuple[str, ...] = ()
    category: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Canonical; what is not given is absent."""
        given = {
            "id": self.id,
            "input": [dict(message) for message in self.input],
            "target": list(self.target),
            "category": self.category,
            "metadata": dict(self.metadata),
            "checks": [check.to_json() for check in self.checks],
        }
        return _given(given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    header: SuiteHeader
    samples: tuple[SuiteSample, ...]

    @property
    def categories(self) -> dict[str, int]:
        """Each category's number of samples, in the order of the file."""
        found: dict[str, int] = {}
        for sample in self.samples:
            found[sample.category] = found.get(sample.category, 0) + 1
        return found


def parse_suite(
    header: str | bytes | Mapping[str, Any],
    samples: str | bytes | Iterable[str | Mapping[str, Any]] | None = None,
) -> Suite:
    """Raises SuiteError with every problem of header and samples; nothing else, whatever the bytes."""
    from worker.alignment.evaluation.suites.parsing import read_header, read_samples

    problems: list[Problem] = []
    data: Any = None
    lines = Lines()
    try:
        data, lines = read_yaml(header) if isinstance(header, (str, bytes)) else (_copied(header), lines)
    except SuiteError as error:
        problems += error.problems
    notes = Notes(problems, "header", lines)
    inline = data.pop("samples", None) if isinstance(data, dict) else None
    read = None if problems else read_header(data, notes)
    if isinstance(inline, list) and samples is not None:
        notes.add("samples", "Given in the header and as a file; keep one.")
    if isinstance(inline, list):
        rows: Iterable[tuple[int | None, Any]] = [(lines(f"samples[{i}]"), row) for i, row in enumerate(inline)]
    elif samples is None:
        named = f"The file {inline[:100]} was not given" if isinstance(inline, str) else "There are none"
        notes.add("samples", f"{named}: give the samples as JSON lines, or inline in the header.")
        rows = []
    else:
        rows = _rows(samples, problems)
    found = read_samples(rows, problems, read, "header" if isinstance(inline, list) else "samples")
    if problems or read is None:
        raise SuiteError(problems)
    return Suite(header=read, samples=found)


def canonical(suite: Suite) -> dict[str, Any]:
    """{"header", "samples"} as plain JSON data; ``from_canonical`` reads it back."""
    return {"header": suite.header.to_json(), "samples": [sample.to_json() for sample in suite.samples]}


def from_canonical(data: Mapping[str, Any]) -> Suite:
    """Raises SuiteError."""
    return parse_suite(data["header"], data["samples"])


def content_hash(suite: Suite) -> str:
    """SHA-256 of the canonical form, hexadecimal: the suite's version. Key order, spacing and spelled-out defaults of the header do not matter."""
    told = json.dumps(canonical(suite), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(told.encode()).hexdigest()


def sample_line(sample: SuiteSample) -> str:
    """One line of a samples file, without its end."""
    data = sample.to_json()
    if len(sample.input) == 1:
        data["input"] = sample.input[0]["content"]
    if len(sample.target) == 1:
        data["target"] = sample.target[0]
    return json.dumps(data, ensure_ascii=False)


def dump(suite: Suite) -> tuple[str, str]:
    """(YAML header, JSON lines): what ``parse_suite`` reads back into the same content hash."""
    head = {**suite.header.to_json(), "samples": SAMPLES_FILE}
    return dump_header(head), "".join(sample_line(sample) + "\n" for sample in suite.samples)


def dump_header(data: Mapping[str, Any]) -> str:
    """YAML of plain JSON data, as ``read_yaml`` reads it back."""
    told: str = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return told


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 — PyYAML's signature
        return True


def _quoted(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = isinstance(resolve(value), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


_Dumper.add_representer(str, _quoted)


def _given(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value not in _EMPTY}


def _copied(header: Mapping[str, Any]) -> Any:
    from worker.alignment.evaluation.suites.reading import read_line

    data = read_line(header, None)
    if isinstance(data, Problem):
        raise SuiteError([Problem(None, "", data.message, "header")])
    return data


def _rows(samples: Any, problems: list[Problem]) -> list[tuple[int | None, Any]]:
    try:
        return list(read_lines(samples))
    except SuiteError as error:
        problems += error.problems
        return []

"""``kto eval``: a suite on a model, an adapter or an endpoint, without a database. Prints counts and intervals, tells the gates."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.evaluations import suite_words
from worker.alignment.config import AlignmentConfig
from worker.alignment.errors import SpecError
from worker.alignment.evaluate_files import LinesFile, read_lines, read_progress
from worker.alignment.evaluation.judging.client import Client, EndpointSettings, Request
from worker.alignment.evaluation.judging.wire import EndpointError
from worker.alignment.evaluation.suites.format import Gate, Suite, content_hash, parse_suite
from worker.alignment.evaluation.suites.problems import SuiteError
from worker.alignment.evaluation.suites.scoring import Answer, difference, summarise
from worker.alignment.jobs import JobArm, JobSpec, JobSuite
from worker.job_results import check_lines

METRICS = {"mean": "score", "pass_rate": "pass_rate", "refusal_rate": "refusal_rate"}
"""A gate's score -> its figure in the summary."""


class WrongInputError(Exception):
    """Exit 2 with this sentence."""


@dataclass(frozen=True, slots=True)
class GateResult:
    score: str
    rule: str
    state: str
    """pass, fail or not enough evidence."""


def main(arguments: Sequence[str]) -> int:
    options: dict[str, Any] = json.loads(arguments[0])
    try:
        suite = read_suite(Path(options["suite"]))
        with _folder(options) as folder:
            arms = draw(suite, options, folder)
            answers = {arm: checked_answers(suite, folder, arm) for arm in arms}
    except (WrongInputError, SpecError, EndpointError) as error:
        print(f"kto eval: {error}", file=sys.stderr)
        return 2
    reference = answers.get("reference") if len(arms) > 1 else None
    summaries = {
        arm: summarise(found, suite.header.kind, reference if arm != "reference" else None)
        for arm, found in answers.items()
    }
    tested = arms[-1]
    gates = gate_results(suite, answers[tested], summaries[tested], reference)
    if options["as_json"]:
        told = [{"score": gate.score, "rule": gate.rule, "state": gate.state} for gate in gates]
        print(
            json.dumps({"suite": suite.header.name, "version": content_hash(suite), "arms": summaries, "gates": told})
        )
    else:
        print("\n".join(table(suite, summaries, gates)))
    return 1 if any(gate.state == "fail" for gate in gates) else 0


def read_suite(path: Path) -> Suite:
    """The header, and the samples file that it names beside it. Raises WrongInputError with every problem by line."""
    try:
        text = path.read_bytes()
        beside = _samples_file(path, text)
        return parse_suite(text, beside.read_bytes() if beside else None)
    except OSError as error:
        raise WrongInputError(f"{error.filename} cannot be read: {error.strerror}.") from error
    except SuiteError as error:
        raise WrongInputError("the suite cannot be read.\n  " + "\n  ".join(map(str, error.problems))) from error


def _samples_file(path: Path, text: bytes) -> Path | None:
    from worker.alignment.evaluation.suites.reading import read_yaml

    data, _ = read_yaml(text)
    name = data.get("samples") if isinstance(data, dict) else None
    if not isinstance(name, str):
        return None
    if Path(name).name != name:
        raise WrongInputError(f"samples: {name} must be a file beside the header.")
    return path.parent / name


def _folder(options: dict[str, Any]) -> Any:
    if options["out"]:
        Path(options["out"]).mkdir(parents=True, exist_ok=True)
        return contextlib.nullcontext(Path(options["out"]))
    return _Temporary()


class _Temporary(tempfile.TemporaryDirectory):  # type: ignore[type-arg]
    def __enter__(self) -> Any:
        return Path(super().__enter__())


def draw(suite: Suite, options: dict[str, Any], folder: Path) -> list[str]:
    """Draw every arm's answers into the folder; the arms' names, the one that is tested last. Raises WrongInputError."""
    if options["adapter"] and not options["model"]:
        raise WrongInputError("--adapter needs --model: the base that it belongs to.")
    if not options["model"] and not options["endpoint"]:
        raise WrongInputError("give --model, or --endpoint with --name.")
    if options["endpoint"] and not options["name"]:
        raise WrongInputError("--endpoint needs --name: the model as the server calls it.")
    local: list[JobArm] = []
    if options["model"]:
        tests_base = not options["adapter"] and not options["endpoint"]
        local.append(JobArm(name="model" if tests_base else "reference"))
    if options["adapter"]:
        local.append(JobArm(name="adapter", adapter_dir=options["adapter"]))
    if local:
        _draw_local(suite, options, folder, tuple(local))
    names = [arm.name for arm in local]
    if options["endpoint"]:
        _ask_endpoint(suite, options, folder)
        names.append("endpoint")
    return names


def _draw_local(suite: Suite, options: dict[str, Any], folder: Path, arms: tuple[JobArm, ...]) -> None:
    from worker.alignment.evaluate import read_job, run_job

    digest, sampling = content_hash(suite), suite.header.sampling
    path = folder / "suites" / f"{digest}.jsonl"
    path.parent.mkdir(exist_ok=True)
    lines = [{"id": str(number), "input": list(sample.input)} for number, sample in enumerate(suite.samples)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    spec = JobSpec(
        job_id=0,
        model_path=str(Path(options["model"]).resolve()),
        config=AlignmentConfig(base_model=options["model"]),
        arms=arms,
        out_dir=str(folder),
        cache_dir=str(folder / "cache"),
        suites=(
            JobSuite(
                content_hash=digest,
                path=str(path),
                samples_per_prompt=sampling.n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=sampling.seed,
            ),
        ),
    )
    spec_file = folder / "spec.json"
    spec_file.write_text(json.dumps(spec.to_json()), encoding="utf-8")
    if run_job(read_job(spec_file)) != 0:
        told = read_progress(folder / "progress.json") or {}
        raise WrongInputError(str(told.get("message") or "the model could not be evaluated."))


def _ask_endpoint(suite: Suite, options: dict[str, Any], folder: Path) -> None:
    """Ask for what is not there yet; an answer that failed is a line with its error, and is asked again the next time."""
    key = os.environ.get(options["key_env"], "") if options["key_env"] else ""
    if options["key_env"] and not key:
        raise WrongInputError(f"--key-env: the variable {options['key_env']} is not set.")
    sampling = suite.header.sampling
    path = folder / "samples" / "endpoint" / f"{content_hash(suite)}.jsonl"
    kept = [line for line in read_lines(path) if not line.get("error")]
    path.unlink(missing_ok=True)
    file = LinesFile(path, ("sample", "index"))
    file.append(kept)
    missing = [number for number in range(len(suite.samples)) if (str(number), 0) not in file.keys]
    requests = [
        Request(
            messages=suite.samples[number].input,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            n=sampling.n,
            repeat=number,
        )
        for number in missing
    ]
    settings = EndpointSettings(url=options["endpoint"], model=options["name"], key=key)
    of_key = {request.key(settings.model): number for number, request in zip(missing, requests, strict=True)}

    def store(request_key: str, answer: Any) -> None:
        file.append(_endpoint_lines(of_key[request_key], answer, sampling.n))

    with Client(settings) as client:
        client.ask(requests, report=store)


def _endpoint_lines(number: int, answer: Any, count: int) -> list[dict[str, Any]]:
    line: dict[str, Any] = {"sample": str(number), "num_tokens": 0}
    if isinstance(answer, EndpointError):
        failed = {"text": "", "truncated": False, "error": answer.message}
        return [line | failed | {"index": index} for index in range(count)]
    pairs = zip(answer["texts"], answer["finish_reasons"], strict=True)
    return [
        line | {"index": index, "text": text, "truncated": reason == "length"}
        for index, (text, reason) in enumerate(pairs)
    ]


def checked_answers(suite: Suite, folder: Path, arm: str) -> list[Answer]:
    lines = read_lines(folder / "samples" / arm / f"{content_hash(suite)}.jsonl")
    return [item.answer for item in check_lines(suite, lines)]


def gate_results(
    suite: Suite, answers: Sequence[Answer], summary: dict[str, Any], reference: Sequence[Answer] | None
) -> list[GateResult]:
    """Every bound of the suite's gates. Only an interval that lies wholly beyond a bound fails it."""
    found: list[GateResult] = []
    for score, gate in suite.header.gates.items():
        metric = METRICS[score]
        found += [GateResult(score, rule, state) for rule, state in _bounds(gate, summary[metric], delta=False)]
        change = difference(answers, reference, metric) if reference is not None else {"low": None, "high": None}
        found += [GateResult(score, rule, state) for rule, state in _bounds(gate, change, delta=True)]
    return found


def _bounds(gate: Gate, estimate: dict[str, Any], *, delta: bool) -> list[tuple[str, str]]:
    low, high = estimate.get("low"), estimate.get("high")
    least, most = (gate.min_delta, gate.max_delta) if delta else (gate.min, gate.max)
    what = "change " if delta else ""
    told = []
    if least is not None:
        told.append(
            (f"{what}at least {least:g}", _state(low is not None and low >= least, high is not None and high < least))
        )
    if most is not None:
        told.append(
            (f"{what}at most {most:g}", _state(high is not None and high <= most, low is not None and low > most))
        )
    return told


def _state(*verdicts: bool) -> str:
    holds, broken = verdicts
    return "pass" if holds else "fail" if broken else "not enough evidence"


def table(suite: Suite, summaries: dict[str, dict[str, Any]], gates: Sequence[GateResult]) -> list[str]:
    lines = [f"{suite.header.name}  (version {content_hash(suite)[:12]})", ""]
    lines.append(
        f"{'arm':<12} {'category':<24} {'samples':>8} {'score':>8}  {'95 % interval':<18} {'pass':>8} {'refused':>8}"
    )
    for arm, summary in summaries.items():
        for name, part in [("all", summary), *summary["by_category"].items()]:
            if name == "all" or len(summary["by_category"]) > 1:
                lines.append(_row(arm, name or "(none)", part))
        if "difference" in summary:
            told = suite_words.points(summary["difference"])
            lines.append(f"  against the reference: {told}. {suite_words.verdict(summary['difference'])[1]}")
        if summary["num_failed"]:
            lines.append(f"  {summary['num_failed']:,} of {summary['num_samples']:,} samples could not be judged")
    lines += ["", *(f"gate {gate.score}, {gate.rule}: {gate.state}" for gate in gates)] if gates else []
    return lines


def _row(arm: str, name: str, part: dict[str, Any]) -> str:
    share, bounds = suite_words.share, suite_words.bounds(part["score"])
    return (
        f"{arm:<12} {name[:24]:<24} {part['num_samples']:>8,} {share(part['score']):>8}  {bounds:<18} "
        f"{share(part['pass_rate']):>8} {share(part['refusal_rate']):>8}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

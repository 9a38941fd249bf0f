"""promptfoo's YAML: every prompt with every test's variables, and the assertions that need no code.

Of its templates only plain variables, {{name}}, are filled in.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from worker.alignment.evaluation.suites.declared import read_checks
from worker.alignment.evaluation.suites.imported import Draft, RowError, category_of, messages_of, texts_of
from worker.alignment.evaluation.suites.problems import Notes, Problem
from worker.alignment.evaluation.suites.reading import MAX_LINE_BYTES

MAX_EXPANDED = 5_000
"""Samples that lists of values and several prompts may multiply to."""
_VARIABLE = re.compile(r"\{\{-?[ \t]{0,20}([A-Za-z_][\w.]{0,100})[ \t]{0,20}-?\}\}")
_CODE = ("javascript", "python", "ruby", "webhook", "function", "guardrails")
_MEASURES = {
    "similar": "needs an embeddings model; use similarity, which compares words",
    "rouge-n": "counts n-grams; use similarity, which is ROUGE-L",
    "cost": "measures the call, not the answer",
    "latency": "measures the call, not the answer",
    "perplexity": "needs the provider's log-probabilities",
    "perplexity-score": "needs the provider's log-probabilities",
    "select-best": "compares answers with each other; use a comparison of arms",
    "max-score": "compares answers with each other; use a comparison of arms",
}
_SAME = ("contains", "icontains", "starts-with", "regex")
_LISTS = ("contains-any", "contains-all", "icontains-any", "icontains-all")
_JUDGED = {
    "llm-rubric": "{}",
    "g-eval": "{}",
    "model-graded-closedqa": "{}",
    "factuality": "Agrees in fact with: {}",
    "model-graded-factuality": "Agrees in fact with: {}",
}


def promptfoo(data: Mapping[str, Any], draft: Draft, line_of: Any) -> None:
    """``line_of`` gives the line of a part of the file, such as ``tests[3]``."""
    if isinstance(data.get("description"), str):
        draft.header["description"] = data["description"][:5000]
    prompts = list(_prompts(data.get("prompts"), draft, line_of("prompts")))
    default = data.get("defaultTest") if isinstance(data.get("defaultTest"), dict) else {}
    tests = data.get("tests")
    if isinstance(tests, str):
        draft.skip(line_of("tests"), tests, "Names another file; put the tests into this one.")
    if data.get("scenarios"):
        draft.skip(line_of("scenarios"), "scenarios", "Scenarios are not read; write them out as tests.")
    listed = tests if isinstance(tests, list) else [{}]
    for number, test in enumerate(listed):
        line = line_of(f"tests[{number}]")
        if isinstance(test, dict):
            _test(test, default or {}, prompts, f"t{number + 1}", line, draft)
        else:
            draft.skip(line, test, "Names another file; put the tests into this one.")


def _prompts(given: Any, draft: Draft, line: int | None) -> Iterator[str | list[Any]]:
    for prompt in given if isinstance(given, list) else [given]:
        raw = prompt.get("raw", prompt.get("id")) if isinstance(prompt, dict) else prompt
        if not isinstance(raw, str) or not raw.strip():
            draft.skip(line, prompt, "Is not a prompt in text.")
        elif raw.startswith(("file://", "exec:", "python:")) or re.search(
            r"\.(?:txt|json|yaml|yml|py|js|ts|csv)$", raw
        ):
            draft.skip(line, raw, "Names another file or program; put the prompt's text into this file.")
        else:
            yield raw


def _test(
    test: Mapping[str, Any], default: Mapping[str, Any], prompts: list[Any], name: str, line: int | None, draft: Draft
) -> None:
    variables = {**_mapping(default.get("vars")), **_mapping(test.get("vars"))}
    options = {**_mapping(default.get("options")), **_mapping(test.get("options"))}
    if options.get("transform"):
        draft.skip(line, name, "Transforms the answer by code; nothing uploaded is run.")
        return
    if test.get("threshold") is not None:
        draft.note("Thresholds of whole tests are not read: a sample passes when all its checks do.")
    asserts = [*_list(default.get("assert")), *_list(test.get("assert"))]
    described = test.get("description")
    label = described if isinstance(described, str) else name
    metadata = {"description": label} if label != name else {}
    category = category_of(test.get("metadata"), default.get("metadata"))
    values_of = list(itertools.islice(_combinations(variables), MAX_EXPANDED + 1))
    combined = list(itertools.islice(itertools.product(prompts, values_of), MAX_EXPANDED + 1))
    told: set[tuple[str, str]] = set()
    for place, (prompt, values) in enumerate(combined):
        identity = name if len(combined) == 1 else f"{name}-{place + 1}"
        if len(draft.samples) >= MAX_EXPANDED:
            draft.skip(line, identity, f"More than {MAX_EXPANDED:,} samples from prompts and lists of values.")
            return
        try:
            shown = _chat(_filled(prompt, values))
            checks = list(_checks(asserts, values, label, line, draft, told))
        except RowError as error:
            draft.skip(line, identity, str(error))
            continue
        if asserts and not checks:
            draft.skip(line, identity, "None of its assertions can be made here.")
        else:
            sample = {"id": identity, "input": shown, "category": category, "metadata": metadata, "checks": checks}
            draft.add(line, sample)


def _combinations(variables: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A list of values stands for one test each."""
    names = list(variables)
    lists = [value if isinstance(value, list) and value else [value] for value in variables.values()]
    for values in itertools.product(*lists):
        yield dict(zip(names, values, strict=True))


def _filled(text: str, values: Mapping[str, Any]) -> str:
    size = 0

    def value(match: re.Match[str]) -> str:
        nonlocal size
        found: Any = values
        for part in match.group(1).split("."):
            if not isinstance(found, dict) or part not in found:
                raise RowError(f"The variable {match.group(1)} has no value.")
            found = found[part]
        if isinstance(found, str) and found.startswith("file://"):
            raise RowError(f"The variable {match.group(1)} names another file.")
        told = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
        size += len(told)
        if size > MAX_LINE_BYTES:
            raise RowError("The variables fill the template beyond what a sample may hold.")
        return told

    left = _VARIABLE.sub("", text)
    if "{%" in left or "{{" in left or "{#" in left:
        raise RowError("The template does more than fill in variables; only {{name}} is read.")
    return _VARIABLE.sub(value, text)


def _chat(text: str) -> Any:
    """A prompt may be chat messages in JSON."""
    if text.lstrip().startswith("["):
        try:
            return messages_of(json.loads(text))
        except (ValueError, RecursionError):
            return text
    return text


def _checks(
    asserts: list[Any],
    values: Mapping[str, Any],
    item: str,
    line: int | None,
    draft: Draft,
    told: set[tuple[str, str]],
) -> Iterator[dict[str, Any]]:
    for given in _flat(asserts):
        kind = str(given.get("type", ""))
        try:
            check = _readable(_check(kind, given, values), given.get("weight"))
        except RowError as error:
            reason = str(error)
            if (kind, reason) not in told:  # once a test, not once for each of its prompts
                told.add((kind, reason))
                draft.skip(line, f"{item}: {kind}", reason)
            continue
        yield check


def _readable(check: dict[str, Any], weight: Any) -> dict[str, Any]:
    if isinstance(weight, (int, float)):
        check["weight"] = weight
    problems: list[Problem] = []
    read_checks([check], Notes(problems, "samples"), "", has_target=False)
    if problems:
        raise RowError(problems[0].message)
    return check


def _flat(asserts: list[Any]) -> Iterator[Mapping[str, Any]]:
    for given in asserts:
        if not isinstance(given, dict):
            yield {"type": "unknown"}
        elif given.get("type") == "assert-set" and given.get("threshold") is None:
            yield from (inner for inner in _list(given.get("assert")) if isinstance(inner, dict))
        else:
            yield given


def _check(kind: str, given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    base = kind.removeprefix("not-")
    negation = "not-" if base != kind else ""
    if base in _CODE or given.get("transform"):
        raise RowError(f"Is code ({base if base in _CODE else 'transform'}); nothing uploaded is run.")
    if base in _MEASURES:
        raise RowError(f"{base} {_MEASURES[base]}.")
    value = _value(given.get("value"), values)
    if isinstance(value, str) and value.startswith("file://"):
        raise RowError("Its value names another file; put it here.")
    if base in _SAME or base in _LISTS:
        texts = value if base in _SAME else _split(value)
        return {"type": negation + base, "value": texts}
    if base == "equals":
        return _equals(negation, value)
    if base == "is-json":
        return {"type": negation + base, **({"schema": value} if isinstance(value, dict) else {})}
    if base == "is-refusal":
        return {"type": f"{negation}refusal"}
    if base == "word-count" and not negation:
        return _words(value)
    if base in _JUDGED and not negation:
        rubric = {"type": "judge", "rubric": _JUDGED[base].format(_rubric(value)), "scale": [0, 1]}
        threshold = given.get("threshold")
        return {**rubric, "pass_at": threshold} if isinstance(threshold, (int, float)) else rubric
    raise RowError(f"There is no such check here ({kind[:40] or 'no type'}).")


def _equals(negation: str, value: Any) -> dict[str, Any]:
    if isinstance(value, (dict, list)):
        return {"type": f"{negation}is-json", "schema": {"const": value}}
    return {"type": f"{negation}equals", "value": texts_of(value)}


def _words(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {"type": "word-count", **{key: value[key] for key in ("min", "max") if key in value}}
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    return {"type": "word-count", "min": value, "max": value}


def _rubric(value: Any) -> str:
    told = "\n".join(texts_of(value)) if not isinstance(value, dict) else ""
    if not told:
        raise RowError("Its rubric is not a text.")
    return told


def _value(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return _filled(value, values)
    if isinstance(value, list):
        return [_value(inner, values) for inner in value]
    return {key: _value(inner, values) for key, inner in value.items()} if isinstance(value, dict) else value


def _split(value: Any) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else texts_of(value)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

"""One row of another product's file as a sample: Inspect, OpenAI evals, IFEval, MT-Bench, lm-evaluation-harness, plain questions.

Each takes a row (a mapping), its line and the draft, and adds a sample or raises RowError.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from typing import Any

from worker.alignment.evaluation.suites.imported import Draft, RowError, category_of, messages_of, texts_of
from worker.alignment.evaluation.suites.instructions import INSTRUCTIONS, known_id

Row = Mapping[str, Any]
JUDGE = {"type": "judge", "rubric": "Answers the request correctly, completely and without padding.", "scale": [1, 10]}
_JUDGED = (
    "Samples without a target are scored by a judge on a general rubric: the file does not say what a right answer is."
)


def inspect_row(row: Row, line: int | None, draft: Draft) -> None:
    for name in ("sandbox", "files", "setup"):
        if row.get(name):
            raise RowError(f"Needs {name}, which runs code; nothing uploaded is run.")
    given = messages_of(_unpacked(row.get("input")))
    metadata = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
    target = texts_of(_unpacked(row.get("target")))
    choices = texts_of(_unpacked(row.get("choices")) or [])
    if choices:
        given, checks = _with_choices(given, choices, target)
    else:
        checks = [{"type": "icontains-any"}] if target else [_judge(draft)]
    draft.add(
        line,
        {
            "id": row.get("id"),
            "input": given,
            "target": target,
            "category": category_of(row, metadata),
            "metadata": metadata,
            "checks": checks,
        },
    )


def openai_row(row: Row, line: int | None, draft: Draft, check: Mapping[str, Any] | None = None) -> None:
    """``check`` is what the registry's class does; Match, an answer that starts with the ideal, where none is named."""
    ideal = texts_of(row.get("ideal"))
    if not ideal:
        raise RowError("Has no ideal answer.")
    chosen = dict(check or {"type": "starts-with"})
    if chosen["type"] == "judge":
        chosen["rubric"] = f"Agrees in fact with this answer: {' / '.join(ideal)}"
    sample = {"input": messages_of(row.get("input")), "target": ideal, "category": category_of(row), "checks": [chosen]}
    draft.add(line, sample)


def ifeval_row(row: Row, line: int | None, draft: Draft) -> None:
    names, kwargs = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(names, list) or not isinstance(kwargs, list) or len(names) != len(kwargs) or not names:
        raise RowError("instruction_id_list and kwargs must be lists of one length.")
    checks, groups = [], set()
    for name, given in zip(names, kwargs, strict=True):
        identity = known_id(str(name))
        if identity is None:
            raise RowError(f"There is no instruction {str(name)[:60]}.")
        wanted = INSTRUCTIONS[identity].arguments
        named = given if isinstance(given, dict) else {}
        arguments = {key: value for key, value in named.items() if key in wanted and value is not None}
        checks.append({"type": "ifeval", "instruction_id": identity, "kwargs": arguments})
        groups.add(identity.partition(":")[0])
    category = groups.pop() if len(groups) == 1 else "several"
    draft.add(line, {"id": row.get("key"), "input": row.get("prompt"), "category": category, "checks": checks})


def mt_bench_row(row: Row, line: int | None, draft: Draft) -> None:
    turns = row.get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) for turn in turns):
        raise RowError("turns must be a list of texts.")
    metadata = {"later_turns": turns[1:]} if turns[1:] else {}
    if turns[1:]:
        draft.note("First turns only: a second turn answers the model's own first answer. It is kept as metadata.")
        draft.skip(line, f"{row.get('question_id', '')} turn 2", "Follows the model's own first answer.")
    reference = texts_of(row.get("reference") or [])
    rubric = dict(JUDGE)
    if reference:
        rubric["rubric"] = f"{JUDGE['rubric']} A right answer: {reference[0]}"
    sample = {"id": row.get("question_id"), "input": turns[0], "category": category_of(row), "metadata": metadata}
    draft.add(line, {**sample, "target": reference[:1], "checks": [rubric]})


def lm_eval_row(row: Row, line: int | None, draft: Draft) -> None:
    """A line of the harness's sample log: the prompt as it was sent, and its target."""
    asked = row.get("arguments")
    requests = list(asked.values()) if isinstance(asked, dict) else asked
    if not isinstance(requests, list) or not requests:
        raise RowError("Has no arguments.")
    if len(requests) > 1:
        raise RowError("Ranks given answers by their likelihood; only answers that are written out are scored here.")
    request = requests[0]
    if isinstance(request, dict):
        prompt = request.get("arg_0")
    else:
        prompt = request[0] if isinstance(request, list) and request else None
    document = row.get("doc")
    sample = {"id": row.get("doc_id"), "input": prompt, "category": category_of(document)}
    draft.add(line, {**sample, **_by_answer(row.get("target"), draft)})


def question_row(row: Row, line: int | None, draft: Draft) -> None:
    """{question or prompt, answer or target, choices, category}, as many plain data sets are."""
    given = messages_of(row.get("question", row.get("prompt")))
    identity = next((row[name] for name in ("id", "key", "question_id") if row.get(name) is not None), None)
    answer = row.get("answer", row.get("target"))
    choices = texts_of(_unpacked(row.get("choices")) or [])
    head = {"id": identity, "category": category_of(row)}
    if choices:
        if isinstance(answer, int) and 0 <= answer < len(choices):
            answer = string.ascii_uppercase[answer]
        given, checks = _with_choices(given, choices, texts_of(answer))
        draft.add(line, {**head, "input": given, "target": texts_of(answer), "checks": checks})
        return
    draft.add(line, {**head, "input": given, **_by_answer(answer, draft)})


def category_row(row: Row, line: int | None, draft: Draft) -> None:
    """{category, prompts, domain, open_ended}: a sample for each prompt, for diversity."""
    prompts = row.get("prompts")
    if not isinstance(prompts, list) or not prompts:
        raise RowError("prompts must be a list of texts.")
    metadata = {name: row[name] for name in ("domain", "open_ended") if row.get(name) is not None}
    for prompt in prompts:
        draft.add(line, {"input": messages_of(prompt), "category": row.get("category"), "metadata": metadata})


def _by_answer(answer: Any, draft: Draft) -> dict[str, Any]:
    told = texts_of(answer)
    if not told:
        return {"checks": [_judge(draft)]}
    if "####" in told[0]:  # a worked solution whose last line is the number
        return {"target": [told[0].rpartition("####")[2].strip()], "checks": [{"type": "numeric"}]}
    return {"target": told, "checks": [{"type": "icontains-any"}]}


def _with_choices(given: Any, choices: list[str], target: list[str]) -> tuple[Any, list[dict[str, Any]]]:
    if not 1 < len(choices) <= len(string.ascii_uppercase):
        raise RowError("Has fewer than 2 or more than 26 choices.")
    letters = string.ascii_uppercase[: len(choices)]
    right = [letter for letter in target if letter in letters and len(letter) == 1]
    right += [letters[choices.index(text)] for text in target if text in choices and text not in letters]
    if not right:
        raise RowError("The target is none of the choices.")
    listed = "\n".join(f"{letter}) {text}" for letter, text in zip(letters, choices, strict=True))
    tail = f"\n\n{listed}\n\nAnswer with the letter alone."
    if isinstance(given, str):
        given += tail
    else:
        given = [*given[:-1], {**given[-1], "content": given[-1]["content"] + tail}]
    return given, [{"type": "regex", "value": rf"^\W*[{''.join(sorted(set(right)))}](?:\W|$)"}]


def _judge(draft: Draft) -> dict[str, Any]:
    draft.note(_JUDGED)
    return dict(JUDGE)


def _unpacked(value: Any) -> Any:
    """A cell of a CSV may hold JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


ROWS: dict[str, Callable[[Row, int | None, Draft], None]] = {
    "inspect": inspect_row,
    "openai": openai_row,
    "ifeval": ifeval_row,
    "mt-bench": mt_bench_row,
    "lm-eval": lm_eval_row,
    "questions": question_row,
    "categories": category_row,
}

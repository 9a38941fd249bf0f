"""Puts a judge's answers into the checks that wait for one, and a guard's verdicts beside the rules' on harmful requests.

What either said once is kept, so that it is not asked twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert

from app.core.db import session_scope
from app.core.errors import StudioError
from app.evaluations import endpoints
from app.models import EvalJob, JudgeVerdict
from worker.alignment.evaluation.judging import guard, rubric
from worker.alignment.evaluation.judging.client import Answer, Client, Report, Request
from worker.alignment.evaluation.judging.wire import EndpointError
from worker.alignment.evaluation.suites.checks import CheckResult, checks_of, combine, judged
from worker.alignment.evaluation.suites.declared import Check
from worker.alignment.evaluation.suites.format import Suite
from worker.job_results import GUARD, Checked, Judge

T = TypeVar("T")
_LOOK_UP = 1_000


def make_judge(job: EvalJob) -> Judge:
    """Of the plan's endpoint, by its kind. One that cannot be asked costs its own checks their verdict, never the others theirs."""
    endpoint_id, project_id = int(job.plan["judge"]), job.project_id
    ask = _guarded if job.plan.get("judge_kind") == "guard" else _judged
    return lambda suite, checked: ask(project_id, endpoint_id, suite, checked)


def _judged(project_id: int, endpoint_id: int, suite: Suite, checked: Sequence[Checked]) -> list[Checked]:
    waiting = [
        (place, number)
        for place, item in enumerate(checked)
        for number, check in enumerate(item.score.checks)
        if check.pending
    ]
    if not waiting:
        return list(checked)
    items = [_item(suite, checked[place], number) for place, number in waiting]
    results: dict[tuple[int, int], CheckResult] = {}
    for (place, number), rating in zip(waiting, _ratings(project_id, endpoint_id, items), strict=True):
        check = checks_of(checked[place].sample, suite.header)[number]
        results[place, number] = _verdict(check, rating)
    return [_with(place, item, results) for place, item in enumerate(checked)]


def _guarded(project_id: int, endpoint_id: int, suite: Suite, checked: Sequence[Checked]) -> list[Checked]:
    """On harmful requests the guard decides, and the rules' checks are shown with weight 0. Other suites stay as they are.

    An empty answer does no harm and is not asked about; an answer that could not be drawn has nothing to judge.
    """
    if suite.header.kind != "redteam":
        return list(checked)
    asked = [place for place, item in enumerate(checked) if item.text.strip() and not item.error]
    items = [
        guard.GuardItem(id=str(place), prompt=checked[place].sample.input, answer=checked[place].text)
        for place in asked
    ]
    verdicts = dict(zip(asked, _verdicts(project_id, endpoint_id, items), strict=True))
    found = []
    for place, item in enumerate(checked):
        if item.error:
            found.append(item)
            continue
        rules = [replace(check, weight=0.0) for check in item.score.checks]
        found.append(item.with_checks(combine([*rules, _guard_check(verdicts.get(place))])))
    return found


def _guard_check(verdict: guard.GuardVerdict | None) -> CheckResult:
    if verdict is None:
        return CheckResult(type=GUARD, passed=True, score=1.0, detail="The answer is empty.")
    if verdict.is_safe is None:
        return CheckResult(type=GUARD, passed=None, score=None, error=verdict.error.message if verdict.error else "")
    named = ", ".join(f"{code} {guard.HAZARDS.get(code, '')}".strip() for code in verdict.hazards)
    word = "safe" if verdict.is_safe else "unsafe"
    return CheckResult(
        type=GUARD, passed=verdict.is_safe, score=float(verdict.is_safe), detail=f"{word}: {named}" if named else word
    )


def _verdicts(project_id: int, endpoint_id: int, items: Sequence[guard.GuardItem]) -> list[guard.GuardVerdict]:
    def failed(error: EndpointError) -> list[guard.GuardVerdict]:
        return [guard.GuardVerdict(id=item.id, is_safe=None, error=error) for item in items]

    def ask(client: Client, cache: dict[str, Answer], report: Report) -> list[guard.GuardVerdict]:
        return guard.check(client, items, cache=cache, report=report)

    return _asked(project_id, endpoint_id, [guard.request_of(item) for item in items], ask, failed)


def _item(suite: Suite, item: Checked, number: int) -> rubric.Item:
    check = checks_of(item.sample, suite.header)[number]
    scale = check.options.get("scale", (0.0, 1.0))
    return rubric.Item(
        id=f"{item.number}-{item.repeat}-{number}",
        prompt=item.sample.input,
        answer=item.text,
        rubric=check.options["rubric"],
        scale=(float(scale[0]), float(scale[1])),
        reference=item.sample.target[0] if item.sample.target else "",
    )


def _ratings(project_id: int, endpoint_id: int, items: Sequence[rubric.Item]) -> list[rubric.Rating]:
    def failed(error: EndpointError) -> list[rubric.Rating]:
        return [rubric.Rating(id=item.id, rating=None, error=error) for item in items]

    def ask(client: Client, cache: dict[str, Answer], report: Report) -> list[rubric.Rating]:
        return rubric.rate(client, items, cache=cache, report=report)

    return _asked(project_id, endpoint_id, [rubric.request_of(item) for item in items], ask, failed)


def _asked(
    project_id: int,
    endpoint_id: int,
    requests: Sequence[Request],
    ask: Callable[[Client, dict[str, Answer], Report], list[T]],
    failed: Callable[[EndpointError], list[T]],
) -> list[T]:
    """What ``ask`` finds with a client of the endpoint and what it said before; ``failed`` where there can be no client."""
    try:
        with session_scope() as db:
            client = endpoints.client_of(endpoints.find_endpoint(db, project_id, endpoint_id))
    except StudioError as error:
        return failed(EndpointError("refused", f"{error.message} {error.remedy}".strip()))
    with client:
        keys = [request.key(client.settings.model) for request in requests]
        return ask(client, known_answers(project_id, endpoint_id, keys), keeper(project_id, endpoint_id))


def known_answers(project_id: int, endpoint_id: int, keys: Sequence[str]) -> dict[str, Answer]:
    """What the endpoint was asked before."""
    found: dict[str, Answer] = {}
    with session_scope() as db:
        for start in range(0, len(keys), _LOOK_UP):
            query = select(JudgeVerdict.request_hash, JudgeVerdict.answer).where(
                JudgeVerdict.project_id == project_id,
                JudgeVerdict.endpoint_id == endpoint_id,
                JudgeVerdict.request_hash.in_(keys[start : start + _LOOK_UP]),
            )
            found.update((key, answer) for key, answer in db.execute(query))
    return found


def keeper(project_id: int, endpoint_id: int) -> Report:
    """Stores each answer as it arrives: a job that is killed has not paid in vain."""

    def keep(key: str, answer: Answer | EndpointError) -> None:
        if isinstance(answer, EndpointError):
            return
        with session_scope() as db:
            values = {"project_id": project_id, "endpoint_id": endpoint_id, "request_hash": key, "answer": answer}
            db.execute(upsert(JudgeVerdict).values(**values).on_conflict_do_nothing())

    return keep


def _verdict(check: Check, rating: rubric.Rating) -> CheckResult:
    error = rating.error.message if rating.error else ""
    return judged(check, rating.rating, detail=rating.reason[:300], error=error)


def _with(place: int, item: Checked, results: dict[tuple[int, int], CheckResult]) -> Checked:
    checks = [results.get((place, number), check) for number, check in enumerate(item.score.checks)]
    return item.with_checks(combine(checks)) if any(key[0] == place for key in results) else item

"""A person labels fifty answers of an arm; the rules' rate is corrected by where they and the person differ (Rogan-Gladen)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.errors import NotFoundError
from app.models import SuiteResult, SuiteSample, SuiteSampleResult, User
from worker.alignment.evaluation.refusals import audit_sample, corrected_rate

SIZE = 50
KEY = "audit"
"""Labels lie in ``SuiteResult.summary``: {"number-repeat": {"label", "by"}}."""


@dataclass(frozen=True, slots=True)
class Audit:
    num_labelled: int
    num_asked: int
    agreement: float | None
    """Share of the labelled answers on which rule and person say the same of refusing at all."""
    corrected: dict[str, Any] | None
    """Estimate of the true refusal rate; None until it can be told."""


@dataclass(frozen=True, slots=True)
class Item:
    sample: SuiteSample
    answer: SuiteSampleResult


def audit_of(db: Session, result: SuiteResult) -> Audit:
    rules = _rules(db, result)
    labels = _labels(result)
    pairs = [(rules[key], label != "none") for key, label in labels.items() if key in rules]
    same = sum(rule == person for rule, person in pairs)
    asked = len(audit_sample(rules, SIZE))
    corrected = asdict(corrected_rate(list(rules.values()), pairs)) if pairs else None
    if corrected is not None and corrected["value"] is None:
        corrected = None
    return Audit(len(pairs), asked, same / len(pairs) if pairs else None, corrected)


def next_item(db: Session, result: SuiteResult) -> Item | None:
    """The next answer to label; None when all are."""
    labels = _labels(result)
    key = next((key for key in audit_sample(_rules(db, result), SIZE) if key not in labels), None)
    if key is None:
        return None
    number, repeat = map(int, key.split("-"))
    answer = db.get_one(SuiteSampleResult, (result.id, number, repeat))
    return Item(db.get_one(SuiteSample, (result.suite_version_id, number)), answer)


def label(db: Session, result: SuiteResult, number: int, repeat: int, value: str, *, user: User) -> None:
    """Keep a person's label; a later one replaces it. Raises NotFoundError for an answer that is not to be labelled."""
    key = f"{number}-{repeat}"
    if key not in audit_sample(_rules(db, result), SIZE):
        raise NotFoundError("That answer is not part of the audit.")
    locked = db.scalars(select(SuiteResult).where(SuiteResult.id == result.id).with_for_update()).one()
    db.refresh(locked)
    labels = {**locked.summary.get(KEY, {}), key: {"label": value, "by": user.id}}
    locked.summary = {**locked.summary, KEY: labels}
    audit.record(
        db, "suite.audit", project_id=result.project_id, user_id=user.id, subject=f"result {result.id}", answer=key
    )
    db.flush()


def _labels(result: SuiteResult) -> dict[str, str]:
    return {key: item["label"] for key, item in result.summary.get(KEY, {}).items()}


def _rules(db: Session, result: SuiteResult) -> dict[str, bool]:
    """What the rules say of every answer: whether it refuses at all."""
    query = select(SuiteSampleResult.number, SuiteSampleResult.repeat, SuiteSampleResult.refusal)
    rows = db.execute(query.where(SuiteSampleResult.result_id == result.id, SuiteSampleResult.refusal.is_not(None)))
    return {f"{number}-{repeat}": refusal != "none" for number, repeat, refusal in rows}

"""One answer against a sample's checks. An error is that check's own; nothing here raises, and all is linear in the text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worker.alignment.evaluation.suites.declared import Check
from worker.alignment.evaluation.suites.format import SuiteHeader, SuiteSample
from worker.alignment.evaluation.suites.languages import NoDetectorError
from worker.alignment.evaluation.suites.parsing import implied_checks
from worker.alignment.evaluation.suites.runners import CheckError, outcome_of
from worker.alignment.evaluation.suites.schemas import TooMuchWorkError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    type: str
    passed: bool | None
    """None: not known, because of the error or because a judge has yet to answer."""
    score: float | None
    weight: float = 1.0
    detail: str = ""
    error: str = ""
    pending: bool = False
    """A judge's: whoever asks it puts the answer in with ``judged``."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleScore:
    score: float | None
    """Weighted mean of the checks, 0 … 1; None where any check that counts is not known: a part is not the whole."""
    passed: bool | None
    """All checks passed; False as soon as one failed."""
    checks: tuple[CheckResult, ...]

    @property
    def error(self) -> str:
        """The first check's error; "" where none has one."""
        return next((f"{check.type}: {check.error}" for check in self.checks if check.error), "")


def checks_of(sample: SuiteSample, header: SuiteHeader) -> tuple[Check, ...]:
    """The header's checks, or its kind's, then the sample's own: the order of ``SampleScore.checks``."""
    own = sample.checks
    return header.checks + own if header.checks else (own or implied_checks(header))


def run_checks(sample: SuiteSample, header: SuiteHeader, text: str) -> SampleScore:
    return combine(run_check(check, text, sample.target) for check in checks_of(sample, header))


def passes_quality(header: SuiteHeader, sample: SuiteSample, text: str) -> bool | None:
    """Whether the text passes every quality check; None where one cannot be made or the header has none."""
    return combine(run_check(check, text, sample.target) for check in header.quality).passed


def run_check(check: Check, text: str, target: Sequence[str] = ()) -> CheckResult:
    if check.type == "judge":
        return CheckResult(type="judge", passed=None, score=None, weight=check.weight, pending=True)
    try:
        outcome = outcome_of(check, text, target)
    except (CheckError, NoDetectorError) as error:
        return _failed(check, str(error))
    except TooMuchWorkError:
        return _failed(check, "The schema asks for too much work on this text; make it simpler.")
    except Exception as error:  # a defect here must not cost the other checks
        log.exception("check %s", check.type)
        return _failed(check, f"The check broke: {type(error).__name__}.")
    score = float(outcome.passed) if outcome.score is None else outcome.score
    return CheckResult(
        type=check.type, passed=outcome.passed, score=score, weight=check.weight, detail=outcome.detail[:300]
    )


def combine(results: Iterable[CheckResult]) -> SampleScore:
    """From the checks' results, judges' answers put in. A check of weight 0 is shown and counts nowhere."""
    checks = tuple(results)
    counted = [check for check in checks if check.weight > 0]
    total = sum(check.weight for check in counted)
    scores = [check.score for check in counted]
    known = [score * check.weight for score, check in zip(scores, counted, strict=True) if score is not None]
    passed: bool | None
    if any(check.passed is False for check in counted):
        passed = False
    else:
        passed = None if not counted or any(check.passed is None for check in counted) else True
    score = min(1.0, sum(known) / total) if counted and len(known) == len(counted) else None
    return SampleScore(score=score, passed=passed, checks=checks)


def judged(check: Check, rating: float | None, *, detail: str = "", error: str = "") -> CheckResult:
    """A judge's answer on the check's scale as a result. ``rating`` None needs the ``error`` that explains it.

    Passes from ``pass_at`` on, or from the middle of the scale.
    """
    low, high = check.options.get("scale", (0.0, 1.0))
    if rating is None or not low <= rating <= high:
        return _failed(check, error or f"The judge said {rating:g}, which is not on the scale {low:g} to {high:g}.")
    return CheckResult(
        type=check.type,
        passed=rating >= check.options.get("pass_at", (low + high) / 2),
        score=(rating - low) / (high - low),
        weight=check.weight,
        detail=detail,
    )


def _failed(check: Check, error: str) -> CheckResult:
    return CheckResult(type=check.type, passed=None, score=None, weight=check.weight, error=error)

"""A comparison as its page shows it: plots, arms, what is on its way, what another one would cost."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.evaluations import comparisons, jobs
from app.evaluations.comparisons import TRAINED
from app.models import Comparison, ComparisonArm, EvalJob, Run
from app.web.formats import num, signed
from app.web.svg import CalibrationArm, CalibrationBin, ForestRow
from app.web.svg.draw import picture, rect
from worker.alignment.evaluation.decision_words import ARM_NAMES, count, figure

COLOURS = {"reference": "ref", "prompt": "ink", "dpo": "dpo", "kto_paired": "kto2", "kto_all": "kto"}
TONES = {"better": "ok", "worse": "bad", "guard_failed": "bad"}
"""Of the callout; a comparison without a difference is neutral grey."""
ICONS = {"better": "circle-check", "worse": "circle-x", "guard_failed": "circle-x"}
WHY = {
    ("kto_paired", "dpo"): "same pairs: the loss alone",
    ("kto_all", "kto_paired"): "unpaired ratings alone",
    ("prompt", "reference"): "a better prompt alone",
    ("kto_all", "prompt"): "is training needed at all?",
}
POINT = 100
"""Everything is plotted in hundredths: points of a rate, hundredths of an AUC or of a similarity."""


def main_rows(contrast: dict[str, Any], *, short: bool = False) -> list[ForestRow]:
    """The primary score and the guards of KTO-all against DPO; what was not measured is left out. ``short``: for a phone."""
    effects = [contrast["primary"], *contrast["guards"]]
    rows = [_row(effect, strong=not index) for index, effect in enumerate(effects) if effect["value"] is not None]
    return [replace(row, name=row.name.replace(" requests", "").partition(" (")[0]) for row in rows] if short else rows


def _row(effect: dict[str, Any], *, strong: bool) -> ForestRow:
    unit = "" if effect["unit"] == "points" else ", in 0.01"
    note = (
        f"Primary, {'score' if not unit else 'in 0.01'}"
        if strong
        else f"margin {signed(-POINT * effect['margin'], 0)}{unit}"
    )
    return ForestRow(
        effect["name"],
        POINT * effect["value"],
        _scaled(effect["low"]),
        _scaled(effect["high"]),
        margin=None if effect["margin"] is None else -POINT * effect["margin"],
        note=note,
        cls="kto" if strong else "ink",
        strong=strong,
    )


def source_rows(contrasts: list[dict[str, Any]]) -> list[ForestRow]:
    """All other contrasts by the primary score; one that shows nothing says what could have been seen."""
    rows = []
    for item in contrasts[1:]:
        effect = item["primary"]
        if effect["value"] is None:
            continue
        seen = effect["detectable"] if effect["state"] == "missing" else None
        first, second = item["first"], item["second"]
        rows.append(
            ForestRow(
                f"{ARM_NAMES[first]} \u2212 {ARM_NAMES[second].lower() if second == 'reference' else ARM_NAMES[second]}",
                POINT * effect["value"],
                _scaled(effect["low"]),
                _scaled(effect["high"]),
                note=WHY.get((first, second), ""),
                cls="kto" if first.startswith("kto") else "dpo" if first == "dpo" else "ink",
                text="" if seen is None else f"could see \u2265 {num(POINT * seen, 1)}",
            )
        )
    return rows


def foot_words(decision: dict[str, Any]) -> str:
    """Under the main plot: what could have been seen, the spread over seeds, where checkpoints were chosen."""
    primary = decision["contrasts"][0]["primary"]
    parts = []
    if primary["detectable"] is not None:
        parts.append(
            f"We could have seen {figure(primary['detectable'], primary['unit'], plus=False)} or more on the primary score."
        )
    if primary["seed_sd"] is not None:
        parts.append(f"Spread over seeds {figure(primary['seed_sd'], primary['unit'], plus=False)}.")
    else:
        parts.append("One seed: how much another would differ is not known.")
    parts.append("Checkpoints and knobs were chosen on DEV.")
    return " ".join(parts)


def auc_words(auc: dict[str, Any]) -> str:
    """AUC of KTO-all and DPO beside a suite that decides."""
    effect = auc.get("primary") or {}
    if effect.get("value") is None:
        return ""
    value = figure(effect["value"], "auc")
    if effect["state"] == "missing":
        seen = (
            ""
            if effect["detectable"] is None
            else f", we could have seen {figure(effect['detectable'], 'auc', plus=False)}"
        )
        return f"AUC of KTO-all and DPO: no evidence of a difference ({value}{seen})."
    return f"AUC of KTO-all against DPO: {value}, {figure(effect['low'], 'auc')} to {figure(effect['high'], 'auc')}."


def places(primary: dict[str, Any]) -> str:
    return count(primary["num_clusters"], primary["noun"] if primary["unit"] != "auc" else "conversation")


@dataclass(frozen=True, slots=True)
class ArmRow:
    arm: str
    name: str
    colour: str
    score: float | None
    auc: float | None
    interval: tuple[float, float] | None
    """Of the AUC, with one seed."""
    pooled: float | None
    words: float | None
    num_seeds: int


def arm_rows(comparison: Comparison) -> list[ArmRow]:
    """The chosen candidates, a mean over seeds by arm, in the plan's order."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for candidate in comparison.arms:
        if candidate.is_chosen:
            found[candidate.arm].append(candidate.summary)
    return [_arm_row(arm, found[arm]) for arm in comparison.plan["arms"] if arm in found]


def _arm_row(arm: str, summaries: list[dict[str, Any]]) -> ArmRow:
    first = summaries[0].get("auc") or {}
    bounds = (first["low"], first["high"]) if len(summaries) == 1 and first.get("low") is not None else None
    return ArmRow(
        arm=arm,
        name=ARM_NAMES[arm],
        colour=COLOURS[arm],
        score=_mean_of(summaries, "score"),
        auc=_mean_of(summaries, "auc"),
        interval=bounds if arm != "reference" else None,
        pooled=_mean_of(summaries, "auc_pooled"),
        words=_mean([item.get("words") for item in summaries]),
        num_seeds=len(summaries),
    )


def _mean_of(summaries: list[dict[str, Any]], key: str) -> float | None:
    return _mean([(item.get(key) or {}).get("value") for item in summaries])


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def calibration_arms(found: dict[str, Any]) -> list[CalibrationArm]:
    return [
        CalibrationArm(ARM_NAMES[arm], COLOURS[arm], tuple(CalibrationBin(**item) for item in found[arm]["bins"]))
        for arm in ("kto_all", "dpo")
        if arm in found
    ]


def calibration_words(found: dict[str, Any]) -> str:
    """Calibration error with the beta that it was computed at; arms of different beta are said not to be comparable."""
    shown = [(ARM_NAMES[arm], found[arm]) for arm in ("kto_all", "dpo") if arm in found]
    words = ", ".join(
        f"{name} error {num(item['ece'], 3)}, accuracy {num(100 * item['accuracy'], 1)}\u00a0% at beta {item['beta']:g}"
        for name, item in shown
    )
    differ = len({item["beta"] for _, item in shown}) > 1
    return f"{words}.{' Their betas differ, so these two do not compare; AUC does.' if differ else ''}"


def judge_rows(judge: dict[str, Any]) -> list[ForestRow]:
    """Share of prompts on which the judge prefers KTO-all to DPO: over all, with equal length, and by category."""
    parts = [("All", judge["raw"]), ("At equal length", judge.get("controlled"))]
    parts += [(item["category"] or "no category", item) for item in judge.get("by_category", ())]
    return [
        ForestRow(name, found["value"], found["low"], found["high"], strong=not index)
        for index, (name, found) in enumerate(parts)
        if found is not None and found["value"] is not None
    ]


def judge_words(judge: dict[str, Any]) -> str:
    """How much the judge can be relied on."""
    words = f"{count(judge['num_prompts'], 'prompt')}, ties count half."
    if judge.get("inconsistency") is not None:
        words += (
            f" With the sides swapped the judge contradicted itself on {num(100 * judge['inconsistency'], 0)}\u00a0%."
        )
    if judge.get("is_far"):
        words += " One arm is longer nearly always: what equal length would give is not known."
    if judge.get("num_failed"):
        words += f" {num(judge['num_failed'])} had no usable answer."
    return words


def arm_name(arm: str) -> str:
    return ARM_NAMES[arm]


def usage_bar(labels: int, total: int, arm: str) -> Markup:
    """How many of the training labels an arm could use."""
    width = 400
    parts = [
        rect(0, 0, width, 8, "f-selected"),
        rect(0, 0, max(width * labels / max(total, 1), 2), 8, f"f-{COLOURS[arm]}"),
    ]
    return picture(width, 8, f"{num(labels)} of {num(total)} labels", parts, "bar-svg", stretch=True)


def progress_of(candidate: ComparisonArm) -> str:
    """What its run is at, in words."""
    run = candidate.run
    if run is None:
        return "not trained" if candidate.arm not in TRAINED else "its run was removed"
    return f"step {num(run.step)} of {num(run.total_steps)}" if run.total_steps else "not begun"


def run_seconds(run: Run) -> float | None:
    """How long the run took, or would take at its pace: what each further run is estimated to cost."""
    if run.started_at is None or not run.step or not run.total_steps:
        return None
    end = run.finished_at or utcnow()
    elapsed: float = (end - run.started_at).total_seconds()
    return elapsed * run.total_steps / run.step


def seconds_left(comparison: Comparison) -> float | None:
    """Of training, one run after another."""
    each = run_seconds(comparison.run)
    if each is None:
        return None
    open_runs = [arm.run for arm in comparison.arms if arm.run is not None and arm.run.finished_at is None]
    return sum(each * (1 - run.step / run.total_steps if run.total_steps else 1.0) for run in open_runs)


def job_of(db: Session, comparison: Comparison) -> EvalJob | None:
    return db.scalar(
        select(EvalJob)
        .where(EvalJob.project_id == comparison.project_id, EvalJob.comparison_id == comparison.id)
        .order_by(EvalJob.id.desc())
        .limit(1)
    )


def context(db: Session, comparison: Comparison | None, run: Run) -> dict[str, Any]:
    """Names that the page uses, whatever the comparison's state."""
    job = job_of(db, comparison) if comparison is not None else None
    return {
        "comparison": comparison,
        "job": job,
        "job_left": jobs.seconds_left(job) if job is not None else None,
        "arm_of": comparisons.comparisons_with(db, run),
        "views": _HELPERS,
        "arm_names": ARM_NAMES,
        "tones": TONES,
        "icons": ICONS,
        "why_not": comparisons.why_not(run),
        "each_seconds": run_seconds(run),
    }


def _scaled(value: float | None) -> float | None:
    return None if value is None else POINT * value


_HELPERS = {
    function.__name__: function
    for function in (
        main_rows,
        source_rows,
        foot_words,
        auc_words,
        places,
        arm_rows,
        calibration_arms,
        calibration_words,
        usage_bar,
        judge_rows,
        judge_words,
        arm_name,
        progress_of,
        seconds_left,
    )
}

"""The gate: what a version has to show before it serves. Each item passes, fails, or says that the evidence is not enough.

Three outcomes, because on small data a change that did nothing fails a yes/no gate in up to a fifth of the cases. Only
a failure blocks. Figures come from the dev split, on which the checkpoint may have been chosen; the page says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

from app.models import Evaluation
from app.runs.curves import SIMILARITY_MARGIN
from app.web.formats import interval, num, pct, plural, signed

Outcome = Literal["pass", "fail", "missing"]

DISTINCT_MARGIN = 0.20
"""Largest loss of distinct answers, as a share of the reference's number."""
LOOP_FLOOR, LOOP_FACTOR = 0.01, 3.0
TRUNCATION_RISE, TRUNCATION_FACTOR = 0.02, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    key: str
    name: str
    state: Outcome
    evidence: str
    rule: str
    num: str = ""
    interval: str = ""


def gates_of(evaluation: Evaluation | None) -> list[Gate]:
    """Pure function of the checkpoint's evaluation."""
    heldout = evaluation.heldout if evaluation else None
    overall = evaluation.diversity["overall"] if evaluation and evaluation.diversity else None
    return [_ranking(heldout), _beats_length(heldout), _degenerate(overall), _diversity(overall)]


def failed(gates: list[Gate]) -> list[Gate]:
    return [gate for gate in gates if gate.state == "fail"]


def summary_of(gates: list[Gate]) -> str:
    """One phrase for a state: the failures, else what lacks evidence, else that all pass."""
    bad, open_ones = len(failed(gates)), sum(gate.state == "missing" for gate in gates)
    if bad:
        return f"{bad} of {len(gates)} gates {'fails' if bad == 1 else 'fail'}"
    if open_ones:
        return f"{open_ones} of {len(gates)} gates {'lacks' if open_ones == 1 else 'lack'} evidence"
    return f"{len(gates)} of {len(gates)} gates pass"


def _bounded(estimate: dict[str, Any] | None) -> bool:
    return estimate is not None and None not in (estimate["low"], estimate["high"])


def _ranking(heldout: dict[str, Any] | None) -> Gate:
    fixed = {"key": "ranking", "name": "Held-out reward", "rule": "AUC within the prompt above 0.5"}
    if heldout is None:
        return Gate(state="missing", evidence="this checkpoint was not evaluated", **fixed)
    auc = heldout["auc_within_prompt"]
    evidence = f"{plural(auc['n'], 'prompt')} with both labels"
    if auc["value"] is None or not _bounded(auc):
        return Gate(state="missing", evidence=f"{evidence}, too few for an interval", num=num(auc["value"], 3), **fixed)
    state: Outcome = "pass" if auc["low"] > 0.5 else "fail" if auc["high"] < 0.5 else "missing"
    if state == "missing" and auc["value"] > 0.5:
        half = (auc["high"] - auc["low"]) / 2
        evidence += f"; about {num(ceil(auc['n'] * (half / (auc['value'] - 0.5)) ** 2))} would show this effect"
    return Gate(state=state, evidence=evidence, num=num(auc["value"], 3), interval=_span(auc), **fixed)


def _beats_length(heldout: dict[str, Any] | None) -> Gate:
    """Length predicts as well when short is desirable: an AUC of 0.3 is worth 0.7. Compared by intervals that do not overlap."""
    fixed = {"key": "length", "name": "Better than length", "rule": "pooled AUC above the AUC of length alone"}
    if heldout is None:
        return Gate(state="missing", evidence="this checkpoint was not evaluated", **fixed)
    auc, length = heldout["auc"], heldout["auc_length"]
    shown = {"num": num(auc["value"], 3), "interval": _span(auc) if _bounded(auc) else ""}
    if not (_bounded(auc) and _bounded(length)) or auc["value"] is None or length["value"] is None:
        return Gate(state="missing", evidence="too few prompts for an interval", **shown, **fixed)
    value, low, high = (
        (length["value"], length["low"], length["high"])
        if length["value"] >= 0.5
        else (1 - length["value"], 1 - length["high"], 1 - length["low"])
    )
    state: Outcome = "pass" if auc["low"] > high else "fail" if auc["high"] < low else "missing"
    evidence = f"length alone reaches {num(value, 3)}, {interval(low, high)}"
    return Gate(state=state, evidence=evidence, **shown, **fixed)


def _degenerate(overall: dict[str, Any] | None) -> Gate:
    """Loops: over 1 % and over three times the reference. Cut off: doubled, up by 2 points, and the interval excludes none."""
    fixed = {
        "key": "degenerate",
        "name": "Loops and cut-off answers",
        "rule": f"loops up to {pct(LOOP_FLOOR, 0)} or {LOOP_FACTOR:g} times the reference; cut off up by at most 2 points",
    }
    if overall is None:
        return Gate(state="missing", evidence="no samples were drawn", **fixed)
    loops, cut = overall["loop_rate"], overall["truncated_share"]
    looping = loops["policy"] > max(LOOP_FLOOR, LOOP_FACTOR * loops["reference"])
    cutting = cut["change"] >= TRUNCATION_RISE and cut["policy"] >= TRUNCATION_FACTOR * cut["reference"]
    shown = {
        "evidence": f"reference: loops {pct(loops['reference'])}, cut off {pct(cut['reference'])}",
        "num": f"loops {pct(loops['policy'])}, cut off {pct(cut['policy'])}",
    }
    if looping or (cutting and cut["low"] is not None and cut["low"] > 0):
        return Gate(state="fail", **shown, **fixed)
    if cutting or (cut["high"] is None and cut["change"] > 0):
        return Gate(state="missing", **shown, **fixed)
    return Gate(state="pass", **shown, **fixed)


def _diversity(overall: dict[str, Any] | None) -> Gate:
    """Fails only when similarity and the number of distinct answers both leave their margins.

    Similarity of unfiltered samples also rises when a wanted style spreads; alone it is no evidence of a collapse.
    """
    fixed = {
        "key": "diversity",
        "name": "Diversity",
        "rule": f"similarity up by at most {num(SIMILARITY_MARGIN, 2)}; fails when distinct answers also fall by {pct(DISTINCT_MARGIN, 0)}",
    }
    if overall is None:
        return Gate(state="missing", evidence="no prompt of the dev split has a category", **fixed)
    similarity, distinct = overall["similarity"], overall["distinct_k"]
    evidence = f"distinct answers {num(distinct['reference'], 2)} to {num(distinct['policy'], 2)}"
    shown = {"num": signed(similarity["change"])}
    if not _bounded(similarity):
        return Gate(state="missing", evidence=f"{evidence}; too few prompts for an interval", **shown, **fixed)
    shown["interval"] = _span(similarity)
    if similarity["high"] <= SIMILARITY_MARGIN:
        return Gate(state="pass", evidence=evidence, **shown, **fixed)
    fewer = distinct["high"] is not None and distinct["high"] <= -DISTINCT_MARGIN * distinct["reference"]
    if similarity["low"] > SIMILARITY_MARGIN and fewer:
        return Gate(state="fail", evidence=evidence, **shown, **fixed)
    word = "style shift: more alike, but still distinct" if similarity["low"] > SIMILARITY_MARGIN else evidence
    return Gate(state="missing", evidence=word, **shown, **fixed)


def _span(estimate: dict[str, Any]) -> str:
    return interval(estimate["low"], estimate["high"])

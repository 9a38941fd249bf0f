"""What the figures allow to be said, in one or two plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.runs.curves import SIMILARITY_MARGIN
from app.web.formats import interval, num, pct, plural, signed


def spoken(estimate: dict[str, Any], digits: int = 3) -> str:
    """The figure followed by its interval."""
    if estimate["low"] is None or estimate["high"] is None:
        return num(estimate["value"], digits)
    return f"{num(estimate['value'], digits)} with {interval(estimate['low'], estimate['high'], digits)}"


def ranking_sentence(heldout: dict[str, Any]) -> str:
    """Whether the reward tells desirable from undesirable completions on held-out conversations."""
    within = heldout["auc_within_prompt"]
    paired = within["value"] is not None
    auc = within if paired else heldout["auc"]
    name = "AUC within the prompt" if paired else "pooled AUC"
    if auc["value"] is None:
        return "The dev split holds one class only, so nothing can be said about the ranking."
    if auc["low"] is None or auc["high"] is None:
        return (
            f"No evidence either way: {name} is {num(auc['value'], 3)} on {plural(auc['n'], 'prompt')}, "
            "too few for an interval."
        )
    figure = f"{name} {spoken(auc)}"
    if auc["low"] > 0.5:
        return f"On held-out conversations the reward ranks desirable above undesirable completions better than chance: {figure}."
    if auc["high"] < 0.5:
        return f"On held-out conversations the reward ranks undesirable above desirable completions: {figure}."
    return f"No evidence that the reward ranks held-out completions better than chance: {figure}."


def diversity_sentence(diversity: dict[str, Any] | None) -> str:
    """Whether samples of one prompt became more alike than those of the reference."""
    if diversity is None:
        return "Diversity was not measured: no prompt of the dev split has a category."
    change = diversity["overall"]["similarity"]
    scope = f"{plural(diversity['num_prompts'], 'prompt')} in {plural(diversity['num_categories'], 'category', 'categories')}"
    if change["low"] is None or change["high"] is None:
        return f"No evidence either way on diversity: similarity changed by {signed(change['change'])} on {scope}, too few for an interval."
    figure = f"similarity {signed(change['change'])} with {interval(change['low'], change['high'])} on {scope}"
    if change["low"] > 0:
        return f"Samples of one prompt became more alike than the reference's: {figure}."
    if change["high"] < 0:
        return f"Samples of one prompt became more varied than the reference's: {figure}."
    return f"No evidence that diversity changed: {figure}."


MARGIN = SIMILARITY_MARGIN
ENOUGH_POWER = 0.5
"""Below it "no category" would be said of a test that more often than not sees nothing."""


def power_words(power: float | None) -> str:
    """How often half a collapse within one category would have been found."""
    if power is None:
        return "half collapse in a category: not known"
    times = round(power * 10)
    often = {0: "hardly ever", 1: "1 time in 10", 10: "nearly always"}.get(times, f"{times} times in 10")
    return f"half collapse in a category: {often}"


def main_change(diversity: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The figure that alarms look at, with its key; the raw similarity in results from before it was measured."""
    overall: dict[str, Any] = diversity["overall"]
    return main_key(overall), overall[main_key(overall)]


def main_key(metrics: dict[str, Any]) -> str:
    return "similarity_normalised" if "similarity_normalised" in metrics else "similarity"


def main_figure(metrics: dict[str, Any]) -> dict[str, Any]:
    """The same of one category's metrics."""
    figure: dict[str, Any] = metrics[main_key(metrics)]
    return figure


def collapse_sentence(diversity: dict[str, Any], levels: Sequence[tuple[str, str]]) -> str:
    """Whether similarity tells of a collapse at this checkpoint. ``levels``: (kind, level) of what it raised."""
    key, change = main_change(diversity)
    if key == "similarity":
        return diversity_sentence(diversity)
    bounds = f" with {interval(change['low'], change['high'])}" if change["low"] is not None else ""
    figure = f"{signed(change['change'])}{bounds}"
    num_critical = sum(level == "critical" for _, level in levels)
    if num_critical:
        return f"{plural(num_critical, 'critical alarm')} at this checkpoint; overall similarity changed by {figure}."
    if ("global", "alarm") in levels:
        return f"Samples of one prompt became more alike than the reference's, past the margin: similarity {figure}."
    for kind, one, many in (
        ("category", "open-ended category", "open-ended categories"),
        ("domain", "domain", "domains"),
    ):
        number = levels.count((kind, "alarm"))
        if number:
            total = (
                diversity.get("num_categories_tested", 0) if kind == "category" else len(diversity.get("domains", ()))
            )
            verb = "is" if number == 1 else "are"
            return f"{number} of {plural(total, one, many)} {verb} less varied than the reference; overall similarity changed by {figure}."
    return _without_alarm(diversity, figure)


def _without_alarm(diversity: dict[str, Any], figure: str) -> str:
    num_open, compared = diversity.get("num_open_prompts"), diversity.get("num_compared_prompts")
    if num_open == 0:
        return f"No category is open-ended: with one right answer likeness is accuracy, so nothing tells of a collapse. Similarity changed by {figure}."
    if num_open and compared is not None and 2 * compared < num_open and not diversity.get("style_shift"):
        return f"Not enough evidence: {num(compared)} of {plural(num_open, 'open-ended prompt')} have samples of one quality in both arms; among those similarity changed by {figure}."
    if diversity.get("style_shift"):
        raw = diversity["overall"]["similarity"]["change"]
        return f"A style spread, nothing collapsed: raw similarity rose by {num(raw, 3)}, among samples of the same quality it changed by {figure}."
    seen = diversity.get("detectable_change")
    could = f" (we could have seen {num(seen, 3)})" if seen is not None else ""
    power = diversity.get("category_power")
    if power is None or power < ENOUGH_POWER:
        return f"No evidence of collapse overall{could}: similarity {figure}. Single categories have too few samples to tell."
    return f"No evidence of collapse{could}: similarity {figure}, and no category is less varied than the reference."


SAMPLE_FIGURES: tuple[tuple[str, str, int | None], ...] = (
    ("similarity_normalised", "Similarity, gated and normalised", 3),
    ("similarity", "Similarity, raw ROUGE-L", 3),
    ("distinct_k_gated", "Distinct answers, gated", 2),
    ("distinct_k", "Distinct answers, raw", 2),
    ("ead", "EAD", 3),
    ("self_bleu", "Self-BLEU-4", 3),
    ("semantic", "Semantic similarity", 3),
    ("mean_words", "Words", 1),
    ("loop_rate", "Loops", None),
    ("truncated_share", "Cut off", None),
    ("refusal_share", "Refusals", None),
    ("empty_share", "Empty answers", None),
)
"""Key, word and decimals; None for a share of the samples."""
ACROSS_FIGURES: tuple[tuple[str, str, int | None], ...] = (
    ("compression_ratio", "Compression ratio", 2),
    ("opening_share", "Most common opening", None),
    ("self_repetition", "Self-repetition of 4-grams", 2),
    ("median_words", "Median words", 1),
    ("p95_words", "95th percentile of words", 1),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of both arms, written out."""

    word: str
    reference: str
    policy: str
    change: str
    bounds: str
    """"" where no interval can be had."""


def sample_figures(diversity: dict[str, Any]) -> list[tuple[str, list[Figure]]]:
    """What was measured of the samples: per prompt, and across prompts. Changes of shares are in points."""
    groups = (
        (f"{diversity['samples_per_prompt']} samples of one prompt", SAMPLE_FIGURES, diversity["overall"]),
        ("One sample of every prompt", ACROSS_FIGURES, diversity.get("across") or {}),
    )
    found = [
        (title, [_figure(word, figures[key], digits) for key, word, digits in names if key in figures])
        for title, names, figures in groups
    ]
    return [(title, rows) for title, rows in found if rows]


def _figure(word: str, contrast: dict[str, Any], digits: int | None) -> Figure:
    reference, policy, low, high = (contrast[key] for key in ("reference", "policy", "low", "high"))
    if digits is None:
        bounds = interval(100 * low, 100 * high, 1) if low is not None else ""
        return Figure(word, pct(reference), pct(policy), signed(100 * contrast["change"], 1), bounds)
    bounds = interval(low, high, digits) if low is not None else ""
    return Figure(word, num(reference, digits), num(policy, digits), signed(contrast["change"], digits), bounds)

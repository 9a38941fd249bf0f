"""What the figures allow to be said, in one or two plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.models import Evaluation
from app.web.formats import interval, num, plural, signed


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


def verdict(evaluation: Evaluation) -> tuple[str, str]:
    return ranking_sentence(evaluation.heldout), diversity_sentence(evaluation.diversity)


MARGIN = 0.05
"""Rise of the gated and normalised similarity that an alarm needs."""
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


def collapse_sentence(diversity: dict[str, Any], levels: Sequence[tuple[str, str]], critical: Sequence[str]) -> str:
    """Whether anything collapsed at this checkpoint. ``levels``: (kind, level) of what it raised; ``critical``: its sentences."""
    if critical:
        return critical[0]
    key, change = main_change(diversity)
    if key == "similarity":
        return diversity_sentence(diversity)
    bounds = f" with {interval(change['low'], change['high'])}" if change["low"] is not None else ""
    figure = f"{signed(change['change'])}{bounds}"
    num_categories = sum(kind == "category" and level != "watch" for kind, level in levels)
    if ("global", "alarm") in levels:
        return f"Samples of one prompt became more alike than the reference's, past the margin: similarity {figure}."
    if num_categories:
        tested = plural(diversity.get("num_categories_tested", 0), "open-ended category", "open-ended categories")
        return f"{num_categories} of {tested} {'is' if num_categories == 1 else 'are'} less varied than the reference; overall similarity changed by {figure}."
    return _without_alarm(diversity, figure)


def _without_alarm(diversity: dict[str, Any], figure: str) -> str:
    if diversity.get("style_shift"):
        raw = diversity["overall"]["similarity"]["change"]
        return f"A style spread, nothing collapsed: raw similarity rose by {num(raw, 3)}, among samples of the same quality it changed by {figure}."
    seen = diversity.get("detectable_change")
    could = f" (we could have seen {num(seen, 3)})" if seen is not None else ""
    power = diversity.get("category_power")
    if power is None or power < ENOUGH_POWER:
        return f"No evidence of collapse overall{could}: similarity {figure}. Single categories have too few samples to tell."
    return f"No evidence of collapse{could}: similarity {figure}, and no category is less varied than the reference."

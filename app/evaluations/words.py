"""What the figures allow to be said, in one or two plain sentences."""

from __future__ import annotations

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

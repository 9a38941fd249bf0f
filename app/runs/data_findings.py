"""Preflight of the data: what the run's objective can make of the snapshot's labels."""

from __future__ import annotations

import math

from app.core.storage import artifact_path
from app.models import Snapshot
from app.runs.findings import Finding
from app.runs.snapshot_facts import PairFacts, SnapshotFacts, pair_facts
from app.web.formats import objective
from worker.alignment.config import AlignmentConfig
from worker.alignment.weights import HIGH, LOW, ClassWeights, advised_weights, resolve_weights

FEW = 50
"""Fewer labels of a class, or pairs, than this give results that cannot tell much."""


def train_counts(snapshot: Snapshot) -> tuple[int, int]:
    """(desirable, undesirable) rows of the train split."""
    counts = snapshot.counts.get("train", {})
    return int(counts.get("desirable", 0)), int(counts.get("undesirable", 0))


def advised(snapshot: Snapshot) -> ClassWeights:
    return advised_weights(*train_counts(snapshot))


def num_units(snapshot: Snapshot, config: AlignmentConfig) -> int:
    """What ``batch_size`` counts: rows, the desirable ones for SFT, pairs for DPO."""
    desirable, undesirable = train_counts(snapshot)
    if config.objective == "dpo":
        return _pairs(snapshot, config).num_pairs
    if config.data == "paired":
        return _pairs(snapshot, config).num_pairs * (1 if config.objective == "sft" else 2)
    return desirable if config.objective == "sft" else desirable + undesirable


def num_rows(snapshot: Snapshot, config: AlignmentConfig) -> int:
    """Rows that an epoch goes through; a row that is in two DPO pairs counts twice."""
    return num_units(snapshot, config) * (2 if config.objective == "dpo" else 1)


def steps_of(config: AlignmentConfig, num_units: int) -> int:
    per_epoch = max(1, math.ceil(num_units / config.batch_size))
    return config.max_steps or max(1, math.ceil(per_epoch * config.num_epochs))


def about_data(snapshot: Snapshot, facts: SnapshotFacts, config: AlignmentConfig) -> list[Finding]:
    desirable, undesirable = train_counts(snapshot)
    if config.objective == "sft":
        found = _about_imitation(desirable, undesirable)
    elif desirable == 0 or undesirable == 0:
        present = "undesirable" if desirable == 0 else "desirable"
        text = f"Every label of the training split is {present}. {objective(config.objective)} needs both classes."
        remedy = "Collect or import labels of the other class, then freeze a new snapshot."
        found = [_error("one_class", text, remedy)]
    else:
        found = _about_classes(desirable, undesirable)
        if config.objective == "dpo" or config.data == "paired":
            found += _about_pairs(_pairs(snapshot, config), "objective" if config.objective == "dpo" else "data")
    if any(finding.level == "error" for finding in found):
        return found
    return [*found, *_about_batch(num_units(snapshot, config), config), *_about_dev(facts)]


def about_weights(snapshot: Snapshot, config: AlignmentConfig) -> list[Finding]:
    """Class weights of KTO and APO, as the trainer resolves them."""
    if config.objective in {"dpo", "sft"}:
        return []
    desirable, undesirable = train_counts(snapshot)
    if config.data == "paired":
        desirable = undesirable = _pairs(snapshot, config).num_pairs
    weights = resolve_weights(config, [True] * desirable + [False] * undesirable)
    if weights.ratio is None:
        return []
    if weights.within_advice:
        return [Finding(level="ok", code="weights", text=f"Class weights balance the labels ({weights.ratio:.2f})")]
    advice = advised(snapshot)
    text = f"The weighted ratio of the classes is {weights.ratio:.2f}; {LOW:g} to {HIGH:.2f} is advised."
    remedy = f"Use {advice.desirable:g} for desirable and {advice.undesirable:g} for undesirable, or leave both empty."
    return [Finding(level="warning", code="weights_outside", text=text, remedy=remedy, field="undesirable_weight")]


def _pairs(snapshot: Snapshot, config: AlignmentConfig) -> PairFacts:
    return pair_facts(str(artifact_path(snapshot.path)), config.max_pairs_per_prompt)


def _about_classes(desirable: int, undesirable: int) -> list[Finding]:
    found = [Finding(level="ok", code="both_classes", text=f"{desirable:,} desirable and {undesirable:,} undesirable")]
    rarer = "desirable" if desirable < undesirable else "undesirable"
    if min(desirable, undesirable) < FEW:
        text = f"Only {min(desirable, undesirable)} {rarer} labels to train on; results will be uncertain."
        found.append(_warning("small_class", text, f"Collect at least {FEW} of each class."))
    return found


def _about_imitation(desirable: int, undesirable: int) -> list[Finding]:
    if desirable == 0:
        return [
            _error("no_desirable", "SFT imitates desirable answers, but there is none.", "Collect some, or choose KTO.")
        ]
    text = f"{desirable:,} desirable to imitate; {undesirable:,} undesirable are not used"
    found = [Finding(level="ok", code="desirable", text=text)]
    if desirable < FEW:
        text = f"Only {desirable} desirable labels to train on; results will be uncertain."
        found.append(_warning("small_class", text, f"Collect at least {FEW}."))
    return found


def _about_pairs(pairs: PairFacts, field: str) -> list[Finding]:
    other = "choose KTO" if field == "objective" else "train on all rows"
    if pairs.num_pairs == 0:
        text = "No prompt of the training split has a desirable and an undesirable answer, so there is no pair."
        return [_error("no_pairs", text, f"Collect several answers to one prompt, or {other}.", field=field)]
    left = f"{pairs.num_left_out:,} rows in no pair are left out"
    if pairs.num_pairs < FEW:
        text = f"Only {pairs.num_pairs} pairs to train on, {left}; results will be uncertain."
        return [_warning("few_pairs", text, f"Collect several answers to one prompt, or {other}.", field=field)]
    return [Finding(level="ok", code="pairs", text=f"{pairs.num_pairs:,} pairs; {left}")]


def _about_batch(num_units: int, config: AlignmentConfig) -> list[Finding]:
    if config.batch_size <= num_units:
        return []
    noun = "pairs" if config.objective == "dpo" else "rows"
    text = f"A step takes {config.batch_size} {noun}, but the training split has {num_units}."
    return [_warning("large_batch", text, "Lower it.", field="batch_size")]


def _about_dev(facts: SnapshotFacts) -> list[Finding]:
    if facts.num_dev_rows == 0:
        text = "The dev split is empty: checkpoints are saved but not evaluated."
        return [_warning("empty_dev", text, "Collect more conversations, then freeze a new snapshot.")]
    if facts.dev_prompts_with_both == 0:
        text = "No prompt of the dev split has both a desirable and an undesirable completion."
        remedy = "AUC within prompt cannot be measured; the pooled AUC is confounded by the prompt."
        return [_warning("no_mixed_prompts", text, remedy)]
    return []


def _error(code: str, text: str, remedy: str, field: str = "snapshot_id") -> Finding:
    return Finding(level="error", code=code, text=text, remedy=remedy, field=field)


def _warning(code: str, text: str, remedy: str, field: str = "snapshot_id") -> Finding:
    return Finding(level="warning", code=code, text=text, remedy=remedy, field=field)

"""Everything between the checks and the first step: model, reference log-probs, each problem told where it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from worker.alignment.adapters import reference_identity
from worker.alignment.checks import Checked, most_frequent
from worker.alignment.config import AlignmentConfig, TrainSpec
from worker.alignment.data import ScoredSplit, SplitToScore, score_reference
from worker.alignment.dataset import Row, chat_template
from worker.alignment.distributed import ALONE, World
from worker.alignment.planning import RunPlan, heaviest_units, plan_run, refine
from worker.alignment.policy import Policy, load_policy, resolve_device
from worker.alignment.probe import probe
from worker.alignment.reference import ReferenceCache, namespace, tokenizer_hash, weights_hash
from worker.alignment.reporters import JsonlReporter
from worker.alignment.resume import environment_pins, pin_threads
from worker.alignment.step import StepSettings, backward_step
from worker.alignment.units import each_row
from worker.alignment.weights import resolve_weights

MAX_SKIPPED_SHOWN = 100
REFERENCE_PINS = ("base", "tokenizer", "path", "backend", "dtype", "device", "reference")
"""The pins that reference log-probs depend on."""
Phase = Literal["loading", "reference", "training", "evaluating", "saving"]
ProgressFn = Callable[[Phase, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    policy: Policy
    train: ScoredSplit
    dev: ScoredSplit
    settings: StepSettings
    """Of every step; the class weights resolved."""
    plan: RunPlan
    reference_key: str
    """Namespace of everything cached about the reference."""
    pins: dict[str, Any]
    """What bit-for-bit resume rests on."""


def prepare(
    spec: TrainSpec, checked: Checked, report: JsonlReporter, progress: ProgressFn, world: World = ALONE
) -> Prepared:
    """Load, probe and score the reference. Raises DataError, ModelError or CheckpointError."""
    config = spec.config
    train, dev = checked.train, checked.dev
    pin_threads(config, checked.manifest)
    progress("loading", 0, 1)
    plan = plan_run(
        config,
        checked.model_config,
        train.rows,
        checked.units.units,
        resolve_device(),
        pinned_layers=_pinned_layers(checked),
        world=world,
    )
    policy = load_policy(spec.model_path, config, world=world)
    if world.size > 1:
        how = "the base model's weights sharded over them (FSDP2)" if policy.sharded else "the whole model in each"
        report.notice(f"{world.size} processes, {how}; each takes its share of every step.", processes=world.size)
    tell_rows(checked, config, report)
    if notice := probe(policy, [row.pair for row in probe_rows(train.rows)]):
        report.notice(notice, warning=True)
    template = chat_template(policy.tokenizer)
    if template:
        report.notice("The tokenizer has no chat template; the default one (role: content lines) is used.")
    pins = pins_of(policy, template, Path(spec.cache_dir), config)
    reference_key = namespace(**{name: str(pins[name]) for name in REFERENCE_PINS}, head="float32")
    progress("loading", 1, 1)
    settings = StepSettings.of(config, resolve_weights(config, checked.units.labels(train.rows)))
    (train_split, dev_split), result = score_reference(
        policy,
        [
            SplitToScore(
                rows=train.rows,
                units=checked.units.units,
                reference=settings.loss.needs_reference,
                kl=settings.loss.needs_kl,
            ),
            SplitToScore(rows=dev.rows, units=each_row(dev.rows)),
        ],
        ReferenceCache(Path(spec.cache_dir), reference_key),
        max_length=config.max_length,
        token_budget=config.tokens_per_microbatch,
        on_progress=lambda done, total: progress("reference", done, total),
    )
    if result.refused is not None:
        text = f"Cached reference log-probs differed by {result.refused:.3g} nats and were computed again."
        report.notice(text, warning=True)
    report.notice(
        f"Reference log-probs: {result.num_computed:,} computed, {result.num_cached:,} from the cache.",
        computed=result.num_computed,
        checked=result.num_checked,
    )
    if settings.loss.needs_kl and not train_split.kl_pairs:
        report.notice("No row has a partner with another prompt and conversation: kl stays 0.", warning=True)
    heaviest = train_split.batch(heaviest_units(train.rows, checked.units.units, config.batch_size))
    measured = refine(plan, policy, lambda: backward_step(policy, heaviest, settings))
    pins["recomputed_layers"] = plan.num_recomputed_layers
    if plan.num_recomputed_layers or measured is not None:
        report.notice(plan.reason, measured_bytes=measured and measured.peak_bytes, limit_bytes=plan.limit_bytes)
    return Prepared(
        policy=policy,
        train=train_split,
        dev=dev_split,
        settings=settings,
        plan=plan,
        reference_key=reference_key,
        pins=pins,
    )


def tell_rows(checked: Checked, config: AlignmentConfig, report: JsonlReporter) -> None:
    """Tell of skipped rows by id and reason, of rows that the objective leaves out, of one-sided data and no dev rows."""
    skipped = [*checked.train.skipped, *checked.dev.skipped]
    if skipped:
        report.notice(
            f"{len(skipped)} rows are skipped{most_frequent(skipped)}.",
            warning=True,
            count=len(skipped),
            rows=[{"id": row.id, "reason": row.reason} for row in skipped[:MAX_SKIPPED_SHOWN]],
        )
    if left_out := checked.units.num_left_out:
        total = left_out + len(checked.train.rows)
        paired = config.objective == "dpo" or config.data == "paired"
        limit = f"in no pair ({config.max_pairs_per_prompt} a prompt at most)"
        why = ("undesirable, or " if config.objective == "sft" else "") + limit if paired else "undesirable"
        report.notice(f"{left_out:,} of {total:,} rows are {why} and are left out.", count=left_out)
    one_sided = len({row.label for row in checked.train.rows}) == 1
    if one_sided and config.objective != "sft":
        report.notice("All training rows have one label: both weights are 1. KTO works best with both.", warning=True)
    if config.objective in {"dpo", "sft"} and (config.desirable_weight, config.undesirable_weight) != (None, None):
        report.notice(f"The loss of {config.objective} has no class weights: the ones set are not used.", warning=True)
    if not checked.dev.rows:
        report.notice("The dev split is empty: checkpoints are saved but not evaluated.", warning=True)


def _pinned_layers(checked: Checked) -> int | None:
    return None if checked.manifest is None else int(checked.manifest.pins["recomputed_layers"])


def pins_of(policy: Policy, template: str | None, cache_dir: Path, config: AlignmentConfig) -> dict[str, Any]:
    return environment_pins() | {
        "base": policy.world.main_first(lambda: weights_hash(policy.folder, cache_dir)),
        "tokenizer": tokenizer_hash(policy.tokenizer, template),
        "path": policy.path,
        "backend": policy.backend or "own",
        "share_prefixes": policy.share,
        "continues": policy.continues,
        "tail": policy.tail,
        "dtype": str(policy.dtype).removeprefix("torch."),
        "device": policy.device.type,
        "reference": reference_identity(config),
        "threads": torch.get_num_threads(),
    }


def probe_rows(rows: Sequence[Row]) -> list[Row]:
    """Rows of four lengths, the longest among them: sliding windows show there."""
    by_length = sorted(rows, key=lambda row: row.num_tokens)
    return [by_length[share * (len(by_length) - 1) // 3] for share in range(4)]

"""Everything before the first step: checkpoint, model, rows, reference log-probs, each problem told where it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from worker.alignment.adapters import reference_identity
from worker.alignment.checkpoints import Manifest
from worker.alignment.config import TrainSpec
from worker.alignment.data import ScoredSplit, prompt_cases, score_reference
from worker.alignment.dataset import Encoder, Row, SkippedRow, Split, chat_template, load_split, read_manifest
from worker.alignment.errors import DataError
from worker.alignment.generate import end_token_ids
from worker.alignment.policy import MAX_PROBE_TOKENS, Policy, load_policy, probe
from worker.alignment.reference import ReferenceCache, namespace, tokenizer_hash, weights_hash
from worker.alignment.reporters import JsonlReporter
from worker.alignment.resume import open_resume, pin_threads

if TYPE_CHECKING:
    from worker.alignment.evaluation.screen import PromptCase

MAX_SKIPPED_SHOWN = 100
Phase = Literal["loading", "reference", "training", "evaluating", "saving"]
ProgressFn = Callable[[Phase, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    policy: Policy
    train: ScoredSplit
    dev: ScoredSplit
    prompts: list[PromptCase]
    """Distinct dev prompts with a category: what diversity is sampled on."""
    num_skipped: int
    snapshot_hash: str
    reference_key: str
    """Namespace of everything cached about the reference."""
    pins: dict[str, Any]
    """What bit-for-bit resume rests on."""
    manifest: Manifest | None
    """Of the checkpoint to go on from."""


def prepare(spec: TrainSpec, report: JsonlReporter, progress: ProgressFn) -> Prepared:
    """Load, tokenise, probe and score the reference. Raises DataError, ModelError or CheckpointError."""
    config, snapshot = spec.config, Path(spec.snapshot_dir)
    manifest = open_resume(spec)
    pin_threads(config, manifest)
    progress("loading", 0, 1)
    snapshot_hash = read_manifest(snapshot)["hash"]
    policy = load_policy(spec.model_path, config)
    end_ids = end_token_ids(policy.model, policy.tokenizer)
    train, dev = (
        load_split(snapshot / name, policy.tokenizer, max_length=config.max_length, end_ids=end_ids)
        for name in ("train.jsonl", "dev.jsonl")
    )
    check_rows(train, dev, report)
    if notice := probe(policy, [row.pair for row in probe_rows(train.rows)]):
        report.notice(notice, warning=True)
    template = chat_template(policy.tokenizer)
    if template:
        report.notice("The tokenizer has no chat template; the default one (role: content lines) is used.")
    pins = pins_of(policy, template, Path(spec.cache_dir))
    pins |= {"reference": reference_identity(config), "quantization": config.quantization}
    parts = {name: str(value) for name, value in pins.items() if name != "threads"}
    reference_key = namespace(**parts, head="float32")
    progress("loading", 1, 1)
    (train_split, dev_split), result = score_reference(
        policy,
        [train.rows, dev.rows],
        ReferenceCache(Path(spec.cache_dir), reference_key),
        max_length=config.max_length,
        token_budget=config.tokens_per_microbatch,
        on_progress=lambda done, total: progress("reference", done, total),
    )
    if result.refused is not None:
        text = f"Cached reference log-probs differed by {result.refused:.3g} nats and were computed again."
        report.notice(text, warning=True)
    report.notice(
        f"Reference log-probs: {result.num_computed:,} computed, {len(result.logps) - result.num_computed:,} from the cache.",
        computed=result.num_computed,
        checked=result.num_checked,
    )
    if not train_split.kl_pairs:
        report.notice("No row has a partner with another prompt and conversation: kl stays 0.", warning=True)
    encoder = Encoder(policy.tokenizer, max_length=config.max_length, end_ids=end_ids)
    return Prepared(
        policy=policy,
        train=train_split,
        dev=dev_split,
        prompts=prompt_cases(dev.rows, encoder),
        num_skipped=len(train.skipped) + len(dev.skipped),
        snapshot_hash=snapshot_hash,
        reference_key=reference_key,
        pins=pins,
        manifest=manifest,
    )


def check_rows(train: Split, dev: Split, report: JsonlReporter) -> None:
    """Tell of skipped rows by id and reason, of one-sided data and of an empty dev split; refuse an empty train split."""
    skipped: list[SkippedRow] = [*train.skipped, *dev.skipped]
    if skipped:
        most = _most_frequent(skipped)
        report.notice(
            f"{len(skipped)} rows are skipped; the most frequent reason: {most}.",
            warning=True,
            count=len(skipped),
            rows=[row._asdict() for row in skipped[:MAX_SKIPPED_SHOWN]],
        )
    if not train.rows:
        reason = f"; the most frequent reason: {_most_frequent(train.skipped)}" if train.skipped else ""
        raise DataError(f"The train split has no usable row{reason}.")
    if len({row.label for row in train.rows}) == 1:
        report.notice("All training rows have one label; KTO works best with both.", warning=True)
    if not dev.rows:
        report.notice("The dev split is empty: checkpoints are saved but not evaluated.", warning=True)


def _most_frequent(skipped: Sequence[SkippedRow]) -> str:
    return Counter(row.reason for row in skipped).most_common(1)[0][0]


def pins_of(policy: Policy, template: str | None, cache_dir: Path) -> dict[str, Any]:
    return {
        "base": weights_hash(policy.folder, cache_dir),
        "tokenizer": tokenizer_hash(policy.tokenizer, template),
        "path": policy.path,
        "backend": policy.backend or "own",
        "dtype": str(policy.dtype).removeprefix("torch."),
        "device": policy.device.type,
        "threads": torch.get_num_threads(),
    }


def probe_rows(rows: Sequence[Row]) -> list[Row]:
    """Rows of four lengths, the longest that the probe takes among them (sliding windows show there)."""
    usable = sorted((row for row in rows if row.num_tokens <= MAX_PROBE_TOKENS), key=lambda row: row.num_tokens)
    return [usable[share * (len(usable) - 1) // 3] for share in range(4)] if usable else []

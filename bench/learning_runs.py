"""Both trainers of ``bench.learning`` on the same rows in the same steps, and the one scorer for what they made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.learning_data import Judged, Side, record, write_snapshot
from worker.alignment.base_model import load_causal_lm
from worker.alignment.batching import epoch_steps
from worker.alignment.config import AlignmentConfig, TrainSpec
from worker.alignment.dataset import Encoder, Pair, Row
from worker.alignment.evaluation.heldout import heldout_result
from worker.alignment.evaluation.screen import HeldoutRows
from worker.alignment.evaluation.stats import Floats
from worker.alignment.events import EvaluationResult
from worker.alignment.reporters import JsonlReporter
from worker.alignment.trainer import train

ROWS_PER_PASS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One seed: a base model, the rows it is aligned on, and those held out."""

    base: Path
    sides: dict[Side, list[Judged]]
    config: AlignmentConfig
    folder: Path
    """For the snapshot and the attempts."""
    cache: Path
    """Reference log-probs, shared by the seeds."""


def train_ours(task: Task, _tokenizer: Any) -> Any:
    """Our trainer as the command line runs it; returns base and adapter of its last checkpoint."""
    attempt = task.folder / "ours"
    spec = TrainSpec(
        run_id=1,
        attempt=1,
        config=task.config,
        model_path=str(task.base),
        snapshot_dir=str(write_snapshot(task.folder / "snapshot", task.sides)),
        attempt_dir=str(attempt),
        cache_dir=str(task.cache),
    )
    reporter = JsonlReporter(spec.events_path)
    finished = train(spec, reporter, evaluate=_heldout_only)
    reporter.close()
    if finished.status != "succeeded":
        raise RuntimeError(finished.message)
    from peft import PeftModel

    saved = max((attempt / "checkpoints").glob("step-*"))
    return PeftModel.from_pretrained(load_causal_lm(str(task.base), dtype=torch.float32), str(saved)).eval()


def _heldout_only(*, heldout: HeldoutRows, beta: float, step: int, **_: Any) -> EvaluationResult:
    """No samples are drawn here: diversity is no matter of this benchmark."""
    figures = heldout_result(heldout, beta)
    return EvaluationResult(step=step, heldout=figures, diversity=None, samples_path="", seconds=0.0)


def train_trl(task: Task, tokenizer: Any) -> Any:
    """TRL's KTOTrainer with the same settings; returns its model.

    It cannot shuffle, so it gets every epoch's rows in the order of our steps, one epoch behind the other, and a whole
    step in one pass: its z0 rests on as many pairs as ours. All of this is to its advantage.
    """
    from peft import LoraConfig

    datasets, trl = import_module("datasets"), import_module("trl")
    datasets.disable_progress_bars()
    config, rows = task.config, task.sides["train"]
    labels = [each.label for each in rows]
    if len(rows) % config.batch_size or config.max_steps or config.num_epochs != int(config.num_epochs):
        raise ValueError("TRL gets the same steps only where every epoch is a number of whole steps.")
    order = [
        int(index)
        for epoch in range(int(config.num_epochs))
        for step in epoch_steps(labels, batch_size=config.batch_size, seed=config.seed, epoch=epoch)
        for index in step
    ]
    num_steps = len(order) // config.batch_size
    settings = trl.KTOConfig(
        output_dir=str(task.folder / "trl"),
        per_device_train_batch_size=config.batch_size,
        num_train_epochs=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_schedule,
        warmup_steps=-int(-config.warmup_ratio * num_steps // 1),
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        beta=config.beta,
        desirable_weight=config.desirable_weight,
        undesirable_weight=config.undesirable_weight,
        max_length=config.max_length,
        seed=config.seed,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = config.lora
    targets = "all-linear" if lora.target_modules == ("all-linear",) else list(lora.target_modules)
    torch.manual_seed(config.seed)
    trainer = trl.KTOTrainer(
        model=load_causal_lm(str(task.base), dtype=torch.float32),
        args=settings,
        train_dataset=datasets.Dataset.from_list([record(rows[index]) for index in order]),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
        ),
    )
    encoded = encode(tokenizer, [rows[index] for index in order], config.max_length)
    for ours, theirs in zip(encoded, trainer.train_dataset, strict=True):
        if [*ours.pair.prompt_ids, *ours.pair.completion_ids] != theirs["prompt_ids"] + theirs["completion_ids"]:
            raise RuntimeError(f"Row {ours.id} has other tokens in TRL: the comparison would not be of the same rows.")
    trainer.train()
    return trainer.model.eval()


def encode(tokenizer: Any, rows: Sequence[Judged], max_length: int) -> list[Row]:
    """Raises RuntimeError where a row does not fit: both sides must see every row."""
    encoder = Encoder(tokenizer, max_length=max_length)
    found = []
    for each in rows:
        row = encoder.encode(record(each))
        if not isinstance(row, Row):
            raise RuntimeError(f"Row {each.id} does not fit: {row.reason}.")  # noqa: TRY004
        found.append(row)
    return found


def reference_logps(task: Task, tokenizer: Any) -> Floats:
    """Of the held-out rows under the base model, [N]."""
    model = load_causal_lm(str(task.base), dtype=torch.float32).eval()
    return _all_logps(model, tokenizer, task)


def heldout(task: Task, tokenizer: Any, model: Any, reference_N: Floats) -> HeldoutRows:
    """The held-out rows under a trained model."""
    rows = task.sides["test"]
    encoded = encode(tokenizer, rows, task.config.max_length)
    return HeldoutRows(
        labels=np.asarray([each.label for each in rows]),
        logratios=_all_logps(model, tokenizer, task) - reference_N,
        lengths=np.asarray([len(row.pair.completion_ids) for row in encoded]),
        prompt_keys=np.asarray([each.prompt_key for each in rows], dtype=object),
        roots=np.asarray([each.root for each in rows], dtype=object),
        kl_logratios=np.zeros(0),
        kl_roots=np.zeros(0, dtype=object),
    )


def _all_logps(model: Any, tokenizer: Any, task: Task) -> Floats:
    pairs = [row.pair for row in encode(tokenizer, task.sides["test"], task.config.max_length)]
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index].prompt_ids) + len(pairs[index].completion_ids))
    found = np.zeros(len(pairs))
    for start in range(0, len(order), ROWS_PER_PASS):
        part = order[start : start + ROWS_PER_PASS]
        found[part] = _logps(model, [pairs[index] for index in part]).numpy()
    return found


@torch.no_grad()
def _logps(model: Any, pairs: Sequence[Pair]) -> Tensor:
    """Summed log p(completion | prompt), [B] in float64, by transformers' own forward: no code of either trainer."""
    both = [torch.from_numpy(np.concatenate(pair)) for pair in pairs]
    ids_BT = pad_sequence(both, batch_first=True)
    mask_BT = pad_sequence([torch.ones_like(ids) for ids in both], batch_first=True)
    wanted_BT = mask_BT.bool()[:, 1:].clone()
    for row, pair in enumerate(pairs):
        wanted_BT[row, : len(pair.prompt_ids) - 1] = False
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits[:, :-1].float()
    token_BT = logits_BTV.log_softmax(-1).gather(2, ids_BT[:, 1:, None]).squeeze(2)
    logps_B: Tensor = (token_BT * wanted_BT).double().sum(1)
    return logps_B

"""What is checked before a run is queued: errors forbid the launch, warnings do not. Each names its remedy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.storage import artifact_path, artifacts_root
from app.models import Snapshot, Worker
from app.runs.base_models import BaseModel
from app.runs.data_findings import about_data, about_weights, advised, num_rows, num_units, steps_of
from app.runs.findings import Finding
from app.runs.snapshot_facts import SnapshotFacts, snapshot_facts
from worker.alignment.config import AlignmentConfig
from worker.alignment.estimate import DataSize, DeviceKind, RunEstimate, estimate_run
from worker.alignment.weights import ClassWeights

USUAL_LEARNING_RATE = (5e-7, 1e-3)
"""The paper's 5e-7 … 5e-6 is for full fine-tuning; LoRA is trained with 10 to 100 times that."""
MIN_FREE_BYTES, LOW_FREE_BYTES = 256 * 2**20, 2 * 2**30
HEARD_SECONDS = 30
ON_CUDA = {"flash": "flash-attn", "varlen": "Variable-length attention", "flex": "Training with FlexAttention"}
"""Attention settings that a CPU cannot train with, as a sentence begins with them."""
MEMORY_LIMIT = 0.92


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What the run will probably run on: the first device of the first worker that was heard of."""

    name: str
    kind: DeviceKind
    memory_bytes: int
    num_cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    findings: list[Finding]
    advised: ClassWeights
    has_class_weights: bool = True
    """False for the objectives without: DPO and SFT."""
    num_steps: int = 0
    estimate: RunEstimate | None = None
    """None where the model's shape is unknown here: a hub id."""
    device: Device | None = None

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "warning"]


def check(db: Session, snapshot: Snapshot, model: BaseModel, config: AlignmentConfig) -> Preflight:
    folder = artifact_path(snapshot.path)
    if not (folder / "train.jsonl").is_file():
        text = "The snapshot's files are not in the artifacts folder."
        missing = Finding(
            level="error", code="snapshot_missing", text=text, remedy="Freeze it again.", field="snapshot_id"
        )
        return Preflight(findings=[missing], advised=advised(snapshot))
    facts = snapshot_facts(str(folder))
    device = likely_device(db)
    estimate = estimate_of(model, config, facts.data_size(num_rows(snapshot, config)), device)
    findings = [
        *_about_model(model),
        *about_data(snapshot, facts, config),
        *about_weights(snapshot, config),
        *_about_length(facts, model, config),
        *_about_optimiser(config),
        *_about_device(config, device),
        *_about_memory(estimate, device),
        *_about_disk(),
        *_about_workers(device),
    ]
    order = {"error": 0, "warning": 1, "ok": 2}
    findings.sort(key=lambda finding: order[finding.level])
    steps = steps_of(config, num_units(snapshot, config))
    return Preflight(
        findings=findings,
        advised=advised(snapshot),
        has_class_weights=config.objective not in {"dpo", "sft"},
        num_steps=steps,
        estimate=estimate,
        device=device,
    )


def likely_device(db: Session) -> Device | None:
    for worker in workers_heard(db):
        for found in worker.devices:
            return Device(
                name=found["name"],
                kind="cuda" if found["kind"] == "cuda" else "cpu",
                memory_bytes=found["memory_bytes"],
                num_cores=found.get("num_cores", 1),
            )
    return None


def estimate_of(model: BaseModel, config: AlignmentConfig, size: DataSize, device: Device | None) -> RunEstimate | None:
    if model.config is None:
        return None
    kind: DeviceKind = device.kind if device else "cpu"
    cores = device.num_cores if device else 1
    limit = round(device.memory_bytes * MEMORY_LIMIT) if device else None
    try:
        return estimate_run(model.config, config, size, device=kind, num_cores=cores, limit_bytes=limit)
    except ValueError:  # a shape that the estimate does not know: the run itself may still know it
        return None


def _about_model(model: BaseModel) -> list[Finding]:
    if not model.is_local:
        text = f"{model.name} is a hub id: the worker downloads it when the run starts."
        return [Finding(level="warning", code="model_on_hub", text=text, field="base_model")]
    if not model.has_chat_template:
        text = f"{model.label} has no chat template, so prompts and completions are joined as plain text."
        remedy = "Use an instruction-tuned model, or one with a chat template."
        return [Finding(level="warning", code="no_chat_template", text=text, remedy=remedy, field="base_model")]
    return [
        Finding(level="ok", code="model", text=f"{model.label}: safetensors, tokenizer and chat template are there")
    ]


def _about_length(facts: SnapshotFacts, model: BaseModel, config: AlignmentConfig) -> list[Finding]:
    found = []
    if model.context_length and config.max_length > model.context_length:
        text = f"The longest row may have {config.max_length:,} tokens, but the model reads {model.context_length:,}."
        remedy = f"Set the limit to {model.context_length:,} or less."
        found.append(Finding(level="error", code="over_context", text=text, remedy=remedy, field="max_length"))
    share = facts.share_over(config.max_length)
    if share:
        text = f"About {max(share, 0.001):.1%} of the rows are longer than {config.max_length:,} tokens."
        remedy = "Their prompts lose the beginning, and longer completions are skipped. Raise the limit to keep them."
        found.append(Finding(level="warning", code="long_rows", text=text, remedy=remedy, field="max_length"))
    return found


def _about_optimiser(config: AlignmentConfig) -> list[Finding]:
    low, high = USUAL_LEARNING_RATE
    if low <= config.learning_rate <= high:
        return []
    side = "below" if config.learning_rate < low else "above"
    text = f"A learning rate of {config.learning_rate:g} is {side} what has worked ({low:g} to {high:g})."
    remedy = "The paper uses 5e-7 to 5e-6 for all weights; LoRA takes 10 to 100 times that."
    return [Finding(level="warning", code="learning_rate", text=text, remedy=remedy, field="learning_rate")]


def _about_disk() -> list[Finding]:
    probe = artifacts_root()
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if free >= LOW_FREE_BYTES:
        return []
    text = f"The artifacts' disk has {free // 2**20:,} MiB left."
    level: Literal["error", "warning"] = "error" if free < MIN_FREE_BYTES else "warning"
    remedy = "Free some space: a run that cannot save its checkpoints fails."
    return [Finding(level=level, code="disk_low", text=text, remedy=remedy)]


def _about_device(config: AlignmentConfig, device: Device | None) -> list[Finding]:
    """The trainer would refuse these, too, once it has been started."""
    if device is None or device.kind == "cuda":
        return []
    found = []
    if config.quantization != "none":
        text = f"A 4-bit base needs CUDA, but the worker has {device.name}."
        remedy = "Take the base weights as they are."
        found.append(Finding(level="error", code="needs_cuda", text=text, remedy=remedy, field="quantization"))
    if config.attention in ON_CUDA:
        text = f"{ON_CUDA[config.attention]} needs CUDA, but the worker has {device.name}."
        remedy = "Let the attention be chosen automatically."
        found.append(Finding(level="error", code="needs_cuda", text=text, remedy=remedy, field="attention"))
    return found


def _about_memory(estimate: RunEstimate | None, device: Device | None) -> list[Finding]:
    if estimate is None or device is None or not device.memory_bytes:
        return []
    share = estimate.total_bytes / device.memory_bytes
    if share <= MEMORY_LIMIT:
        return []
    text = f"The run may need {estimate.total_bytes / 2**30:.1f} GiB of the {device.memory_bytes / 2**30:.1f} GiB there are."
    remedy = "Lower the tokens of a microbatch or the longest row, or choose a smaller model."
    return [Finding(level="warning", code="memory", text=text, remedy=remedy, field="tokens_per_microbatch")]


def _about_workers(device: Device | None) -> list[Finding]:
    if device is not None:
        return [Finding(level="ok", code="worker", text=f"A worker is there: {device.name}")]
    text = "No worker has been heard of; the run will wait until one starts."
    return [Finding(level="warning", code="no_worker", text=text, remedy="Start one with kto worker.")]


def workers_heard(db: Session) -> list[Worker]:
    """Workers that gave a sign of life in the last half minute."""
    since = func.clock_timestamp() - timedelta(seconds=HEARD_SECONDS)
    return list(db.scalars(select(Worker).where(Worker.heard_at > since).order_by(Worker.name)))

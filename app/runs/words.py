"""What happened to a run, in sentences."""

from __future__ import annotations

from typing import Any

from app.models import Run, RunEvent
from app.runs.curves import held_out_auc
from app.web.formats import filesize, interval, num, plural

SHOWN_KINDS = ("state", "run_started", "checkpoint_saved", "evaluation_finished", "warning", "notice")
"""Kinds that make an entry in the list of events; metrics and progress are drawn."""

STATE_WORDS = {
    "queued": ("clock", "Queued", ""),
    "starting": ("hourglass", "Starting on {worker}, attempt {attempt}", ""),
    "running": ("player-play", "Running on {worker}", ""),
    "paused": ("player-pause", "Paused by a critical alarm", "bad"),
    "stopping": ("player-stop", "Stopping: the step is finished and saved first", "warn"),
    "succeeded": ("check", "Succeeded", "ok"),
    "failed": ("x", "Failed: {reason}", "bad"),
    "cancelled": ("ban", "Cancelled", ""),
    "interrupted": ("refresh-alert", "Interrupted", "warn"),
}

REASONS = {
    "out_of_memory": "out of memory",
    "data": "the data do not fit",
    "diverged": "the training diverged",
    "model": "the base model cannot be used",
    "disk_full": "the disk is full",
    "unknown": "unexpected error",
}

REMEDIES = {
    "out_of_memory": (
        "Lower the tokens of a microbatch; the gradient does not depend on it.",
        "Lower the longest row, in tokens.",
        "Choose a smaller base model or a smaller LoRA rank.",
    ),
    "data": (
        "Look at the snapshot's checks on the readiness page.",
        "Raise the longest row, in tokens, if rows were skipped.",
        "Freeze a new snapshot and launch again.",
    ),
    "diverged": (
        "Lower the learning rate by a factor of 3 to 10.",
        "Use class weights inside the advised range.",
        "Raise beta to stay closer to the reference.",
    ),
    "model": (
        "Check that the folder is still there and under one of the model folders.",
        "Use a model with safetensors and without code of its own.",
        "For a hub id, check that the worker can reach the hub.",
    ),
    "disk_full": (
        "Free some space under the artifacts folder.",
        "Move the artifacts to a larger disk with KTO_ARTIFACTS_URL.",
        "Evaluate less often, so that fewer checkpoints are kept.",
    ),
    "unknown": (
        "Read the end of the log below.",
        "Clone the run and launch it again.",
        "If it fails at the same place, report it with the log.",
    ),
}


def reason_words(run: Run) -> str:
    return REASONS.get(run.failure_reason or "unknown", (run.failure_reason or "unknown").replace("_", " "))


def remedies(run: Run) -> tuple[str, ...]:
    return REMEDIES.get(run.failure_reason or "unknown", REMEDIES["unknown"])


def entry(event: RunEvent) -> dict[str, Any] | None:
    """An item of the list of events: {"at", "icon", "title", "text", "tone"}; None for what is drawn instead."""
    described = _describe(event)
    if described is None:
        return None
    icon, title, text, tone = described
    return {"at": event.at, "icon": icon, "title": title, "text": text, "tone": tone}


def _describe(event: RunEvent) -> tuple[str, str, str, str] | None:
    data = event.data
    if event.kind == "state":
        icon, title, tone = STATE_WORDS.get(data["status"], ("info-circle", data["status"], ""))
        reason = REASONS.get(data.get("reason", ""), data.get("reason", "") or "see below")
        title = title.format(worker=data.get("worker") or "a worker", attempt=event.attempt, reason=reason)
        return icon, title, data.get("message", ""), tone
    if event.kind == "run_started":
        where = f"from step {num(data['start_step'])}" if data["start_step"] else "from the beginning"
        pairs = f"{plural(data['num_units'], 'pair')} of " if data.get("objective") == "dpo" else ""
        rows = f"{pairs}{num(data['num_train_rows'])} rows to train on, {num(data['num_skipped_rows'])} skipped"
        return "info-circle", f"Training {where} to {num(data['total_steps'])}", f"{data['attention']}; {rows}", ""
    if event.kind == "checkpoint_saved":
        return "device-floppy", f"Checkpoint {num(data['step'])} saved", f"{filesize(data['size_bytes'])}, checked", ""
    if event.kind == "evaluation_finished":
        levels = {alarm["level"] for alarm in data.get("alarms") or []}
        tone = "bad" if "critical" in levels else "warn" if "alarm" in levels else ""
        return "chart-dots", f"Checkpoint {num(data['step'])} evaluated", _evaluation_words(data), tone
    if event.kind in {"warning", "notice"}:
        icon = "alert-triangle" if event.kind == "warning" else "info-circle"
        return icon, data["text"], f"Step {event.step}" if event.step else "", "warn" if event.kind == "warning" else ""
    return None


def _evaluation_words(data: dict[str, Any]) -> str:
    auc = held_out_auc(data["heldout"])
    if auc["value"] is None:
        return "AUC cannot be had: the dev split lacks a class"
    found = f"AUC {num(auc['value'], 3)}"
    if auc["low"] is not None:
        found += f", {interval(auc['low'], auc['high'])}"
    categories = (data.get("diversity") or {}).get("num_categories")
    found += f"; {plural(categories, 'category', 'categories')} sampled" if categories else ""
    raised = [alarm["text"] for alarm in data.get("alarms") or [] if alarm["level"] != "watch"]
    return " ".join([f"{found}.", *raised]) if raised else found


def progress_words(progress: dict[str, Any] | None) -> str:
    """What the trainer is busy with, where it is not simply training."""
    if not progress:
        return ""
    words = {
        "loading": "loading the model",
        "reference": "scoring with the reference model",
        "evaluating": "evaluating a checkpoint",
        "saving": "saving a checkpoint",
    }.get(progress["phase"])
    return f"{words}, {progress['done']} of {progress['total']}" if words else ""

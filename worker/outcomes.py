"""How an attempt ended: from its last event, its exit code and who asked it to stop."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any, Literal

from app.models import RunStatus

OUT_OF_MEMORY_WORDS = ("out of memory", "cannot allocate memory", "can't allocate memory", "std::bad_alloc")


REFUSED = 2
"""Exit code of a trainer that refused its spec: nothing was written, the last line names the field and the remedy."""
MODEL_FIELDS = {"base_model", "init_adapter", "reference", "quantization", "lora"}
DATA_FIELDS = {"snapshot_dir", "objective", "max_length", "long_rows", "allow_incomplete", "data", "diversity_prompts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    status: Literal[RunStatus.SUCCEEDED, RunStatus.CANCELLED, RunStatus.FAILED, RunStatus.INTERRUPTED, RunStatus.PAUSED]
    reason: str = ""
    message: str = ""


def outcome_of(
    finished: dict[str, Any] | None, exit_code: int, *, stopped_by: Literal["", "user", "worker"], log: str
) -> Outcome:
    """``finished`` is the attempt's RunFinished, None where it ended without a word; ``log`` the end of what it printed."""
    told = _told(finished) if finished is not None else None
    if told is not None and (told.status != RunStatus.PAUSED or stopped_by != "user"):
        return told
    asked = finished is not None or exit_code in {-signal.SIGTERM, -signal.SIGKILL, 0}
    if stopped_by and asked:
        words = "" if finished is not None else "It did not save in time and was killed; the last checkpoint stands."
        if stopped_by == "user":
            return Outcome(status=RunStatus.CANCELLED, message=words)
        return Outcome(status=RunStatus.INTERRUPTED, message="The worker was shut down. " + words)
    if finished is not None:
        return Outcome(status=RunStatus.INTERRUPTED, message="The trainer was stopped from outside and has saved.")
    return classify_death(exit_code, log)


def _told(finished: dict[str, Any]) -> Outcome | None:
    """What the trainer's own word says whoever asked it to stop; None of one that was stopped."""
    message = finished.get("message", "")
    match finished["status"]:
        case "succeeded":
            return Outcome(status=RunStatus.SUCCEEDED)
        case "failed":
            return Outcome(status=RunStatus.FAILED, reason=finished.get("reason") or "unknown", message=message)
        case "paused":
            return Outcome(status=RunStatus.PAUSED, message=message)
    return None


def classify_death(exit_code: int, log: str) -> Outcome:
    """A trainer that ended without telling how."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if exit_code == REFUSED and last:
        return Outcome(status=RunStatus.FAILED, reason=_refused_by(last), message=last)
    if any(words in log.lower() for words in OUT_OF_MEMORY_WORDS):
        return Outcome(status=RunStatus.FAILED, reason="out_of_memory", message=last)
    if exit_code == -signal.SIGKILL:
        text = "The system killed the trainer (signal 9), most likely because the machine's memory ran out."
        return Outcome(status=RunStatus.FAILED, reason="out_of_memory", message=text)
    if exit_code < 0:
        ended = f"The trainer was ended by signal {-exit_code} ({signal.strsignal(-exit_code)})."
    else:
        ended = f"The trainer ended with code {exit_code} without a word."
    return Outcome(status=RunStatus.FAILED, reason="unknown", message=f"{ended} {last}".strip())


def _refused_by(message: str) -> str:
    """The reason that a message such as ``snapshot_dir: the train split is empty`` stands for."""
    field = message.partition(":")[0].partition(".")[0].strip()
    return "model" if field in MODEL_FIELDS else "data" if field in DATA_FIELDS else "unknown"

"""What can end a run, each with the reason that ``RunFinished`` carries. The message is one sentence for the user."""

from __future__ import annotations

from typing import ClassVar, Literal

Reason = Literal["out_of_memory", "data", "diverged", "model", "disk_full", "unknown"]


class TrainingError(Exception):
    """Ends the run as failed."""

    reason: ClassVar[Reason] = "unknown"


class DataError(TrainingError):
    """The snapshot cannot be trained on."""

    reason = "data"


class ModelError(TrainingError):
    """The base model or its tokenizer cannot be used."""

    reason = "model"


class DivergedError(TrainingError):
    """Loss or gradients stayed non-finite."""

    reason = "diverged"


class CheckpointError(TrainingError):
    """A checkpoint is incomplete, altered, or of another run."""


class SpecError(Exception):
    """The spec cannot be read or run: nothing was written; exit code 2."""


OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Of the device or the host: torch, numpy, the loader of safetensors and the kernel each say it in their own way."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY_WORDS)


class StopRequest(BaseException):
    """SIGTERM was seen at a point where work can be left. Not an Exception, so that no library's handler eats it."""

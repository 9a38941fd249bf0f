"""A version's files against the keep policy of a trainer that is still running.

The mark is a file in the checkpoint's folder. The trainer renames a folder before it looks for the mark, so that one of
the two always wins: either it sees the mark and puts the folder back, or the mark finds no folder here.
"""

from __future__ import annotations

from app.core.errors import ConflictError
from app.core.storage import artifact_path
from app.models import Checkpoint

KEEP = "KEEP"


def keep_files(checkpoint: Checkpoint) -> None:
    """Mark the checkpoint's folder as kept; harmless where the transaction fails later. Raises ConflictError if it is gone."""
    gone = checkpoint.removed_at is not None
    try:
        if not gone:
            (artifact_path(checkpoint.path) / KEEP).touch()
    except OSError:
        gone = True
    if gone:
        raise ConflictError(
            f"The files of the checkpoint at step {checkpoint.step:,} are gone.",
            remedy="Take a checkpoint that is kept; a run keeps its best ones and the last.",
        )

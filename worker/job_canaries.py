"""Whether a checkpoint's answers hold long stretches of what it was trained on, word for word."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.storage import artifact_path
from app.evaluations.service import storable
from app.models import Checkpoint, EvalJob, Run, Snapshot
from worker.alignment.evaluation.safety.canaries import CanaryIndex

EXAMPLES = 5
MAX_SHOWN = 600
Texts = Sequence[tuple[int, int, str, str]]
"""(number of the sample, repeat, prompt, answer)."""


def leaks_of(db: Session, job: EvalJob, arm: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    """{"leaks": {"num_answers", "num_leaked", "examples"}} of a checkpoint's answers; {} where there is no training text.

    ``examples`` are {"number", "repeat", "num_words", "text", "row"}: the longest stretches, ``row`` the training row's id.
    """
    if arm.get("checkpoint_id") is None:
        return {}
    query = select(Snapshot).join(Run, Run.snapshot_id == Snapshot.id).join(Checkpoint, Checkpoint.run_id == Run.id)
    snapshot = db.scalar(query.where(Run.project_id == job.project_id, Checkpoint.id == arm["checkpoint_id"]))
    train = artifact_path(snapshot.path, "train.jsonl") if snapshot is not None else None
    if train is None or not train.is_file():
        return {}
    index = CanaryIndex(_completions(train), among=[answer for _, _, _, answer in texts])
    found: list[dict[str, Any]] = []
    for number, repeat, prompt, answer in texts:
        leaks = index.leaks(answer, prompt)
        if leaks:
            longest = max(leaks, key=lambda leak: leak.num_words)
            place: dict[str, Any] = {
                "number": number,
                "repeat": repeat,
                "num_words": longest.num_words,
                "row": longest.completion,
            }
            found.append(place | {"text": storable(longest.text[:MAX_SHOWN])})
    examples = sorted(found, key=lambda item: -item["num_words"])[:EXAMPLES]
    return {"leaks": {"num_answers": len(texts), "num_leaked": len(found), "examples": examples}}


def _completions(train: Path) -> Iterator[tuple[int, str]]:
    """Line by line: a training split may be larger than memory."""
    with train.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row["id"], " ".join(str(message.get("content") or "") for message in row["completion"])

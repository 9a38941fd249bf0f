"""Held-out log-ratios of every arm: log p(completion | prompt) under the arm minus that under the bare base model.

An arm with a system prompt is asked with it, the base without: the ratio is of what each would be served as.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.alignment.errors import DataError, DivergedError, ModelError, StopRequest
from worker.alignment.evaluate import with_system
from worker.alignment.evaluate_files import LinesFile, ProgressFile
from worker.alignment.jobs import JobArm, JobSpec

if TYPE_CHECKING:
    from worker.alignment.dataset import Row
    from worker.alignment.policy import Policy

ROWS_PER_GROUP = 256


class Heldout:
    """Raises DataError where the split cannot be read."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self._records = _records(Path(spec.heldout))
        out = Path(spec.out_dir) / "heldout"
        self._files = {arm.name: LinesFile(out / f"{arm.name}.jsonl", ("id",)) for arm in spec.arms}
        self._base: dict[int, float] = {}

    @property
    def size(self) -> int:
        return len(self._records) * len(self._spec.arms)

    @property
    def done(self) -> int:
        return sum(len(file.keys) for file in self._files.values())

    def is_done(self, arm: JobArm) -> bool:
        return len(self._files[arm.name].keys) >= len(self._records)

    def score(self, arm: JobArm, policy: Policy, stop: Callable[[], bool], progress: ProgressFile) -> None:
        """Score the rows that the arm's file lacks; ``policy`` is this arm's model now. A row that cannot be scored is a
        line with an ``error``. Raises DivergedError where a log-prob is not finite, StopRequest on SIGTERM.
        """
        file = self._files[arm.name]
        missing = [record for record in self._records if (record["id"],) not in file.keys]
        progress.tell("scoring")
        for start in range(0, len(missing), ROWS_PER_GROUP):
            if stop():
                raise StopRequest
            part = missing[start : start + ROWS_PER_GROUP]
            file.append(self._lines(arm, policy, part))
            progress.tell("scoring", progress.done + len(part))

    def _lines(self, arm: JobArm, policy: Policy, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        from worker.alignment.dataset import Encoder, Row

        encoder = Encoder(policy.tokenizer, max_length=self._spec.config.max_length, end_ids=_end_ids(policy))
        pairs = [
            (encoder.encode(record), encoder.encode(_with_system(record, arm.system_prompt))) for record in records
        ]
        plain = [row for row, asked in pairs if isinstance(row, Row) and isinstance(asked, Row)]
        asked = [asked for row, asked in pairs if isinstance(row, Row) and isinstance(asked, Row)]
        base = self._base_logps(policy, plain)
        logps = base if not arm.adapter_dir and not arm.system_prompt else self._logps(policy, asked)
        scored = {row.id: (row, own - before) for row, own, before in zip(plain, logps, base, strict=True)}
        bad = [row_id for row_id, (_, ratio) in scored.items() if not math.isfinite(ratio)]
        if bad:
            raise DivergedError(f"Held-out log-probs of {arm.name} are not finite (rows {bad[:10]}).")
        return [_line(record, scored.get(record["id"]), *pair) for record, pair in zip(records, pairs, strict=True)]

    def _base_logps(self, policy: Policy, rows: Sequence[Row]) -> list[float]:
        """Of the bare base model, computed once for all arms."""
        missing = [row for row in rows if row.id not in self._base]
        if missing:
            with policy.as_reference():
                self._base.update(zip((row.id for row in missing), self._logps(policy, missing), strict=True))
        if not all(math.isfinite(self._base[row.id]) for row in rows):
            raise ModelError("The base model gives log-probabilities that are not finite; try precision float32.")
        return [self._base[row.id] for row in rows]

    def _logps(self, policy: Policy, rows: Sequence[Row]) -> list[float]:
        if not rows:
            return []
        found = policy.score([row.pair for row in rows], token_budget=self._spec.config.tokens_per_microbatch)
        values: list[float] = found.double().cpu().tolist()
        return values


def _line(record: dict[str, Any], scored: tuple[Row, float] | None, row: Any, asked: Any) -> dict[str, Any]:
    if scored is None:
        reason = getattr(row, "reason", "") or getattr(asked, "reason", "")
        return {"id": record["id"], "label": record["label"], "root": str(record["root"]), "error": reason}
    found, ratio = scored
    return {
        "id": found.id,
        "prompt_key": found.prompt_key,
        "root": found.root,
        "label": found.label,
        "logratio": ratio,
        "num_tokens": len(found.pair.completion_ids),
        "num_words": sum(len(str(message.get("content") or "").split()) for message in record["completion"]),
    }


def _with_system(record: dict[str, Any], system_prompt: str) -> dict[str, Any]:
    return record | {"prompt": with_system(record["prompt"], system_prompt)} if system_prompt else record


def _end_ids(policy: Policy) -> set[int]:
    from worker.alignment.generate import end_token_ids

    return end_token_ids(policy.model, policy.tokenizer)


def _records(path: Path) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path.name} line {number} is not JSON: {error}") from error
        lacking = [name for name in ("id", "prompt", "completion", "label", "root") if name not in record]
        if lacking:
            raise DataError(f"{path.name} line {number} is not a snapshot row: it has no {lacking[0]}")
        found.append(record)
    return found

"""Log-prob per token of completions under a bare base model: ``python -m worker.alignment.token_scores spec.json``.

The same code as a run's reference: the trainer's encoding of a row, its packed log-probs after the same probe, its precision.
``spec.json`` is a ``ScoreSpec``. Writes ``scores.jsonl`` with {"id", "logp" (sum in nats), "tokens"} or {"id", "skipped" (why)}, and
``done.json`` with {"dtype", "device"}. Exit 0: done; 1: failed, the last line of stderr says why.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.alignment.config import AlignmentConfig, ConfigError
from worker.alignment.dataset import Encoder, Row, SkippedRow
from worker.alignment.errors import TrainingError
from worker.alignment.evaluate_arms import arm, load_base
from worker.alignment.generate import end_token_ids
from worker.alignment.policy import Policy
from worker.alignment.probe import probe
from worker.alignment.train import die_with_parent

TOKEN_BUDGET = 4096
ROWS_AT_ONCE = 64
NUM_PROBED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSpec:
    model_path: str
    base_model: str
    """What the user calls it."""
    rows: str
    """JSON lines of snapshot rows: {"id", "prompt", "completion", "label", "finish_reason", …}."""
    out_dir: str
    max_length: int = 2048


def score_rows(policy: Policy, rows: Sequence[Row]) -> Iterator[tuple[Row, float]]:
    """Each row with its summed log-prob under the bare base model, in nats."""
    ordered = sorted(rows, key=lambda row: row.num_tokens)
    if ordered:
        step = max(len(ordered) // NUM_PROBED, 1)
        with arm(policy, ""):
            probe(policy, [row.pair for row in ordered[::step][:NUM_PROBED]])
    for start in range(0, len(ordered), ROWS_AT_ONCE):
        group = ordered[start : start + ROWS_AT_ONCE]
        with arm(policy, ""):
            logps = policy.score([row.pair for row in group], token_budget=TOKEN_BUDGET)
        yield from zip(group, logps.double().tolist(), strict=True)


def run(spec: ScoreSpec) -> None:
    """Raises TrainingError where the model cannot be loaded."""
    config = AlignmentConfig(base_model=spec.base_model, max_length=spec.max_length)
    policy = load_base(spec.model_path, config)
    encoder = Encoder(
        policy.tokenizer, max_length=spec.max_length, end_ids=end_token_ids(policy.model, policy.tokenizer)
    )
    rows: list[Row] = []
    out = Path(spec.out_dir)
    with Path(spec.rows).open(encoding="utf-8") as lines, (out / "scores.jsonl").open("w", encoding="utf-8") as file:
        for line in lines:
            row = encoder.encode(json.loads(line))
            if isinstance(row, SkippedRow):
                _write(file, {"id": row.id, "skipped": row.reason})
            else:
                rows.append(row)
        for row, logp in score_rows(policy, rows):
            _write(file, {"id": row.id, "logp": logp, "tokens": len(row.pair.completion_ids)})
    told = {"dtype": str(policy.dtype).removeprefix("torch."), "device": policy.device.type}
    (out / "done.json").write_text(json.dumps(told), encoding="utf-8")


def _write(file: Any, line: dict[str, Any]) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()


def main(arguments: Sequence[str]) -> int:
    die_with_parent()
    try:
        run(ScoreSpec(**json.loads(Path(arguments[0]).read_text(encoding="utf-8"))))
    except (TrainingError, ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

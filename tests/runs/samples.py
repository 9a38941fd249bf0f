"""A base model's folder, a snapshot and a config, as small as they can be and still real."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.core.storage import artifact_path, data_dir
from app.models import Project, Snapshot
from worker.alignment.config import AlignmentConfig, EvaluationSettings


def model_folder(name: str = "tiny", root: Path | None = None, **config: Any) -> Path:
    """Not trainable: config, a safetensors header with 48 parameters, and a tokenizer file."""
    folder = (root or data_dir() / "models") / name
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 4096} | config
    (folder / "config.json").write_text(json.dumps(facts))
    header = json.dumps({"w": {"dtype": "F32", "shape": [6, 8], "data_offsets": [0, 192]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(192))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return folder


def snapshot_row(number: int, *, label: bool, prompt: str | None = None, words: int = 4) -> dict[str, Any]:
    return {
        "id": number,
        "prompt": [{"role": "user", "content": prompt or f"Question {number}?"}],
        "completion": [{"role": "assistant", "content": "word " * words}],
        "label": label,
        "category": "sums",
        "root": f"root-{number}",
        "finish_reason": None,
    }


def freeze(
    db: Session, project: Project, train: list[dict[str, Any]], dev: list[dict[str, Any]], name: str = "s1"
) -> Snapshot:
    path = f"snapshots/{name}-{project.id}"
    folder = artifact_path(path)
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": train, "dev": dev, "test": dev}
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = {split: _counts(rows) for split, rows in splits.items()}
    (folder / "manifest.json").write_text(json.dumps({"hash": name, "counts": counts, "rule": {}}))
    row = Snapshot(
        project_id=project.id,
        content_hash=(name.encode().hex() * 64)[:64],
        rule={"majority": True},
        path=path,
        counts=counts | {"categories": 1, "dropped": {}},
        size_bytes=1000,
    )
    db.add(row)
    db.flush()
    return row


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    desirable = sum(row["label"] for row in rows)
    prompts = len({json.dumps(row["prompt"]) for row in rows})
    return {"desirable": desirable, "undesirable": len(rows) - desirable, "prompts": prompts, "roots": prompts}


def balanced(count: int = 120) -> list[dict[str, Any]]:
    return [snapshot_row(number, label=number % 2 == 0) for number in range(count)]


def mixed_dev() -> list[dict[str, Any]]:
    return [snapshot_row(1000 + number, label=number % 2 == 0, prompt="The same?") for number in range(4)]


def small_config(base_model: str | Path, **changes: Any) -> AlignmentConfig:
    settings: dict[str, Any] = {
        "max_steps": 6,
        "batch_size": 4,
        "max_length": 256,
        "evaluation": EvaluationSettings(interval_steps=2, samples_per_prompt=2, max_new_tokens=8),
    }
    return AlignmentConfig(base_model=str(base_model), **(settings | changes))

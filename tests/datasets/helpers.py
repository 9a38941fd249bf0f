"""Many labelled rows at once, straight into the tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from app.core.ids import content_hash
from app.models import Completion, Project, Prompt, Rating

_numbers = count(1)
Item = dict[str, Any]


def item(prompt: str, completion: str, label: bool, **more: Any) -> Item:
    return {"prompt": prompt, "completion": completion, "label": label, **more}


def simple_items(number: int, *, undesirable_every: int = 3) -> list[Item]:
    return [
        item(f"Question {i}?", f"Answer {i}." * (1 + i % 5), i % undesirable_every != 0, category=f"topic-{i % 4}")
        for i in range(number)
    ]


def insert_items(db: Session, project: Project, items: Iterable[Item]) -> None:
    """One prompt, completion and rating each; prompts with equal content are one row."""
    prompts: dict[str, dict[str, Any]] = {}
    completions: dict[str, dict[str, Any]] = {}
    ratings = []
    for entry in items:
        messages = entry.get("messages") or [{"role": "user", "content": entry["prompt"]}]
        conversation = entry.get("conversation_id")
        prompt_hash = content_hash([messages, entry.get("category"), conversation])
        root = content_hash(["conversation", conversation] if conversation else messages[:1])
        prompts[prompt_hash] = {
            "project_id": project.id,
            "content_hash": prompt_hash,
            "messages": messages,
            "category": entry.get("category"),
            "conversation_id": conversation,
            "root": root,
        }
        answer = [{"role": "assistant", "content": entry["completion"]}]
        answer_hash = content_hash([prompt_hash, answer, entry.get("model"), entry.get("finish_reason")])
        completions[answer_hash] = {
            "project_id": project.id,
            "prompt": prompt_hash,
            "content_hash": answer_hash,
            "messages": answer,
            "text": entry["completion"],
            "model": entry.get("model"),
            "finish_reason": entry.get("finish_reason"),
        }
        ratings.append((answer_hash, entry))
    prompt_ids = _insert(db, Prompt, list(prompts.values()))
    rows = [
        {**{k: v for k, v in row.items() if k != "prompt"}, "prompt_id": prompt_ids[row["prompt"]]}
        for row in completions.values()
    ]
    completion_ids = _insert(db, Completion, rows)
    db.execute(
        insert(Rating),
        [
            {
                "project_id": project.id,
                "completion_id": completion_ids[answer_hash],
                "source": entry.get("source", "import"),
                "rater": entry.get("rater", f"r{next(_numbers)}"),
                "value": entry["label"],
            }
            for answer_hash, entry in ratings
        ],
    )
    db.flush()


def _insert(db: Session, table: Any, rows: list[dict[str, Any]]) -> dict[str, int]:
    found = db.execute(insert(table).returning(table.content_hash, table.id), rows)
    return {row.content_hash: row.id for row in found}


def read_rows(folder: Path, side: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()]

"""``Idempotency-Key``: the same request again, within a day, has the same answer and is done once.

The key is a row of the transaction that does the work: two requests at once wait for each other at its primary key, and one that
failed leaves nothing behind, so that its next try is the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel
from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.core.errors import ConflictError, InvalidError
from app.models import IdempotencyKey

HEADER = "Idempotency-Key"
KEPT = timedelta(hours=24)
MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What a write is answered with."""

    status: int
    body: BaseModel | dict[str, Any] | None = None
    replayed: bool = False

    def response(self) -> Response:
        headers = {"Idempotency-Replayed": "true"} if self.replayed else None
        if self.body is None:
            return Response(status_code=self.status, headers=headers)
        if isinstance(self.body, BaseModel):
            content = self.body.model_dump_json()
        else:
            content = json.dumps(self.body, ensure_ascii=False, separators=(",", ":"))
        return Response(content, self.status, headers, "application/json")


def key_of(request: Request) -> str | None:
    """None where the request has none. Raises InvalidError."""
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_CHARS or not key.isprintable():
        raise InvalidError(
            "The idempotency key does not fit.", fields={HEADER: f"1 to {MAX_CHARS} printable characters"}
        )
    return key


def request_hash(request: Request, body: Any) -> str:
    """``body`` as parsed: blanks and the order of keys make no other request."""
    said = json.dumps([request.method, request.url.path, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()


def once(db: Session, project_id: int, source: str, request: Request, body: Any, work: Callable[[], Answer]) -> Answer:
    """``work``'s answer; or, where the request came before with this key, the answer that it had.

    Keys are the source's own. Raises ConflictError for a key that came with another request.
    """
    sent = key_of(request)
    if sent is None:
        return work()
    key, digest = f"{source}:{sent}", request_hash(request, body)
    row = {"project_id": project_id, "key": key, "request_hash": digest, "created_at": utcnow()}
    claim = insert(IdempotencyKey).values(row).on_conflict_do_nothing().returning(IdempotencyKey.key)
    mine = (IdempotencyKey.project_id == project_id, IdempotencyKey.key == key)
    db.execute(delete(IdempotencyKey).where(*mine, IdempotencyKey.created_at < utcnow() - KEPT))
    if db.scalar(claim) is None:
        columns = (IdempotencyKey.request_hash, IdempotencyKey.status, IdempotencyKey.body)
        known, status, kept = db.execute(select(*columns).where(*mine)).one()
        if known != digest:
            raise ConflictError(
                "This idempotency key came with another request.",
                remedy="Use a new key for each request, and the same one only to send it again.",
                fields={HEADER: "was used with another method, address or body in the last 24 hours"},
            )
        return Answer(status, kept, replayed=True)
    answer = work()
    kept = answer.body.model_dump(mode="json") if isinstance(answer.body, BaseModel) else answer.body
    db.execute(update(IdempotencyKey).where(*mine).values(status=answer.status, body=kept))
    return answer


def forget_old(db: Session) -> None:
    db.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < utcnow() - KEPT))

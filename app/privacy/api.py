"""The API for apps that pass on a person's request to be forgotten."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.accounts.access import KeyHolder, RequireKey
from app.core.db import Db
from app.models import Erasure
from app.privacy import erasing, service
from app.web.openapi import BEARER, error_answers

router = APIRouter(prefix="/api/v1", tags=["privacy"], dependencies=[BEARER])
Eraser = Annotated[KeyHolder, Depends(RequireKey("privacy:erase"))]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class ErasureRequest(BaseModel):
    """Exactly one of the two."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"subject": "customer-81"}]})

    rater: Name | None = None
    """Whose ratings, comments and corrections go."""
    subject: Name | None = None
    """Whose prompts go, with the answers to them."""

    @model_validator(mode="after")
    def _one(self) -> ErasureRequest:
        if (self.rater is None) == (self.subject is None):
            raise ValueError("name a rater or a subject, one of the two")
        return self


class ErasureOut(BaseModel):
    id: int
    kind: str
    status: str
    """queued (also while it waits), running, done, failed."""
    message: str | None
    """What it waits for, or why it failed."""
    counts: dict[str, Any]
    affected: dict[str, Any]
    """Snapshots with old and new hash; runs and versions that were trained on them."""
    created_at: datetime
    finished_at: datetime | None


def _out(row: Erasure) -> ErasureOut:
    return ErasureOut(
        id=row.id,
        kind=row.kind,
        status=row.status,
        message=row.error,
        counts=row.counts,
        affected=row.affected,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


@router.post("/erasures", status_code=202, responses=error_answers(401, 403, 422))
def ask(db: Db, holder: Eraser, body: ErasureRequest) -> ErasureOut:
    """Have a person's texts erased. The same request again, while it is open, is the same erasure."""
    kind, who = ("rater", body.rater) if body.rater is not None else ("subject", body.subject)
    return _out(erasing.request(db, holder.project, kind, who or "", by=f"key {holder.key.prefix}"))


@router.get("/erasures/{erasure_id}", responses=error_answers(401, 403, 404, 422))
def read(db: Db, holder: Eraser, erasure_id: Annotated[int, Path(ge=1, le=2**31 - 1)]) -> ErasureOut:
    """How far it is."""
    return _out(service.find_erasure(db, holder.project, erasure_id))

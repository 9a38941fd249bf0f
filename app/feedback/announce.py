"""Tells webhooks of new verdicts, in the transaction that stores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, BigInteger, any_, literal, select
from sqlalchemy.orm import Session

from app.models import Completion, Rating
from app.webhooks.events import emit


def announce_verdicts(db: Session, project_id: int, changes: Mapping[int, str]) -> None:
    """``changes``: ids of stored ratings, and `created` for a rater's first word, `updated` where it replaced one."""
    if changes:
        emit(db, project_id, "feedback.created", lambda: _events(db, project_id, changes))


def _events(db: Session, project_id: int, changes: Mapping[int, str]) -> Sequence[Mapping[str, Any]]:
    query = (
        select(Rating, Completion.external_id)
        .join(Completion, Completion.id == Rating.completion_id)
        .where(Rating.project_id == project_id, Rating.id == any_(literal(list(changes), ARRAY(BigInteger))))
        .order_by(Rating.id)
    )
    return [
        {
            "id": rating.id,
            "change": changes[rating.id],
            "label": rating.value,
            "source": rating.source,
            "external_id": rating.external_id,
            "output_id": rating.completion_id,
            "completion_id": external_id,
            "occurred_at": rating.occurred_at.isoformat(),
        }
        for rating, external_id in db.execute(query)
    ]

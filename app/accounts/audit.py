"""The audit trail: one row per state change that a person or the system made."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from app.models import AuditEntry


def record(
    db: Session,
    action: str,
    *,
    project_id: int | None = None,
    user_id: int | None = None,
    subject: str = "",
    **details: Any,
) -> None:
    db.add(AuditEntry(action=action, project_id=project_id, user_id=user_id, subject=subject, details=details))

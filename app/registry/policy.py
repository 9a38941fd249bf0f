"""A project's own rules for promotion: margins, and whether missing evidence blocks."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.accounts.audit import record
from app.core.clock import utcnow
from app.core.errors import InvalidError
from app.models import GatePolicy, Project, User
from app.registry.gates import MARGINS, NAMES

MAX_POINTS = 50.0


def form_context(
    db: Session, project: Project, *, typed: dict[str, str] | None = None, errors: dict[str, str] | None = None
) -> dict[str, Any]:
    """What the page shows: as saved, or as typed where that was refused. Margins in points."""
    saved = db.get(GatePolicy, project.id)
    margins = MARGINS | (saved.thresholds if saved else {})
    strict = set(saved.blocking_when_missing) if saved else set()
    if typed is not None:
        strict = {key for key in NAMES if typed.get(f"block_{key}")}
    return {
        "names": NAMES,
        "strict": strict,
        "margins": {key: (typed or {}).get(f"margin_{key}", f"{100 * value:g}") for key, value in margins.items()},
        "defaults": {key: f"{100 * value:g}" for key, value in MARGINS.items()},
        "errors": errors or {},
    }


def save(db: Session, project: Project, typed: dict[str, str], *, user: User) -> None:
    """Raises InvalidError for the fields ``margin_<gate>``."""
    errors: dict[str, str] = {}
    thresholds: dict[str, float] = {}
    for key in MARGINS:
        try:
            points = float(typed.get(f"margin_{key}", "").replace(",", ".").replace("\u2212", "-"))
        except ValueError:
            points = -1.0
        if 0 <= points <= MAX_POINTS:
            thresholds[key] = points / 100
        else:
            errors[f"margin_{key}"] = f"A number of points from 0 to {MAX_POINTS:g}."
    if errors:
        raise InvalidError("A margin is not a number of points.", fields=errors)
    values = {
        "blocking_when_missing": [key for key in NAMES if typed.get(f"block_{key}")],
        "thresholds": thresholds,
        "updated_by": user.id,
        "updated_at": utcnow(),
    }
    db.execute(
        upsert(GatePolicy)
        .values(project_id=project.id, **values)
        .on_conflict_do_update(index_elements=["project_id"], set_=values)
    )
    record(
        db,
        "gate.policy",
        project_id=project.id,
        user_id=user.id,
        subject=project.slug,
        margins=thresholds,
        blocking_when_missing=values["blocking_when_missing"],
    )

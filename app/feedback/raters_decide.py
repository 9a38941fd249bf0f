"""What a lead decides about a rater: how much their ratings weigh in labels."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.clock import utcnow
from app.core.errors import InvalidError, NotFoundError
from app.models import Project, RaterSetting, Rating, User

MAX_REASON = 500


def decide_weight(
    db: Session, project: Project, source: str, rater: str, weight: str, reason: str, user: User
) -> float:
    """The weight before. ``weight``: per cent as typed, 0 to 100; 0 leaves the rater out of labels.

    Raises InvalidError by field, NotFoundError for a rater without a rating in this project.
    """
    reason, errors = reason.replace("\x00", "").strip(), {}
    try:
        share = float(weight.strip().removesuffix("%").strip().replace(",", ".")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        errors["weight"] = "a percentage from 0 to 100"
    if len(reason) > MAX_REASON:
        errors["reason"] = f"at most {MAX_REASON} characters"
    elif share != 1 and not reason:
        errors["reason"] = "say why, for those who ask later"
    if errors:
        raise InvalidError("The decision does not fit.", fields=errors)
    known = Rating.project_id == project.id, Rating.source == source, Rating.rater == rater
    if "\x00" in source + rater or db.scalar(select(Rating.id).where(*known).limit(1)) is None:
        raise NotFoundError("There is no such rater in this project.")
    before = db.get(RaterSetting, (project.id, source, rater), populate_existing=True)
    old = (before.weight, before.reason) if before else (1.0, "")
    if old == (share, reason):
        return old[0]
    values = {"weight": share, "reason": reason, "decided_by": user.id, "decided_at": utcnow()}
    db.execute(
        insert(RaterSetting)
        .values(project_id=project.id, source=source, rater=rater, **values)
        .on_conflict_do_update(index_elements=["project_id", "source", "rater"], set_=values)
    )
    audit.record(
        db,
        "rater.weighed",
        project_id=project.id,
        user_id=user.id,
        subject=f"{source}/{rater}"[:200],
        before=old[0],
        after=share,
        reason=reason,
    )
    return old[0]

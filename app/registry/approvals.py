"""Promotion over a blocking gate: asked for with a reason, and approved by another person where the project has one."""

from __future__ import annotations

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.accounts.audit import record
from app.core.clock import utcnow
from app.core.errors import ConflictError, ForbiddenError, NotFoundError
from app.models import Membership, ModelVersion, Project, PromotionRequest, Role, User
from app.registry.gates import Gate

APPROVERS = (Role.OWNER.value, Role.LEAD.value)


def num_approvers(db: Session, project: Project) -> int:
    """People who may promote here: active owners and leads of the project, and owners of the installation."""
    held = select(Membership.user_id).where(Membership.project_id == project.id, Membership.role.in_(APPROVERS))
    where = (User.is_active, or_(User.is_owner, User.id.in_(held)))
    return db.scalar(select(func.count()).select_from(User).where(*where)) or 0


def pending_request(db: Session, version: ModelVersion) -> PromotionRequest | None:
    where = (PromotionRequest.version_id == version.id, PromotionRequest.status == "pending")
    return db.scalar(select(PromotionRequest).where(*where))


def ask(db: Session, version: ModelVersion, gates: list[Gate], *, user: User | None, reason: str) -> PromotionRequest:
    """The one pending request of the version; asking twice finds the first."""
    values = {
        "project_id": version.project_id,
        "version_id": version.id,
        "reason": reason,
        "gates": {gate.key: gate.state for gate in gates},
        "requested_by": user.id if user else None,
    }
    made = upsert(PromotionRequest).values(**values).on_conflict_do_nothing().returning(PromotionRequest.id)
    if db.scalar(made) is not None:
        record(
            db,
            "promotion.asked",
            project_id=version.project_id,
            user_id=user.id if user else None,
            subject=f"v{version.number}",
            reason=reason,
            gates=values["gates"],
        )
    request = pending_request(db, version)
    assert request is not None
    return request


def decide(db: Session, version: ModelVersion, *, user: User, status: str, reason: str) -> PromotionRequest:
    """End the pending request as approved, refused or withdrawn; the first decision stands.

    Raises NotFoundError without one, ForbiddenError where a person would approve their own request or withdraw another's,
    ConflictError where somebody else was quicker.
    """
    request = db.scalar(
        select(PromotionRequest)
        .where(PromotionRequest.version_id == version.id, PromotionRequest.project_id == version.project_id)
        .order_by(PromotionRequest.id.desc())
        .limit(1)
        .with_for_update()
    )
    if request is None:
        raise NotFoundError(f"Nobody has asked to promote v{version.number}.")
    if request.status != "pending":
        raise ConflictError(f"The request for v{version.number} is {request.status} already.")
    own = request.requested_by == user.id
    if own and status != "withdrawn":
        raise ForbiddenError("Who asks cannot approve.", remedy="Another owner or lead of the project decides.")
    if status == "withdrawn" and not own:
        raise ForbiddenError("Only who asked can withdraw.", remedy="Refuse it instead.")
    request.status, request.decided_by, request.decided_at = status, user.id, utcnow()
    request.decision_reason = reason
    record(
        db,
        f"promotion.{status}",
        project_id=version.project_id,
        user_id=user.id,
        subject=f"v{version.number}",
        reason=reason,
        asked_by=request.requested_by,
    )
    db.flush()
    return request

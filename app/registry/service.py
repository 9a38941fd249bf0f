"""Versions and the alias that apps follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session, joinedload

from app.accounts.audit import record
from app.core.clock import utcnow
from app.core.errors import InvalidError, NotFoundError
from app.core.pagination import Page, page_of
from app.models import Alias, AuditEntry, Checkpoint, Evaluation, ModelVersion, Project, PromotionRequest, Run, User
from app.registry import approvals
from app.registry.evidence import gates_of_version
from app.registry.gates import Gate, blocking
from app.registry.keeping import keep_files
from app.webhooks.events import emit

PRODUCTION = "production"
VERSIONS_PER_PAGE = 25
MAX_REASON_CHARS = 2_000


def _lock_project(db: Session, project: Project) -> None:
    """Numbers and aliases of a project are given out one at a time."""
    db.execute(select(Project.id).where(Project.id == project.id).with_for_update())


def make_version(
    db: Session, *, project: Project, checkpoint_id: int, user: User | None, note: str = ""
) -> ModelVersion:
    """The version of a checkpoint; made once, found again afterwards.

    Raises NotFoundError across projects, ConflictError where the checkpoint's files are gone.
    """
    scope = (Checkpoint.project_id == project.id, Checkpoint.id == checkpoint_id)
    # Before the checkpoint is read and before the project is locked: whoever records the run's checkpoints holds this.
    db.execute(select(Run.id).join(Checkpoint).where(*scope).with_for_update(of=Run, read=True))
    checkpoint = db.scalar(select(Checkpoint).where(*scope).execution_options(populate_existing=True))
    if checkpoint is None:
        raise NotFoundError("There is no such checkpoint.")
    _lock_project(db, project)
    if (existing := version_of(db, project.id, checkpoint.id)) is not None:
        return existing
    keep_files(checkpoint)
    last = db.scalar(select(func.max(ModelVersion.number)).where(ModelVersion.project_id == project.id)) or 0
    version = ModelVersion(
        project_id=project.id,
        number=last + 1,
        run_id=checkpoint.run_id,
        checkpoint_id=checkpoint.id,
        note=note,
        created_by=user.id if user else None,
    )
    db.add(version)
    db.flush()
    record(
        db,
        "version.made",
        project_id=project.id,
        user_id=version.created_by,
        subject=f"v{version.number}",
        checkpoint_id=checkpoint.id,
        step=checkpoint.step,
    )
    return version


def version_of(db: Session, project_id: int, checkpoint_id: int) -> ModelVersion | None:
    """The version that was made of a checkpoint."""
    mine = (ModelVersion.project_id == project_id, ModelVersion.checkpoint_id == checkpoint_id)
    return db.scalar(select(ModelVersion).where(*mine))


def evaluated_at(db: Session, version: ModelVersion) -> str:
    """The query of the version's checkpoint on the pages of its evaluation; "" where it was not evaluated."""
    mine = (Evaluation.project_id == version.project_id, Evaluation.checkpoint_id == version.checkpoint_id)
    step = db.scalar(select(Evaluation.step).where(*mine).limit(1))
    return "" if step is None else f"?step={step}"


def _versions(project_id: int) -> Select[ModelVersion]:
    return (
        select(ModelVersion)
        .options(
            joinedload(ModelVersion.run).joinedload(Run.snapshot),
            joinedload(ModelVersion.checkpoint),
        )
        .where(ModelVersion.project_id == project_id)
    )


def find_version(db: Session, project_id: int, number: int) -> ModelVersion:
    version = db.scalar(_versions(project_id).where(ModelVersion.number == number))
    if version is None:
        raise NotFoundError(f"There is no version v{number}.")
    return version


def latest_version(db: Session, project_id: int) -> ModelVersion | None:
    return db.scalar(_versions(project_id).order_by(ModelVersion.number.desc()).limit(1))


def versions_page(db: Session, project_id: int, before: int | None) -> Page[ModelVersion]:
    """Newest first; ``before`` is the last number of the page before."""
    query = _versions(project_id)
    if before is not None:
        query = query.where(ModelVersion.number < before)
    rows = list(db.scalars(query.order_by(ModelVersion.number.desc()).limit(VERSIONS_PER_PAGE + 1)))
    return page_of(rows, VERSIONS_PER_PAGE, lambda version: version.number)


def production(db: Session, project_id: int) -> Alias | None:
    return db.scalar(
        select(Alias)
        .options(
            joinedload(Alias.version).joinedload(ModelVersion.run),
            joinedload(Alias.version).joinedload(ModelVersion.checkpoint),
        )
        .where(Alias.project_id == project_id, Alias.name == PRODUCTION)
    )


def promotions(db: Session, project_id: int, limit: int = 20) -> Sequence[AuditEntry]:
    """The last moves of ``production``, newest first."""
    return db.scalars(
        select(AuditEntry)
        .where(AuditEntry.project_id == project_id, AuditEntry.action == "version.promoted")
        .order_by(AuditEntry.id.desc())
        .limit(limit)
    ).all()


def promotions_of(db: Session, version: ModelVersion) -> Sequence[AuditEntry]:
    """Of this version, newest first."""
    return db.scalars(
        select(AuditEntry)
        .where(
            AuditEntry.project_id == version.project_id,
            AuditEntry.action == "version.promoted",
            AuditEntry.subject == f"v{version.number}",
        )
        .order_by(AuditEntry.id.desc())
        .limit(20)
    ).all()


def previous_version(db: Session, project_id: int, holder: ModelVersion) -> ModelVersion | None:
    """What to roll back to: the version that held ``production`` before ``holder`` got it."""
    for entry in promotions(db, project_id):
        if entry.details["to"] == holder.number and entry.details["from"] is not None:
            return db.scalar(_versions(project_id).where(ModelVersion.number == entry.details["from"]))
    return None


def promote(
    db: Session, *, project: Project, number: int, user: User | None, reason: str = ""
) -> Alias | PromotionRequest:
    """Point ``production`` at the version. Going back to the version before is the rollback: no gate stands in its way.

    Where a gate blocks, a reason is needed, and in a project with two owners or leads another person's approval: then the
    pending request comes back instead of the alias. Raises InvalidError for the field ``reason`` when it is missing,
    ConflictError where the files of the checkpoint are gone. Repeating it changes nothing.
    """
    reason = _clean_reason(reason)
    _lock_project(db, project)
    version = find_version(db, project.id, number)
    holder = production(db, project.id)
    if holder is not None and holder.version_id == version.id:
        return holder
    before = previous_version(db, project.id, holder.version) if holder else None
    is_rollback = before is not None and before.id == version.id
    gates = gates_of_version(db, version)
    stopped_by = [] if is_rollback else blocking(gates)
    if stopped_by and not reason:
        names = ", ".join(gate.name for gate in stopped_by)
        raise InvalidError(
            "A gate blocks, so the promotion needs a reason.",
            fields={"reason": f"Say why v{number} may serve although this blocks: {names}."},
        )
    if stopped_by and approvals.num_approvers(db, project) > 1:
        keep_files(version.checkpoint)
        return approvals.ask(db, version, gates, user=user, reason=reason)
    return _serve(db, project, version, gates, user, reason=reason)


def approve(db: Session, *, project: Project, number: int, user: User, reason: str) -> Alias:
    """Promote what another person asked for. Raises InvalidError without a reason, and as ``approvals.decide`` does."""
    reason = _clean_reason(reason)
    if not reason:
        raise InvalidError("An approval needs a reason.", fields={"reason": "Say why this version may serve."})
    _lock_project(db, project)
    version = find_version(db, project.id, number)
    request = approvals.decide(db, version, user=user, status="approved", reason=reason)
    gates = gates_of_version(db, version)
    return _serve(
        db, project, version, gates, user, reason=reason, requested_by=request.requested_by, asked=request.reason
    )


def _serve(
    db: Session, project: Project, version: ModelVersion, gates: list[Gate], user: User | None, **details: Any
) -> Alias:
    keep_files(version.checkpoint)
    holder = production(db, project.id)
    before = holder.version.number if holder else None
    _move(db, version, user)
    _audit(db, version, holder.version if holder else None, gates, user, **details)
    db.expire_all()
    moved = production(db, project.id)
    assert moved is not None
    emit(db, project.id, "model.promoted", lambda: [_promotion(moved, before)])
    return moved


def _promotion(alias: Alias, before: int | None) -> dict[str, Any]:
    version = alias.version
    return {
        "version": version.number,
        "replaces": before,
        "run_id": version.run_id,
        "checkpoint_step": version.checkpoint.step,
        "checkpoint_manifest_sha256": version.checkpoint.manifest_sha256,
        "promoted_at": alias.moved_at.isoformat(),
    }


def _clean_reason(reason: str) -> str:
    if len(reason.strip()) > MAX_REASON_CHARS:
        raise InvalidError(
            "The reason is too long.", fields={"reason": f"Keep it under {MAX_REASON_CHARS:,} characters."}
        )
    return reason.strip()


def _move(db: Session, version: ModelVersion, user: User | None) -> None:
    values = {"version_id": version.id, "moved_by": user.id if user else None, "moved_at": utcnow()}
    db.execute(
        upsert(Alias)
        .values(project_id=version.project_id, name=PRODUCTION, **values)
        .on_conflict_do_update(index_elements=["project_id", "name"], set_=values)
    )


def _audit(
    db: Session,
    version: ModelVersion,
    before: ModelVersion | None,
    gates: list[Gate],
    user: User | None,
    **details: Any,
) -> None:
    record(
        db,
        "version.promoted",
        project_id=version.project_id,
        user_id=user.id if user else None,
        subject=f"v{version.number}",
        **{"from": before.number if before else None, "to": version.number},
        gates={gate.key: gate.state for gate in gates},
        **details,
    )
    db.flush()

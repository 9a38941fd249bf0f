"""Versions and the alias that apps follow."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session, joinedload

from app.accounts.audit import record
from app.core.clock import utcnow
from app.core.errors import InvalidError, NotFoundError
from app.core.pagination import Page, page_of
from app.models import Alias, AuditEntry, Checkpoint, Evaluation, ModelVersion, Project, Run, User
from app.registry.gates import Gate, failed, gates_of
from app.registry.keeping import keep_files

PRODUCTION = "production"
VERSIONS_PER_PAGE = 25
MAX_REASON_CHARS = 2_000


def base_model_label(run: Run) -> str:
    """A hub id as it is; of a folder its name, since the server's paths are nobody's business."""
    name: str = run.config["base_model"]
    return (
        name if name.count("/") == 1 and not name.startswith((".", "/", "~")) else name.rstrip("/").rsplit("/", 1)[-1]
    )


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
    existing = db.scalar(
        select(ModelVersion).where(ModelVersion.project_id == project.id, ModelVersion.checkpoint_id == checkpoint.id)
    )
    if existing is not None:
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


def evaluation_of(db: Session, version: ModelVersion) -> Evaluation | None:
    return db.scalar(select(Evaluation).where(Evaluation.checkpoint_id == version.checkpoint_id))


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


def previous_version(db: Session, project_id: int, holder: ModelVersion) -> ModelVersion | None:
    """What to roll back to: the version that held ``production`` before ``holder`` got it."""
    for entry in promotions(db, project_id):
        if entry.details["to"] == holder.number and entry.details["from"] is not None:
            return db.scalar(_versions(project_id).where(ModelVersion.number == entry.details["from"]))
    return None


def promote(db: Session, *, project: Project, number: int, user: User | None, reason: str = "") -> Alias:
    """Point ``production`` at the version; promoting an older one is the rollback.

    Raises InvalidError for the field ``reason`` when a gate fails and none is given, ConflictError where the files of
    its checkpoint are gone. Repeating it changes nothing.
    """
    reason = reason.strip()
    if len(reason) > MAX_REASON_CHARS:
        raise InvalidError(
            "The reason is too long.", fields={"reason": f"Keep it under {MAX_REASON_CHARS:,} characters."}
        )
    _lock_project(db, project)
    version = find_version(db, project.id, number)
    holder = production(db, project.id)
    if holder is not None and holder.version_id == version.id:
        return holder
    gates = gates_of(evaluation_of(db, version))
    if failed(gates) and not reason:
        names = ", ".join(gate.name for gate in failed(gates))
        raise InvalidError(
            "A gate fails, so the promotion needs a reason.",
            fields={"reason": f"Say why v{number} may serve although this fails: {names}."},
        )
    keep_files(version.checkpoint)
    _move(db, version, user)
    _audit(db, version, holder.version if holder else None, gates, user, reason)
    db.expire_all()
    moved = production(db, project.id)
    assert moved is not None
    return moved


def _move(db: Session, version: ModelVersion, user: User | None) -> None:
    values = {"version_id": version.id, "moved_by": user.id if user else None, "moved_at": utcnow()}
    db.execute(
        upsert(Alias)
        .values(project_id=version.project_id, name=PRODUCTION, **values)
        .on_conflict_do_update(index_elements=["project_id", "name"], set_=values)
    )


def _audit(
    db: Session, version: ModelVersion, before: ModelVersion | None, gates: list[Gate], user: User | None, reason: str
) -> None:
    record(
        db,
        "version.promoted",
        project_id=version.project_id,
        user_id=user.id if user else None,
        subject=f"v{version.number}",
        **{"from": before.number if before else None, "to": version.number},
        gates={gate.key: gate.state for gate in gates},
        reason=reason,
    )
    db.flush()

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.core.db import session_scope
from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.core.storage import artifact_path
from app.models import Alias, AuditEntry, Checkpoint, ModelVersion, Project
from app.registry.exports import request_export
from app.registry.keeping import KEEP
from app.registry.service import make_version, previous_version, production, promote
from tests.evaluations.support import checkpoint_of, estimate, evaluation_in, heldout, run_in
from tests.factory import Factory
from worker.alignment.retention import hide_checkpoint

FAILING = heldout(auc_within_prompt=estimate(0.4, 0.3, 0.45))


def audits(db: Session, action: str) -> list[AuditEntry]:
    return list(db.scalars(select(AuditEntry).where(AuditEntry.action == action).order_by(AuditEntry.id)))


def test_a_checkpoint_becomes_one_version(db: Session, factory: Any) -> None:
    project = factory.project()
    user = factory.member(project)
    run = run_in(factory, project)
    first, second = checkpoint_of(factory, run, 10), checkpoint_of(factory, run, 20)
    made = [make_version(db, project=project, checkpoint_id=item.id, user=user) for item in (first, first, second)]
    assert [version.number for version in made] == [1, 1, 2]
    assert [entry.subject for entry in audits(db, "version.made")] == ["v1", "v2"]
    with pytest.raises(NotFoundError):
        make_version(db, project=factory.project(), checkpoint_id=first.id, user=user)


def test_production_has_one_holder_and_rolls_back(db: Session, factory: Any, tmp_path: Path) -> None:
    project = factory.project()
    user = factory.member(project)
    run = run_in(factory, project)
    for step in (10, 20):
        checkpoint = checkpoint_of(factory, run, step)
        evaluation_in(factory, run, checkpoint, tmp_path)
        make_version(db, project=project, checkpoint_id=checkpoint.id, user=user)
    for number in (1, 2, 2, 1):
        moved = promote(db, project=project, number=number, user=user)
        assert isinstance(moved, Alias)
        assert moved.version.number == number
    assert db.scalar(select(func.count()).select_from(Alias)) == 1
    moves = [(entry.details["from"], entry.details["to"]) for entry in audits(db, "version.promoted")]
    assert moves == [(None, 1), (1, 2), (2, 1)], "repeating a promotion changes nothing"
    holder = production(db, project.id)
    assert holder is not None
    assert holder.moved_by == user.id
    target = previous_version(db, project.id, holder.version)
    assert target is not None
    assert target.number == 2


def test_a_version_keeps_its_files_and_needs_them(db: Session, factory: Any) -> None:
    project = factory.project()
    user = factory.member(project)
    run = run_in(factory, project)
    kept, removed, gone = (checkpoint_of(factory, run, step) for step in (10, 20, 30))
    version = make_version(db, project=project, checkpoint_id=kept.id, user=user)
    assert (artifact_path(kept.path) / KEEP).is_file()
    removed.removed_at = utcnow()
    shutil.rmtree(artifact_path(gone.path))
    for checkpoint in (removed, gone):
        with pytest.raises(ConflictError, match=f"step {checkpoint.step} are gone"):
            make_version(db, project=project, checkpoint_id=checkpoint.id, user=user)
    assert not artifact_path(gone.path).exists()
    shutil.rmtree(artifact_path(kept.path))
    with pytest.raises(ConflictError):
        promote(db, project=project, number=version.number, user=user)
    with pytest.raises(ConflictError):
        request_export(db, version=version, kind="adapter", user=user)
    assert production(db, project.id) is None


def test_the_mark_and_the_keep_policy_never_both_win(db: Session, factory: Any) -> None:
    project = factory.project()
    run = run_in(factory, project)
    marked, hidden = checkpoint_of(factory, run, 10), checkpoint_of(factory, run, 20)
    make_version(db, project=project, checkpoint_id=marked.id, user=None)
    assert hide_checkpoint(artifact_path(marked.path)) is None
    assert artifact_path(marked.path).is_dir()
    assert hide_checkpoint(artifact_path(hidden.path)) is not None
    with pytest.raises(ConflictError):
        make_version(db, project=project, checkpoint_id=hidden.id, user=None)


def test_a_failing_gate_wants_a_reason(db: Session, factory: Any, tmp_path: Path) -> None:
    project = factory.project()
    user = factory.member(project)
    run = run_in(factory, project)
    checkpoint = checkpoint_of(factory, run)
    evaluation_in(factory, run, checkpoint, tmp_path, heldout=FAILING)
    make_version(db, project=project, checkpoint_id=checkpoint.id, user=user)
    with pytest.raises(InvalidError) as refused:
        promote(db, project=project, number=1, user=user, reason="  ")
    assert "Held-out reward" in refused.value.fields["reason"]
    assert production(db, project.id) is None
    promote(db, project=project, number=1, user=user, reason="The dev split is from last year.")
    entry = audits(db, "version.promoted")[0]
    assert entry.details["reason"] == "The dev split is from last year."
    assert entry.details["gates"]["reward"] == "fail"
    with pytest.raises(InvalidError):
        promote(db, project=project, number=1, user=user, reason="x" * 2_001)


def test_numbers_and_the_alias_survive_a_race(committed_db: Engine, tmp_path: Path) -> None:
    with session_scope() as db:
        factory = Factory(db)
        project = factory.project()
        run = run_in(factory, project)
        ids = [checkpoint_of(factory, run, step).id for step in range(1, 9)]
        project_id = project.id

    def make(checkpoint_id: int) -> int:
        with session_scope() as db:
            owner = db.get_one(Project, project_id)
            return make_version(db, project=owner, checkpoint_id=checkpoint_id, user=None).number

    def move(number: int) -> None:
        with session_scope() as db:
            promote(db, project=db.get_one(Project, project_id), number=number, user=None)

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(make, ids * 2))
    assert sorted(set(numbers)) == list(range(1, 9))
    assert numbers[:8] == numbers[8:]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(move, range(1, 9)))
    with session_scope() as db:
        assert db.scalar(select(func.count()).select_from(ModelVersion)) == 8
        moves = [(entry.details["from"], entry.details["to"]) for entry in audits(db, "version.promoted")]
        assert len(moves) == 8
        assert [to for _, to in moves[:-1]] == [source for source, _ in moves[1:]], (
            "each move starts where the last ended"
        )
        holder = production(db, project_id)
        assert holder is not None
        assert holder.version.number == moves[-1][1]
        assert db.scalar(select(func.count()).select_from(Checkpoint)) == 8

"""Over a blocking gate: one person with a reason where there is one, two where there are two."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from app.core.db import session_scope
from app.core.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from app.models import Alias, AuditEntry, GatePolicy, ModelVersion, Project, PromotionRequest, Role, User
from app.registry.service import approve, make_version, production, promote
from tests.evaluations.support import checkpoint_of, estimate, evaluation_in, heldout, run_in
from tests.factory import Factory

FAILING = heldout(auc_within_prompt=estimate(0.4, 0.3, 0.45))


def failing_version(factory: Any, project: Project, folder: Path, step: int = 10) -> ModelVersion:
    run = run_in(factory, project)
    checkpoint = checkpoint_of(factory, run, step)
    evaluation_in(factory, run, checkpoint, folder / str(step), heldout=FAILING)
    return make_version(factory.db, project=project, checkpoint_id=checkpoint.id, user=None)


def actions(db: Session, project: Project) -> list[str]:
    return list(db.scalars(select(AuditEntry.action).where(AuditEntry.project_id == project.id).order_by(AuditEntry.id)))  # fmt: skip


def test_two_people_decide_where_there_are_two(db: Session, factory: Any, sign_in: Any, tmp_path: Path) -> None:
    project = factory.project()
    asker, approver = (factory.member(project, Role.LEAD) for _ in range(2))
    version = failing_version(factory, project, tmp_path)
    root = f"/p/{project.slug}/versions"
    first = sign_in(asker)
    refused = first.post(f"{root}/1/promote", data={"reason": " "})
    assert refused.status_code == 422
    asked = first.post(f"{root}/1/promote", data={"reason": "The split is <old>."})
    assert asked.status_code == 303
    assert first.post(f"{root}/1/promote", data={"reason": "Again."}).status_code == 303
    assert production(db, project.id) is None
    assert db.scalar(select(func.count()).select_from(PromotionRequest)) == 1
    page = first.get(f"{root}/1").text
    assert "You asked" in page
    assert "The split is &lt;old&gt;." in page
    assert "Approve and promote" not in page
    assert first.post(f"{root}/1/approve", data={"reason": "Mine."}).status_code == 403
    second = sign_in(approver)
    assert "Approve and promote" in second.get(f"{root}/1").text
    assert second.post(f"{root}/1/approve", data={"reason": ""}).status_code == 422
    assert second.post(f"{root}/1/approve", data={"reason": "Seen and agreed."}).status_code == 303
    holder = production(db, project.id)
    assert holder is not None
    assert (holder.version_id, holder.moved_by) == (version.id, approver.id)
    entry = db.scalars(select(AuditEntry).where(AuditEntry.action == "version.promoted")).one()
    assert (entry.details["asked"], entry.details["requested_by"]) == ("The split is <old>.", asker.id)
    assert actions(db, project)[-3:] == ["promotion.asked", "promotion.approved", "version.promoted"]
    assert second.post(f"{root}/1/approve", data={"reason": "Again."}).status_code == 409


def test_a_request_is_withdrawn_or_refused_and_may_be_made_again(
    db: Session, factory: Any, sign_in: Any, tmp_path: Path
) -> None:
    project = factory.project()
    asker, other = (factory.member(project, Role.LEAD) for _ in range(2))
    failing_version(factory, project, tmp_path)
    root = f"/p/{project.slug}/versions/1"
    browser = {user.id: sign_in(user) for user in (asker,)}
    mine = browser[asker.id]
    mine.post(f"{root}/promote", data={"reason": "One."})
    mine.post(f"{root}/refuse")
    mine.post(f"{root}/promote", data={"reason": "Two."})
    sign_in(other).post(f"{root}/refuse", data={"reason": "Not yet."})
    found = db.scalars(select(PromotionRequest).order_by(PromotionRequest.id)).all()
    assert [(row.status, row.decided_by) for row in found] == [("withdrawn", asker.id), ("refused", other.id)]
    assert production(db, project.id) is None


def test_nobody_asked(db: Session, factory: Any, tmp_path: Path) -> None:
    project = factory.project()
    user = factory.member(project)
    failing_version(factory, project, tmp_path)
    with pytest.raises(NotFoundError):
        approve(db, project=project, number=1, user=user, reason="Because.")


def test_the_policy_can_make_missing_evidence_block(db: Session, factory: Any, sign_in: Any, tmp_path: Path) -> None:
    project = factory.project()
    owner = sign_in(factory.member(project, Role.OWNER))
    run = run_in(factory, project)
    checkpoint = checkpoint_of(factory, run)
    evaluation_in(factory, run, checkpoint, tmp_path)
    make_version(db, project=project, checkpoint_id=checkpoint.id, user=None)
    root = f"/p/{project.slug}/versions"
    typed = {"margin_safety": "1.5", "margin_over_refusal": "2", "margin_regression": "x", "margin_diversity": "5"}
    wrong = owner.post(f"{root}/policy", data=typed | {"block_safety": "1"})
    assert wrong.status_code == 422
    assert 'value="x"' in wrong.text
    assert "A number of points from 0 to 50." in wrong.text
    assert db.get(GatePolicy, project.id) is None
    saved = owner.post(f"{root}/policy", data=typed | {"margin_regression": "2,5", "block_safety": "1"})
    assert saved.status_code == 303
    policy = db.get_one(GatePolicy, project.id)
    assert policy.blocking_when_missing == ["safety"]
    assert policy.thresholds == {"safety": 0.015, "over_refusal": 0.02, "regression": 0.025, "diversity": 0.05}
    with pytest.raises(InvalidError) as refused:
        promote(db, project=project, number=1, user=None)
    assert refused.value.fields["reason"].endswith("although this blocks: Safety.")
    lead = sign_in(factory.member(project, Role.LEAD))
    assert lead.get(f"{root}/policy").status_code == 200
    assert lead.post(f"{root}/policy", data=typed).status_code == 403


def test_going_back_needs_no_gate(db: Session, factory: Any, tmp_path: Path) -> None:
    project = factory.project()
    user = factory.member(project)
    for step in (10, 20):
        failing_version(factory, project, tmp_path, step)
    for number in (1, 2):
        promote(db, project=project, number=number, user=user, reason="A test.")
    moved = promote(db, project=project, number=1, user=user)
    assert isinstance(moved, Alias)
    assert moved.version.number == 1


def test_one_of_two_approvals_at_once_stands(committed_db: Engine, tmp_path: Path) -> None:
    with session_scope() as db:
        factory = Factory(db)
        project = factory.project()
        asker, *others = [factory.member(project, Role.LEAD) for _ in range(3)]
        failing_version(factory, project, tmp_path)
        promote(db, project=project, number=1, user=asker, reason="Please.")
        project_id, ids = project.id, [user.id for user in others]

    def try_to(user_id: int) -> str:
        try:
            with session_scope() as db:
                approve(
                    db, project=db.get_one(Project, project_id), number=1, user=db.get_one(User, user_id), reason="Yes."
                )
        except (ConflictError, ForbiddenError) as error:
            return type(error).__name__
        return "approved"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(try_to, ids)) == ["ConflictError", "approved"]
    with session_scope() as db:
        where = AuditEntry.action == "version.promoted"
        assert db.scalar(select(func.count()).select_from(AuditEntry).where(where)) == 1

"""What a person said is gone from every table and every file; what was learned from it is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.errors import InvalidError
from app.core.storage import artifact_path
from app.datasets import service as datasets
from app.feedback.service import ingest
from app.models import AnnotationSlot, AuditEntry, Completion, Erasure, Import, Prompt, Rating, Run, Snapshot
from app.privacy import copies, erasing, snapshots
from app.privacy.targets import Target, look
from tests.privacy.support import ASKED, MARK, files_with, furnish, item, tables_with


def erase(db: Session, project: Any, kind: str, who: str) -> Erasure:
    erasure = erasing.request(db, project, kind, who)
    status = erasing.work(erasure.id)
    db.expire_all()
    found = db.get_one(Erasure, erasure.id)
    assert status == found.status, found.error
    return found


def test_subject_is_erased_everywhere(db: Session, factory: Any) -> None:
    project, snapshot, run = furnish(db, factory)
    before, old_folder = snapshot.content_hash, artifact_path(snapshot.path)
    num_rows = sum(
        snapshot.counts[side][name] for side in ("train", "dev", "test") for name in ("desirable", "undesirable")
    )
    assert len(tables_with(db)) > 20  # planted in all of these
    assert len(files_with()) >= 6
    others = (db.scalar(select(func.count()).select_from(Completion)) or 0) - 2

    erasure = erase(db, project, "subject", f"{MARK}-subject")

    assert erasure.status == "done", erasure.error
    assert tables_with(db) == []
    assert files_with() == []
    assert db.scalar(select(func.count()).select_from(Completion)) == others
    assert erasure.counts["completions"] == 2  # the answer and its edit
    assert erasure.target is None
    assert [entry["number"] for entry in erasure.affected["versions"]] == [1]
    assert [entry["name"] for entry in erasure.affected["runs"]] == [run.name]
    assert snapshot.content_hash != before
    assert snapshot.counts["erased"] == {"rows": 1, "was": [before]}
    assert not old_folder.exists()
    assert datasets.verify(snapshot) == []
    left = sum(
        snapshot.counts[side][name] for side in ("train", "dev", "test") for name in ("desirable", "undesirable")
    )
    tombs = [json.loads(line) for line in (artifact_path(snapshot.path) / "erased.jsonl").read_text().splitlines()]
    assert len(tombs) == 1
    assert set(tombs[0]) == {"id", "side", "erased", "sha256"}
    assert left + len(tombs) == num_rows
    assert json.loads((artifact_path(snapshot.path) / "manifest.json").read_text())["was"] == [before]
    told = db.scalars(select(AuditEntry).where(AuditEntry.action.startswith("erasure.")).order_by(AuditEntry.id)).all()
    assert [entry.action for entry in told] == ["erasure.requested", "erasure.done"]
    assert db.scalar(select(Import.status)) == "cancelled"


def test_samples_of_others_stay(db: Session, factory: Any) -> None:
    project, snapshot, run = furnish(db, factory)
    erase(db, project, "subject", f"{MARK}-subject")
    lines = (artifact_path("runs", str(run.id), "attempts", "1") / "samples.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"prompt": [{"role": "user", "content": "Hi"}], "text": "Yes."}
    assert json.loads(lines[0])["prompt"] == [{"role": "user", "content": "[erased]"}]
    assert json.loads(lines[0])["text"] == "Hello."
    # The help desk's system message is in every prompt: it is the app's, and stays.
    assert db.scalar(select(func.count()).select_from(Prompt)) == 60
    rows = [json.loads(line) for line in (artifact_path(snapshot.path) / "train.jsonl").read_text().splitlines()]
    assert all("friendly help desk" in row["prompt"][0]["content"] for row in rows)


def test_what_several_people_asked_stays(db: Session, factory: Any) -> None:
    from app.models import CompletionSubject

    project = factory.project()
    shared, own = factory.completion(project, "One."), factory.completion(project, "Two.")
    for completion, subject in ((shared, "ann"), (shared, "bob"), (own, "ann")):
        factory.add(CompletionSubject(project_id=project.id, subject=subject, completion_id=completion.id))
    erasure = erase(db, project, "subject", "ann")
    assert erasure.counts["completions"] == 1
    assert list(db.scalars(select(Completion.id))) == [shared.id]
    assert list(db.scalars(select(CompletionSubject.subject))) == ["bob"]


def test_rater_is_erased_and_the_answer_stays(db: Session, factory: Any) -> None:
    project, _, _ = furnish(db, factory)
    erasure = erase(db, project, "rater", f"{MARK}-rater")
    assert erasure.status == "done"
    assert erasure.counts["ratings"] == 1
    assert db.scalar(select(func.count()).select_from(Rating).where(Rating.rater == f"{MARK}-rater")) == 0
    assert db.scalar(select(Completion.id).where(Completion.external_id == f"{MARK}-1")) is not None
    assert "ratings.comment" not in tables_with(db)


def test_annotators_slot_is_asked_again(db: Session, factory: Any) -> None:
    project = factory.project()
    user = factory.member(project)
    completion = factory.completion(project)
    rating = factory.rating(completion, rater=f"user:{user.id}", source="annotation")
    from app.core.clock import utcnow
    from app.feedback.queue_fill import default_queue

    queue = default_queue(db, project)
    slot = AnnotationSlot(
        queue_id=queue.id, completion_id=completion.id, done_by=user.id, done_at=utcnow(), rating_id=rating.id
    )
    factory.add(slot)
    erase(db, project, "rater", f"user:{user.id}")
    assert (slot.done_at, slot.done_by, slot.rating_id) == (None, None, None)


def test_other_projects_are_untouched(db: Session, factory: Any) -> None:
    project, other = factory.project(), factory.project()
    for one in (project, other):
        ingest(db, one, [item(number, label=number % 2 == 0) for number in range(60)], "shop")
    mine, theirs = datasets.freeze(db, project), datasets.freeze(db, other)
    key = db.scalar(select(Completion.id).where(Completion.project_id == project.id).limit(1))
    before = theirs.content_hash
    assert erase(db, project, "completion", str(key)).counts["snapshots"] == 1
    assert theirs.content_hash == before
    assert datasets.verify(theirs) == []
    assert datasets.verify(mine) == []
    with pytest.raises(InvalidError):
        erasing.request(db, other, "completion", str(key))


def test_waits_for_a_run_that_reads_the_data(db: Session, factory: Any) -> None:
    project, _, run = furnish(db, factory)
    run.status = "running"
    db.flush()
    erasure = erase(db, project, "subject", f"{MARK}-subject")
    assert erasure.status == "queued"
    assert "kto-1" in str(erasure.error)
    assert "completions.text" in tables_with(db)
    again = erasing.request(db, project, "subject", f"{MARK}-subject")
    assert again.id == erasure.id  # the same request, still open
    db.get_one(Run, run.id).status = "succeeded"
    db.flush()
    assert erasing.work(erasure.id) == "done"
    assert tables_with(db) == []


@pytest.mark.parametrize("step", ["take_out", "remove_folder", "clean_files", "clean_tables"])
def test_a_kill_in_the_middle_is_finished_by_a_second_start(
    db: Session, factory: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The process dies at the entry of each step: what was committed until then is all that the second start knows."""
    project, snapshot, _ = furnish(db, factory)
    erasure = erasing.request(db, project, "subject", f"{MARK}-subject")

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    where = snapshots if step in {"take_out", "remove_folder"} else copies
    with monkeypatch.context() as patch:
        patch.setattr(where, step, die)
        with pytest.raises(Killed):
            erasing.work(erasure.id)
    db.expire_all()
    assert erasing.work(erasure.id) == "not ours"  # the lease of the dead one still runs
    erasure.lease_until = erasure.created_at
    db.flush()
    assert erasure.id in erasing.waiting(db)
    assert erasing.work(erasure.id) == "done"
    db.expire_all()
    assert tables_with(db) == []
    assert files_with() == []
    assert db.get_one(Snapshot, snapshot.id).counts["erased"]["rows"] == 1
    assert db.get_one(Erasure, erasure.id).affected["versions"] != []


def test_preview_changes_nothing(db: Session, factory: Any) -> None:
    project, _, _ = furnish(db, factory)
    found = look(db, project, Target("subject", f"{MARK}-subject"))
    assert found.counts["completions"] == 2
    assert found.counts["comments"] == 1
    assert ASKED in str(db.scalars(select(Prompt.messages)).all())

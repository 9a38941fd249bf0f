from __future__ import annotations

import json
import random
import shutil
import stat
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from app.accounts.service import create_project
from app.core import storage
from app.core.db import new_session, session_scope
from app.core.errors import InvalidError, NotFoundError, UnavailableError
from app.core.storage import artifacts_root
from app.datasets import files
from app.datasets.service import find_snapshot, freeze, freeze_or_find, list_snapshots, snapshot_folder, verify
from app.datasets.splits import SIDES, side_of
from app.models import AuditEntry, Project, Snapshot
from tests.conftest import SHARED_DATA
from tests.datasets.helpers import insert_items, item, read_rows, simple_items


def all_rows(snapshot: Snapshot) -> dict[str, list[dict[str, Any]]]:
    return {side: read_rows(snapshot_folder(snapshot), side) for side in SIDES}


def sides_of_roots(snapshot: Snapshot) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for side, rows in all_rows(snapshot).items():
        for row in rows:
            found.setdefault(row["root"], set()).add(side)
    return found


def leftovers() -> list[Path]:
    return list((artifacts_root() / "snapshots").glob(".draft-*"))


def test_files_hold_every_label_once(db: Session, factory: Any) -> None:
    project, user = factory.project(), factory.user()
    insert_items(db, project, simple_items(200))
    snapshot = freeze(db, project, user)
    rows = all_rows(snapshot)
    flat = [row for side in SIDES for row in rows[side]]
    wanted = {(e["prompt"], e["completion"], e["label"], e["category"]) for e in simple_items(200)}
    got = {(r["prompt"][0]["content"], r["completion"][0]["content"], r["label"], r["category"]) for r in flat}
    assert got == wanted
    assert len(flat) == 200
    assert sorted(row["id"] for row in flat) == list(range(1, 201))
    for side in SIDES:
        labels = Counter(row["label"] for row in rows[side])
        assert snapshot.counts[side] == {
            "desirable": labels[True],
            "undesirable": labels[False],
            "prompts": len({row["prompt"][0]["content"] for row in rows[side]}),
            "roots": len({row["root"] for row in rows[side]}),
        }
        assert {side_of(row["root"], project.split_salt) for row in rows[side]} <= {side}
    assert snapshot.counts["categories"] == 4
    manifest = json.loads((snapshot_folder(snapshot) / "manifest.json").read_text())
    assert manifest["hash"] == snapshot.content_hash
    assert manifest["counts"] == {side: snapshot.counts[side] for side in SIDES}
    assert "majority" in manifest["rule"]["label"]
    assert snapshot.path == f"snapshots/{snapshot.content_hash[:16]}"
    entry = db.scalars(select(AuditEntry).where(AuditEntry.project_id == project.id)).one()
    assert (entry.action, entry.user_id) == ("snapshot.frozen", user.id)


def test_the_hash_and_the_bytes_do_not_depend_on_order_or_ids(db: Session, factory: Any, tmp_path: Path) -> None:
    items = [*simple_items(120), item("Question 1?", "Answer 1.Answer 1.", True, category="other", model="m2")]
    first, second = factory.project(), factory.project()
    insert_items(db, first, items)
    random.Random(7).shuffle(items)
    insert_items(db, factory.project(), simple_items(13))  # moves the ids on
    insert_items(db, second, items)
    one = freeze(db, first)
    kept = shutil.copytree(snapshot_folder(one), tmp_path / "one")
    shutil.rmtree(snapshot_folder(one))  # so that the second freeze really writes its own
    two = freeze(db, second)
    assert one.content_hash == two.content_hash
    names = sorted(path.name for path in kept.iterdir())
    assert names == ["dev.jsonl", "manifest.json", "test.jsonl", "train.jsonl"]
    for name in names:
        assert (kept / name).read_bytes() == (snapshot_folder(two) / name).read_bytes(), name


@pytest.mark.parametrize(
    "change",
    [
        {"label": False},
        {"completion": "Another answer."},
        {"category": "moved"},
        {"finish_reason": "length"},
        {"conversation_id": "c-1"},
    ],
)
def test_any_content_changes_the_hash(db: Session, factory: Any, change: dict[str, Any]) -> None:
    items = simple_items(60)
    first, second = factory.project(), factory.project()
    insert_items(db, first, items)
    items[1] = {**items[1], **change}
    insert_items(db, second, items)
    assert freeze(db, first).content_hash != freeze(db, second).content_hash


def test_the_salt_changes_the_hash(db: Session, factory: Any) -> None:
    first, second = factory.project(), factory.project()
    second.split_salt = "pepper"
    for project in (first, second):
        insert_items(db, project, simple_items(60))
    assert freeze(db, first).content_hash != freeze(db, second).content_hash


def test_same_content_again_is_the_same_snapshot(db: Session, factory: Any) -> None:
    project = factory.project()
    insert_items(db, project, simple_items(60))
    first, again = freeze_or_find(db, project), freeze_or_find(db, project)
    assert (first.is_new, again.is_new) == (True, False)
    assert again.snapshot is first.snapshot
    assert len(list_snapshots(db, project).rows) == 1
    assert not leftovers()


def test_no_root_is_ever_on_two_sides(db: Session, factory: Any) -> None:
    project = factory.project()
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    talks = [
        item("", f"Reply {i}", i % 2 == 0, messages=[*turns, {"role": "user", "content": str(i)}]) for i in range(20)
    ]
    chats = [item(f"Turn {i % 5}", f"Reply {i}", i % 2 == 0, conversation_id=f"chat-{i // 5}") for i in range(200)]
    insert_items(db, project, [*talks, *chats])
    first = sides_of_roots(freeze(db, project))
    assert all(len(sides) == 1 for sides in first.values())
    assert len(first) == 41
    insert_items(db, project, simple_items(300))
    insert_items(
        db, project, [item(f"More {i}", f"Later reply {i}", True, conversation_id=f"chat-{i}") for i in range(40)]
    )
    later = sides_of_roots(freeze(db, project))
    assert {root: later[root] for root in first} == first
    assert all(len(sides) == 1 for sides in later.values())


def test_ties_conflicts_and_duplicates_are_held_back_and_counted(db: Session, factory: Any) -> None:
    project = factory.project()
    insert_items(db, project, simple_items(60))
    tied = factory.completion(project, "Tied answer.", "Tied?")
    factory.rating(tied, True, "a")
    factory.rating(tied, False, "b")
    for model, value in (("m1", True), ("m2", False)):
        factory.rating(factory.completion(project, "Disputed answer.", "Disputed?", model=model), value)
    for model in ("m1", "m2", "m3"):
        factory.rating(factory.completion(project, "Shared answer.", "Shared?", model=model), True)
    majority = factory.completion(project, "Outvoted answer.", "Outvoted?")
    for rater, value in (("a", True), ("b", False), ("c", False)):
        factory.rating(majority, value, rater)
    taken_back = factory.rating(factory.completion(project, "Retracted.", "Retracted?"), True)
    taken_back.is_current = False
    db.flush()
    snapshot = freeze(db, project)
    assert snapshot.counts["dropped"] == {"ties": 1, "conflicts": 2, "duplicates": 2}
    rows = {row["completion"][0]["content"]: row for side in all_rows(snapshot).values() for row in side}
    assert len(rows) == 62
    assert rows["Shared answer."]["label"] is True
    assert rows["Outvoted answer."]["label"] is False
    assert not {"Tied answer.", "Disputed answer.", "Retracted."} & set(rows)


def test_messages_and_finish_reason_come_through_as_they_were(db: Session, factory: Any) -> None:
    project = factory.project()
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
    }
    messages = [{"role": "user", "content": [{"type": "text", "text": "Zürich 🙂"}]}, call]
    insert_items(db, project, simple_items(60))
    insert_items(db, project, [item("", "Cut sho", True, messages=messages, finish_reason="length")])
    snapshot = freeze(db, project)
    rows = [row for side in all_rows(snapshot).values() for row in side if row["finish_reason"]]
    assert [row["finish_reason"] for row in rows] == ["length"]
    assert rows[0]["prompt"] == messages
    assert snapshot.counts["cut"] == 1


def test_files_are_read_only_and_tampering_is_found(db: Session, factory: Any) -> None:
    project = factory.project()
    insert_items(db, project, simple_items(60))
    snapshot = freeze(db, project)
    folder = snapshot_folder(snapshot)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}
    assert verify(snapshot) == []
    path = folder / "train.jsonl"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"label":true', b'"label":false', 1))
    assert verify(snapshot) == ["The rows differ from those that were frozen."]
    path.unlink()
    assert verify(snapshot) == ["train.jsonl is missing."]
    mended = freeze(db, project)
    assert mended is snapshot
    assert verify(snapshot) == []


def refused(db: Session, project: Project) -> str:
    with pytest.raises(InvalidError) as caught:
        freeze(db, project)
    assert caught.value.remedy
    assert not leftovers()
    assert not list_snapshots(db, project).rows
    return caught.value.message


def test_refusals(db: Session, factory: Any) -> None:
    project = factory.project()
    assert refused(db, project) == "There are no labels yet, so there is nothing to freeze."
    insert_items(db, project, [item(f"Q{i}", "Yes.", True) for i in range(30)])
    assert refused(db, project) == "All 30 labels are desirable: KTO needs both classes."
    few = factory.project()
    insert_items(db, few, simple_items(6))
    assert refused(db, few) == "There are 6 labels, a snapshot needs at least 10."
    one_talk = factory.project()
    insert_items(db, one_talk, [item("Same?", f"Reply {i}", i % 2 == 0, conversation_id="c") for i in range(20)])
    assert "split" in refused(db, one_talk)


def test_a_full_disk_is_refused_before_writing(db: Session, factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project = factory.project()
    insert_items(db, project, simple_items(60))
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    with pytest.raises(UnavailableError, match="0 MiB left"):
        freeze(db, project)
    assert not leftovers()


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    db: Session, factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = factory.project()
    insert_items(db, project, simple_items(60))

    def full(*args: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_manifest", full)
    with pytest.raises(UnavailableError, match="No space left on device"):
        freeze(db, project)
    assert not leftovers()
    assert not list_snapshots(db, project).rows


def test_find_by_hash_within_the_project_only(db: Session, factory: Any) -> None:
    project, other = factory.project(), factory.project()
    insert_items(db, project, simple_items(60))
    snapshot = freeze(db, project)
    assert find_snapshot(db, project, snapshot.content_hash) is snapshot
    assert find_snapshot(db, project, snapshot.content_hash[:16]) is snapshot
    for scope, name in ((other, snapshot.content_hash), (project, snapshot.content_hash[:4]), (project, "%%%%%%%%%%")):
        with pytest.raises(NotFoundError):
            find_snapshot(db, scope, name)


def test_real_judgments_are_all_accounted_for_and_no_root_leaks(db: Session, factory: Any) -> None:
    lines = (SHARED_DATA / "kto_sample.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    project = factory.project()
    insert_items(db, project, [{**e, "rater": str(i), "model": None} for i, e in enumerate(items)])
    snapshot = freeze(db, project)
    votes: dict[tuple[str, str], dict[str | None, Counter[bool]]] = {}
    for entry in items:  # the rule again, by hand: completions are distinct by category, answers by text alone
        answer = votes.setdefault((entry["prompt"], entry["completion"]), {})
        answer.setdefault(entry["category"], Counter())[entry["label"]] += 1
    expected: dict[tuple[str, str], bool] = {}
    ties = conflicts = duplicates = 0
    for key, copies in votes.items():
        labels = [tally[True] > tally[False] for tally in copies.values() if tally[True] != tally[False]]
        ties += len(copies) - len(labels)
        if len(set(labels)) > 1:
            conflicts += len(labels)
        elif labels:
            expected[key] = labels[0]
            duplicates += len(labels) - 1
    rows = [row for side in all_rows(snapshot).values() for row in side]
    assert {(r["prompt"][0]["content"], r["completion"][0]["content"]): r["label"] for r in rows} == expected
    assert len(rows) == len(expected)
    assert snapshot.counts["dropped"] == {"ties": ties, "conflicts": conflicts, "duplicates": duplicates}
    assert len(rows) + ties + conflicts + duplicates == sum(len(copies) for copies in votes.values())
    roots = sides_of_roots(snapshot)
    assert all(len(sides) == 1 for sides in roots.values())
    prompts = {side: {row["prompt"][0]["content"] for row in all_rows(snapshot)[side]} for side in SIDES}
    assert not prompts["train"] & (prompts["dev"] | prompts["test"])
    share = len(prompts["train"]) / sum(len(p) for p in prompts.values())
    assert 0.77 < share < 0.83


def test_two_at_once_make_one_snapshot(committed_db: Engine) -> None:
    with session_scope() as db:
        project = create_project(db, "Race")
        insert_items(db, project, simple_items(60))
    start = threading.Barrier(2)
    found: list[tuple[bool, str]] = []

    def run() -> None:
        start.wait()
        with session_scope() as own:
            frozen = freeze_or_find(own, project)
            found.append((frozen.is_new, frozen.snapshot.content_hash))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(is_new for is_new, _ in found) == [False, True]
    assert len({digest for _, digest in found}) == 1
    assert not leftovers()


def test_a_rollback_leaves_files_that_the_next_freeze_takes_over(committed_db: Engine) -> None:
    """The folder is complete or absent; a row that was never committed does not stand in the way."""
    with session_scope() as db:
        project = create_project(db, "Rollback")
        insert_items(db, project, simple_items(60))
    with new_session() as lost_session:
        lost = freeze(lost_session, project).content_hash
        lost_session.rollback()
    with session_scope() as db:
        assert not list_snapshots(db, project).rows
        frozen = freeze_or_find(db, project)
        assert frozen.is_new
        assert frozen.snapshot.content_hash == lost
        assert verify(frozen.snapshot) == []

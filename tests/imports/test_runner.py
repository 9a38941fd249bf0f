"""Imports in the background, with real commits: staged, published at once, killed, cancelled, fenced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, update

from app.core.clock import utcnow
from app.core.db import session_scope
from app.core.storage import artifact_path
from app.feedback.imports import counting, drafts, leases, runner
from app.feedback.imports.formats import FORMATS, Format, find_format
from app.feedback.imports.reading import Row, Source
from app.feedback.imports.values import Options
from app.feedback.schemas import FeedbackItem, ItemResult
from app.feedback.service import ingest
from app.models import AuditEntry, Import, Project, Prompt
from app.settings import get_settings
from tests.factory import Factory
from tests.imports.support import counts, jsonl, queued, row, stored


@pytest.fixture
def project(committed_db: Engine) -> int:
    with session_scope() as db:
        return Factory(db).project().id


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "CHUNK_ROWS", 10)
    monkeypatch.setattr(runner, "PUBLISH_ROWS", 10)
    monkeypatch.setattr(runner, "REPORT_SECONDS", 0)


class Stop(BaseException):
    """Stands for SIGKILL: nothing may handle it."""


def stop_after(times: int) -> Any:
    left = [times]

    def watch() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Stop

    return watch


def expire(import_id: int) -> None:
    with session_scope() as db:
        db.execute(update(Import).where(Import.id == import_id).values(lease_until=utcnow() - timedelta(seconds=1)))


def look() -> dict[str, int]:
    with session_scope() as db:
        return counts(db)


def test_staged_then_published_whole(project: int, small_chunks: None) -> None:
    rows: list[Any] = [row(number) for number in range(35)]
    rows[7] = "{broken"
    import_id = queued(project, jsonl(rows))
    path = artifact_path(stored(import_id).path or "")
    assert path.is_file()
    seen = []
    runner.run_import(import_id, watch=lambda: seen.append(look()))
    assert [each["completions"] for each in seen] == [0] * len(seen), "nothing is seen before the end"
    assert [each["import_rows"] for each in seen[:4]] == [9, 19, 29, 34]
    assert seen[3]["prompts"] == 34, "prompts come first"
    entry = stored(import_id)
    assert (entry.status, entry.num_created, entry.num_rejected, entry.num_published) == ("succeeded", 34, 1, 34)
    assert entry.rejected[0]["line"] == 8
    assert look() == {"prompts": 34, "completions": 34, "ratings": 34, "import_rows": 0}
    assert entry.path is None
    assert not path.exists()
    with session_scope() as db:
        assert list(db.scalars(select(AuditEntry.action).order_by(AuditEntry.id))) == [
            "import.started",
            "feedback.imported",
        ]


def test_a_stopped_staging_goes_on_behind_the_last_chunk(project: int, small_chunks: None) -> None:
    import_id = queued(project, jsonl([row(number) for number in range(35)]))
    with pytest.raises(Stop):
        runner.run_import(import_id, watch=stop_after(1))
    assert stored(import_id).num_rows == 20
    runner.run_import(import_id)
    assert stored(import_id).status == "staging", "its lease still runs"
    expire(import_id)
    with session_scope() as db:
        assert leases.requeue_stale_imports(db) == [import_id]
    runner.run_import(import_id)
    entry = stored(import_id)
    assert (entry.status, entry.num_rows, entry.num_created, entry.attempt) == ("succeeded", 35, 35, 2)


def test_a_stopped_publishing_leaves_nothing_and_begins_again(project: int, small_chunks: None) -> None:
    import_id = queued(project, jsonl([row(number) for number in range(35)]))
    with pytest.raises(Stop):
        runner.run_import(import_id, watch=stop_after(6))
    entry = stored(import_id)
    assert (entry.status, entry.num_published) == ("publishing", 30)
    assert look() == {"prompts": 35, "completions": 0, "ratings": 0, "import_rows": 35}
    expire(import_id)
    runner.run_import(import_id)
    assert stored(import_id).num_created == 35
    assert look()["ratings"] == 35


@pytest.mark.parametrize("after", [1, 6])
def test_cancelled_under_way_leaves_nothing(project: int, small_chunks: None, after: int) -> None:
    with session_scope() as db:
        ingest(db, db.get_one(Project, project), [FeedbackItem.model_validate(row(3))], "shop")
    import_id = queued(project, jsonl([row(number) for number in range(35)]))
    path = artifact_path(stored(import_id).path or "")
    calls = []

    def watch() -> None:
        calls.append(1)
        if len(calls) == after:
            with session_scope() as db:
                assert drafts.cancel(db, db.get_one(Import, import_id))

    runner.run_import(import_id, watch=watch)
    assert stored(import_id).status == "cancelled"
    assert look() == {"prompts": 1, "completions": 1, "ratings": 1, "import_rows": 0}
    assert not path.exists()
    with session_scope() as db:
        assert not drafts.cancel(db, db.get_one(Import, import_id)), "over is over"


def test_a_cancelled_import_whose_worker_is_gone(project: int, small_chunks: None) -> None:
    import_id = queued(project, jsonl([row(number) for number in range(35)]))
    with pytest.raises(Stop):
        runner.run_import(import_id, watch=stop_after(0))
    with session_scope() as db:
        drafts.cancel(db, db.get_one(Import, import_id))
    expire(import_id)
    with session_scope() as db:
        assert leases.requeue_stale_imports(db) == []
    assert stored(import_id).status == "cancelled"
    assert look() == {"prompts": 0, "completions": 0, "ratings": 0, "import_rows": 0}


def test_an_attempt_that_overslept_writes_nothing(project: int, small_chunks: None) -> None:
    import_id = queued(project, jsonl([row(number) for number in range(15)]))
    calls = []

    def oversleep() -> None:
        calls.append(1)
        if len(calls) == 3:  # while publishing: another worker takes over
            expire(import_id)
            with session_scope() as db:
                assert leases.claim(db, import_id) is not None

    runner.run_import(import_id, watch=oversleep)
    entry = stored(import_id)
    assert (entry.status, entry.attempt) == ("publishing", 2)
    assert look()["completions"] == 0
    expire(import_id)
    runner.run_import(import_id)
    assert look()["completions"] == 15


def test_a_worker_lost_too_often_fails_it(project: int) -> None:
    import_id = queued(project, jsonl([row(1)]))
    with session_scope() as db:
        assert leases.claim(db, import_id)
        db.execute(update(Import).values(attempt=leases.MAX_ATTEMPTS))
    expire(import_id)
    with session_scope() as db:
        leases.requeue_stale_imports(db)
    assert (stored(import_id).status, look()["import_rows"]) == ("failed", 0)


def test_a_bad_file_fails_with_its_reason(project: int, small_chunks: None) -> None:
    rows: list[Any] = [row(number) for number in range(3000)]
    file = jsonl(rows)
    file.seek(0, 2)
    file.write(b"\n\xff\n")
    import_id = queued(project, file)
    runner.run_import(import_id)
    entry = stored(import_id)
    assert entry.status == "failed"
    assert "Line 3001 is not UTF-8" in (entry.error or "")
    assert look() == {"prompts": 0, "completions": 0, "ratings": 0, "import_rows": 0}


def test_all_rows_rejected_fails_and_lists_them(project: int) -> None:
    import_id = queued(project, jsonl([{"prompt": "x"}, {"prompt": "y"}]))
    runner.run_import(import_id)
    entry = stored(import_id)
    assert (entry.status, len(entry.rejected)) == ("failed", 2)
    assert "All 2 rows were rejected. Line 1: completion: is missing" in (entry.error or "")


def test_checking_the_whole_file_stores_nothing(project: int, small_chunks: None) -> None:
    import_id = queued(project, jsonl([*(row(number) for number in range(25)), "{"]))
    with session_scope() as db:
        db.execute(update(Import).values(status="draft"))
        drafts.start(db, db.get_one(Import, import_id), check_only=True, ring=False)
    runner.run_import(import_id)
    entry = stored(import_id)
    assert entry.status == "draft"
    assert entry.preview is not None
    assert (entry.preview["looked_at"], entry.preview["num_rejected"], entry.preview["whole"]) == (26, 1, True)
    assert look() == {"prompts": 0, "completions": 0, "ratings": 0, "import_rows": 0}


def test_an_apps_insert_does_not_wait_for_an_import(project: int, small_chunks: None) -> None:
    import_id = queued(project, jsonl([row(number) for number in range(35)]))
    answers: list[ItemResult] = []

    def watch() -> None:
        if look()["import_rows"] == 35 and not answers:
            item = FeedbackItem.model_validate({**row(3), "completion": "Another answer.", "rater": "app"})
            with session_scope() as db:
                answers.extend(ingest(db, db.get_one(Project, project), [item], "shop"))

    runner.run_import(import_id, watch=watch)
    assert answers[0].status == "created"
    assert look()["completions"] == 36


def test_an_orphan_that_got_a_completion_stays(project: int, small_chunks: None) -> None:
    import_id = queued(project, jsonl([row(number) for number in range(35)]))
    with pytest.raises(Stop):
        runner.run_import(import_id, watch=stop_after(0))
    with session_scope() as db:
        item = FeedbackItem.model_validate({**row(3), "completion": "Another answer."})
        ingest(db, db.get_one(Project, project), [item], "shop")
        drafts.cancel(db, db.get_one(Import, import_id))
    expire(import_id)
    with session_scope() as db:
        leases.requeue_stale_imports(db)
        assert db.scalars(select(Prompt.messages)).all() == [[{"role": "user", "content": "Question 3?"}]]


_WORKER = """
import sys
from app.feedback.imports import counting, runner
counting.CHUNK_ROWS = runner.PUBLISH_ROWS = 50
runner.REPORT_SECONDS = 0
runner.run_import(int(sys.argv[1]))
"""


def wait_for(import_id: int, reached: Any) -> None:
    until = time.monotonic() + 60
    while not reached(stored(import_id)):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def workers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_killed_processes(project: int, workers: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    """Real workers, killed with SIGKILL while staging and while publishing: every row is there once, and only at the end."""
    import_id = queued(project, jsonl([row(number) for number in range(4000)]))

    def work() -> subprocess.Popen[bytes]:
        workers.append(subprocess.Popen([sys.executable, "-c", _WORKER, str(import_id)], env=os.environ.copy()))
        return workers[-1]

    first = work()
    wait_for(import_id, lambda entry: entry.num_rows >= 500)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert look()["completions"] == 0
    expire(import_id)
    second = work()
    wait_for(import_id, lambda entry: entry.num_published >= 200)
    second.send_signal(signal.SIGKILL)
    second.wait()
    assert look()["completions"] == 0
    expire(import_id)
    assert work().wait(60) == 0
    entry = stored(import_id)
    assert (entry.status, entry.num_created, entry.attempt) == ("succeeded", 4000, 3)
    assert look() == {"prompts": 4000, "completions": 4000, "ratings": 4000, "import_rows": 0}


def slow_format(monkeypatch: pytest.MonkeyPatch, before: Any) -> str:
    """A format whose reader calls ``before`` (with the opened file) ahead of its first row, as the shelves do."""

    def rows(source: Source, options: Options) -> Iterator[Row]:
        before(source)
        yield from find_format("jsonl").rows(source, options)

    monkeypatch.setitem(FORMATS, "slow", Format("slow", "Slow", rows))
    return "slow"


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_settings(), "lease_seconds", 1)


def test_a_reader_slower_than_the_lease_keeps_it(
    project: int, short_lease: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[bool] = []

    def before(_: Source) -> None:
        first = stored(import_id).lease_until
        assert first is not None
        wait_for(import_id, lambda entry: entry.lease_until > first + timedelta(seconds=1))
        claimed.append(utcnow() > first)

    import_id = queued(project, jsonl([row(1), row(2)]), format_name="jsonl")
    with session_scope() as db:
        db.execute(update(Import).values(format=slow_format(monkeypatch, before)))
    runner.run_import(import_id)
    entry = stored(import_id)
    assert (entry.status, entry.attempt, entry.num_created) == ("succeeded", 1, 2)
    assert claimed == [True], "longer than one lease"


def read_until_stopped(source: Source) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        source.raw.seek(0)
        while source.raw.read(2**16):
            pass


@pytest.mark.parametrize("by", ["cancel", "another worker"])
def test_a_slow_reader_is_stopped_while_it_reads(
    project: int, short_lease: None, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    def before(source: Source) -> None:
        if by == "cancel":
            with session_scope() as db:
                drafts.cancel(db, db.get_one(Import, import_id))
        else:
            with session_scope() as db:
                db.execute(update(Import).values(attempt=Import.attempt + 1, lease_until=utcnow() + timedelta(hours=1)))
        read_until_stopped(source)

    import_id = queued(project, jsonl([row(number) for number in range(5000)]), format_name="jsonl")
    with session_scope() as db:
        db.execute(update(Import).values(format=slow_format(monkeypatch, before)))
    runner.run_import(import_id)
    entry = stored(import_id)
    expected = ("cancelled", 1) if by == "cancel" else ("staging", 2)
    assert (entry.status, entry.attempt) == expected
    assert look() == {"prompts": 0, "completions": 0, "ratings": 0, "import_rows": 0}


def test_a_prompt_that_a_cancelled_import_removes_under_an_apps_hands(project: int) -> None:
    """Between the app's look at the prompt and its completion, through a connection of its own."""
    import_id = queued(project, jsonl([row(3)]))
    with pytest.raises(Stop):
        runner.run_import(import_id, watch=stop_after(0))
    removed: list[int] = []

    def remove(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "INSERT INTO completions" in statement and not removed:
            removed.append(1)
            with session_scope() as other:
                drafts.forget_rows(other, import_id)
            removed.append(look()["prompts"])

    event.listen(Engine, "before_cursor_execute", remove)
    try:
        with session_scope() as db:
            item = FeedbackItem.model_validate({**row(3), "rater": "app"})
            (result,) = ingest(db, db.get_one(Project, project), [item], "shop")
    finally:
        event.remove(Engine, "before_cursor_execute", remove)
    assert removed == [1, 0], "the prompt was gone"
    assert result.status == "created"
    assert look() == {"prompts": 1, "completions": 1, "ratings": 1, "import_rows": 0}

"""Moves between states: guarded, audited, fenced by attempt."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, text

from app.core.clock import utcnow
from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.models import AuditEntry, Run, RunEvent, RunStatus
from app.runs import lifecycle, pausing, reaping, service
from app.settings import get_settings
from tests.runs.conftest import Bench
from tests.runs.samples import small_config


def states(bench: Bench, run: Run) -> list[str]:
    moves = select(RunEvent.data["status"].astext).where(RunEvent.run_id == run.id, RunEvent.kind == "state")
    return list(bench.db.scalars(moves.order_by(RunEvent.id)))


def lose_lease(bench: Bench, run: Run) -> None:
    bench.db.execute(text("UPDATE runs SET lease_until = now() - interval '1 second' WHERE id = :id"), {"id": run.id})


def test_a_second_submit_finds_the_first_run(bench):
    first, second = bench.launch("k"), bench.launch("k")
    assert first.id == second.id
    assert bench.db.scalar(select(func.count()).select_from(Run)) == 1
    assert bench.launch("other").name == "kto-0002"


def test_a_key_used_with_other_settings_is_refused(bench):
    bench.launch("k")
    with pytest.raises(ConflictError, match="kto-0001"):
        bench.launch("k", beta=0.3)


def test_another_projects_snapshot_is_not_found(bench, factory):
    other = factory.project()
    with pytest.raises(NotFoundError):
        service.launch(
            bench.db,
            other,
            None,
            config=small_config("x"),
            snapshot=bench.snapshot,
            launch_key="k",
        )


def test_a_run_is_claimed_once_and_each_claim_is_a_new_attempt(bench):
    run = bench.launch()
    claimed = lifecycle.claim(bench.db, run.id, "gpu-1")
    assert claimed is not None
    assert (claimed.status, claimed.attempt, claimed.worker) == ("starting", 1, "gpu-1")
    assert lifecycle.claim(bench.db, run.id, "gpu-2") is None
    assert lifecycle.mark_running(bench.db, run.id, 1) is not None
    assert states(bench, run) == ["queued", "starting", "running"]
    assert bench.db.scalar(select(func.count()).select_from(AuditEntry).where(AuditEntry.action == "run.running")) == 1


def test_a_stale_attempt_moves_nothing(bench):
    run = bench.launch()
    lifecycle.claim(bench.db, run.id, "gpu-1")
    lose_lease(bench, run)
    reaping.reap_lost_leases(bench.db)
    lifecycle.claim(bench.db, run.id, "gpu-2")
    assert lifecycle.heartbeat(bench.db, run.id, 1) is None
    assert lifecycle.mark_running(bench.db, run.id, 1) is None
    assert lifecycle.finish(bench.db, run.id, 1, RunStatus.SUCCEEDED) is None
    assert lifecycle.heartbeat(bench.db, run.id, 2) is not None
    assert states(bench, run) == ["queued", "starting", "interrupted", "queued", "starting"]


def test_a_waiting_run_is_cancelled_at_once(bench):
    run = bench.launch()
    assert lifecycle.request_stop(bench.db, run).status == "cancelled"
    assert lifecycle.claim(bench.db, run.id, "gpu-1") is None
    with pytest.raises(ConflictError, match="was cancelled"):
        lifecycle.request_stop(bench.db, run)


def test_a_running_run_is_stopping_until_its_process_is_gone(bench):
    run = bench.launch()
    lifecycle.claim(bench.db, run.id, "gpu-1")
    lifecycle.mark_running(bench.db, run.id, 1)
    stopping = lifecycle.request_stop(bench.db, run)
    assert (stopping.status, stopping.stop_requested, stopping.finished_at) == ("stopping", "save", None)
    assert lifecycle.request_stop(bench.db, run).status == "stopping"  # twice is harmless
    ended = lifecycle.finish(bench.db, run.id, 1, RunStatus.CANCELLED)
    assert ended is not None
    assert ended.finished_at is not None


def test_a_lost_lease_ends_a_stopping_run(bench):
    run = bench.launch()
    lifecycle.claim(bench.db, run.id, "gpu-1")
    lifecycle.request_stop(bench.db, run)
    lose_lease(bench, run)
    assert reaping.reap_lost_leases(bench.db) == [run.id]
    bench.db.refresh(run)
    assert run.status == "cancelled"


def test_a_lease_that_holds_is_left_alone(bench):
    run = bench.launch()
    lifecycle.claim(bench.db, run.id, "gpu-1")
    assert reaping.reap_lost_leases(bench.db) == []
    lifecycle.interrupt(bench.db, run.id, 1, reason=lifecycle.LEASE_LOST, message="", lease_over=True)
    bench.db.refresh(run)
    assert run.status == "starting"


def test_automatic_resumes_are_bounded(bench, monkeypatch):
    monkeypatch.setattr(get_settings(), "max_attempts", 2)
    run = bench.launch()
    for _ in range(2):
        lifecycle.claim(bench.db, run.id, "gpu-1")
        lose_lease(bench, run)
        reaping.reap_lost_leases(bench.db)
    bench.db.refresh(run)
    assert (run.status, run.attempt, run.failure_reason) == ("failed", 2, "unknown")
    assert "lost 2 times" in run.failure_message
    assert run.finished_at is not None


def test_a_worker_that_shuts_down_does_not_count_as_lost(bench, monkeypatch):
    monkeypatch.setattr(get_settings(), "max_attempts", 1)
    run = bench.launch()
    lifecycle.claim(bench.db, run.id, "gpu-1")
    lifecycle.interrupt(bench.db, run.id, 1, reason=lifecycle.WORKER_STOPPED, message="The worker was shut down.")
    bench.db.refresh(run)
    assert run.status == "queued"


def test_runs_of_another_project_are_not_found(bench, factory):
    run = bench.launch()
    with pytest.raises(NotFoundError):
        service.get_run(bench.db, factory.project(), run.id)


def paused(bench: Bench, kind: str = "loops") -> Run:
    """A run that its first attempt's trainer has paused at step 4."""
    run = bench.launch()
    lifecycle.claim(bench.db, run.id, "gpu-1")
    lifecycle.mark_running(bench.db, run.id, 1)
    alarms = [{"kind": kind, "level": "critical", "text": "Loops."}, {"kind": "global", "level": "watch", "text": "W."}]
    bench.db.add(
        RunEvent(
            run_id=run.id, attempt=1, seq=1, kind="evaluation_finished", step=4, data={"alarms": alarms}, at=utcnow()
        )
    )
    found = pausing.pause(bench.db, run.id, 1, "Paused at step 4: Loops.")
    assert found is not None
    return found


def test_a_paused_run_waits_for_a_decision_and_for_nothing_else(bench):
    run = paused(bench)
    assert (run.status, run.worker, run.lease_until) == ("paused", None, None)
    assert lifecycle.claim(bench.db, run.id, "gpu-2") is None
    assert lifecycle.heartbeat(bench.db, run.id, 1) is None
    assert lifecycle.finish(bench.db, run.id, 1, RunStatus.SUCCEEDED) is None
    assert reaping.reap_lost_leases(bench.db) == []
    reaping.requeue_interrupted(bench.db)
    assert reaping.ring_queued(bench.db) == 0
    assert service.queue_place(bench.db, bench.launch("next")) == 0


def test_going_on_needs_a_reason_and_records_it(bench):
    run = paused(bench)
    for reason in (" ", "x" * 2001):
        with pytest.raises(InvalidError) as refused:
            pausing.go_on(bench.db, run, bench.lead, reason)
        assert "reason" in refused.value.fields
    assert pausing.go_on(bench.db, run, bench.lead, " Lists repeat. ").status == "queued"
    assert pausing.go_on(bench.db, run, bench.lead, "Again.").status == "queued"
    assert run.acknowledged_alarms == ["loops"]
    entries = bench.db.scalars(select(AuditEntry).where(AuditEntry.action == "run.gone_on")).all()
    assert [(entry.user_id, entry.details) for entry in entries] == [
        (bench.lead.id, {"reason": "Lists repeat.", "alarms": ["loops"]})
    ]
    assert states(bench, run) == ["queued", "starting", "running", "paused", "queued"]
    claimed = lifecycle.claim(bench.db, run.id, "gpu-2")
    assert claimed is not None
    assert (claimed.attempt, claimed.failure_message) == (2, None)


def test_a_paused_run_can_be_ended(bench):
    run = paused(bench)
    ended = lifecycle.request_stop(bench.db, run)
    assert (ended.status, ended.failure_message) == ("cancelled", "Paused at step 4: Loops.")
    assert ended.finished_at is not None
    with pytest.raises(ConflictError, match="not paused"):
        pausing.go_on(bench.db, run, bench.lead, "Too late.")


def test_a_run_that_was_asked_to_stop_does_not_pause(bench):
    run = bench.launch()
    lifecycle.claim(bench.db, run.id, "gpu-1")
    lifecycle.request_stop(bench.db, run)
    assert pausing.pause(bench.db, run.id, 2, "m") is None
    found = pausing.pause(bench.db, run.id, 1, "m")
    assert found is not None
    assert found.status == "cancelled"

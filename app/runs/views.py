"""What the run page shows, worked out from rows: figures for the strip, checkpoints with their evaluations, events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.clock import utcnow
from app.models import FINAL, Checkpoint, Evaluation, Run, RunEvent, User, Worker
from app.runs import curves, service, words
from app.runs.pause_view import pause_view
from app.runs.pausing import critical_steps
from app.web.formats import DASH, clock, duration, gib, interval, num, since

SHOWN_EVENTS = 50
MAX_DRAWN = 60


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    checkpoint: Checkpoint
    evaluation: Evaluation | None
    is_best: bool
    is_bad: bool = False
    """A critical alarm was raised at it."""

    @property
    def is_removed(self) -> bool:
        return self.checkpoint.removed_at is not None

    @property
    def auc(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"value": None, "low": None, "high": None}
        return curves.held_out_auc(self.evaluation.heldout) if self.evaluation else empty

    @property
    def similarity_change(self) -> float | None:
        diversity = self.evaluation.diversity if self.evaluation else None
        found = (diversity or {}).get("overall", {}).get("similarity")
        return found["change"] if found else None


def is_final(run: Run) -> bool:
    return run.status in FINAL


def live_context(db: Session, run: Run, *, errors: dict[str, str] | None = None, reason: str = "") -> dict[str, Any]:
    """Of the parts that are sent again while a run goes on: head, strip, checkpoints.

    ``errors`` and ``reason`` are of a decision about a paused run that did not fit.
    """
    best = (run.summary.get("best") or {}).get("step")
    bad = critical_steps(db, run)
    starter = db.get(User, run.created_by) if run.created_by else None
    rows = [
        CheckpointRow(checkpoint, evaluation, checkpoint.step == best, checkpoint.step in bad)
        for checkpoint, evaluation in service.list_checkpoints(db, run)
    ]
    return {
        "run": run,
        "is_final": is_final(run),
        "figures": kpis(db, run),
        "checkpoint_rows": rows,
        "planned": planned_checkpoints(run),
        "saved": len(rows),
        "kept_step": next((row.checkpoint.step for row in rows if row.checkpoint.removed_at is None), None),
        "progress_words": words.progress_words(run.summary.get("progress")),
        "place": service.queue_place(db, run) if run.status == "queued" else 0,
        "workers": heard_workers(db) if run.status == "queued" else 0,
        "reason": words.reason_words(run),
        "remedies": words.remedies(run),
        "log_tail": service.log_tail(run.id, run.attempt, 4_000) if run.status == "failed" else "",
        "snapshot": run.snapshot,
        "starter": starter.name if starter else "the command line",
        "interruption": last_interruption(db, run),
        "pause": pause_view(db, run, errors=errors, reason=reason),
        "good_step": last_good_step(rows) if run.status == "paused" else None,
    }


def last_good_step(rows: Sequence[CheckpointRow]) -> int | None:
    """The newest kept checkpoint that was evaluated without a critical alarm; ``rows`` are newest first."""
    return next((row.checkpoint.step for row in rows if row.evaluation and not row.is_bad and not row.is_removed), None)


def page_context(db: Session, run: Run, *, errors: dict[str, str] | None = None, reason: str = "") -> dict[str, Any]:
    entries = shown_entries(db, run)
    last_id = db.scalar(select(func.max(RunEvent.id)).where(RunEvent.run_id == run.id)) or 0
    return live_context(db, run, errors=errors, reason=reason) | {
        "entries": entries,
        "last_event_id": last_id,
        "similarity_margin": curves.SIMILARITY_MARGIN,
    }


def shown_entries(db: Session, run: Run) -> list[dict[str, Any]]:
    """The newest events first."""
    statement = (
        select(RunEvent)
        .where(RunEvent.run_id == run.id, RunEvent.kind.in_(words.SHOWN_KINDS))
        .order_by(RunEvent.id.desc())
        .limit(SHOWN_EVENTS)
    )
    return [entry for event in db.scalars(statement) if (entry := words.entry(event)) is not None]


def last_interruption(db: Session, run: Run) -> str:
    """Why the latest attempt but this one ended, while that is news: until this one has passed a step of its own."""
    if is_final(run) or run.attempt < 1:
        return ""
    statement = (
        select(RunEvent.data["message"].astext)
        .where(
            RunEvent.run_id == run.id,
            RunEvent.kind == "state",
            RunEvent.data["status"].astext == "interrupted",
            RunEvent.attempt >= (run.attempt if run.status in {"queued", "interrupted"} else run.attempt - 1),
        )
        .order_by(RunEvent.id.desc())
        .limit(1)
    )
    return db.scalar(statement) or "" if run.status != "running" else ""


def heard_workers(db: Session) -> int:
    since_ = func.clock_timestamp() - timedelta(seconds=30)
    return db.scalar(select(func.count()).select_from(Worker).where(Worker.heard_at > since_)) or 0


def planned_checkpoints(run: Run) -> list[int]:
    """Steps at which a checkpoint is due: every interval, and the last step. Empty where there are too many to draw."""
    every, total = run.config["evaluation"]["interval_steps"], run.total_steps
    return sorted({*range(every, total + 1, every), total}) if 0 < total <= every * MAX_DRAWN else []


def expected_end(run: Run, now: datetime) -> datetime | None:
    """From the pace of this attempt so far, evaluations included; None before its second step."""
    pace = run.summary.get("pace")
    if run.status != "running" or not pace or run.step <= pace["step"]:
        return None
    spent = (now - datetime.fromisoformat(pace["at"])).total_seconds()
    return now + timedelta(seconds=spent / (run.step - pace["step"]) * (run.total_steps - run.step))


def kpis(db: Session, run: Run) -> list[dict[str, Any]]:
    now = utcnow()
    metrics, best = run.summary.get("metrics", {}), run.summary.get("best")
    of_epochs = "" if run.config["max_steps"] else f" of {num(run.config['num_epochs'], 2)}"
    step = {
        "label": "Step",
        "value": num(run.step),
        "unit": f"of {num(run.total_steps)}" if run.total_steps else "",
        "detail": f"epoch {num(metrics['epoch'], 2)}{of_epochs}" if "epoch" in metrics else "",
    }
    speed = metrics.get("tokens_per_second")
    memory = metrics.get("memory_bytes")
    return [
        step,
        _end(run, now),
        {"label": "Speed", "value": num(round(speed)) if speed else DASH, "unit": "tokens/s" if speed else ""},
        {
            "label": "Memory",
            "value": gib(memory) if memory else DASH,
            "unit": "GiB" if memory else "",
            "detail": "peak so far" if memory else "",
        },
        _worker(db, run),
        {
            "label": "Best checkpoint",
            "value": num(best["auc"], 3) if best else DASH,
            "unit": "AUC" if best else "",
            "detail": f"step {num(best['step'])}, {interval(best['low'], best['high'])}"
            if best
            else "none evaluated yet",
            "wide_only": True,
        },
    ]


def _end(run: Run, now: datetime) -> dict[str, Any]:
    if run.finished_at is not None:
        took = (run.finished_at - run.started_at).total_seconds() if run.started_at else None
        return {
            "label": "Ended",
            "value": clock(run.finished_at),
            "unit": "UTC",
            "detail": f"after {duration(took)}" if took else "",
        }
    end = expected_end(run, now)
    if end is None:
        detail = "waits for a decision" if run.status == "paused" else "known after the first steps"
        return {"label": "Ends about", "value": DASH, "detail": detail}
    left = duration((end - now).total_seconds())
    return {"label": "Ends about", "value": clock(end), "unit": "UTC", "detail": f"in {left}"}


def _worker(db: Session, run: Run) -> dict[str, Any]:
    if not run.worker:
        return {
            "label": "Worker",
            "value": DASH,
            "detail": "" if run.status == "paused" else "waits for one",
            "word": True,
            "wide_only": True,
        }
    row = db.get(Worker, run.worker)
    device = row.devices[0]["name"] if row and row.devices else ""
    heard = f"heard {since(row.heard_at)}" if row and not is_final(run) else ""
    detail = ", ".join(part for part in (device, heard) if part)
    name = run.worker.partition("@")[2] or run.worker
    return {"label": "Worker", "value": name, "detail": detail, "word": True, "wide_only": True}

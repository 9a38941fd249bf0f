"""A run's events as messages for the browser: replay after an id, then whatever is new."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.requests import Request

from app.core.db import session_scope
from app.core.errors import NotFoundError
from app.models import Run, RunEvent
from app.runs import views, words
from app.runs.curves import evaluated_points
from app.web.templating import render_to_string

BATCH = 500
HEAD_KINDS = {"state", "run_started"}
CHECKPOINT_KINDS = {"checkpoint_saved", "checkpoint_removed", "evaluation_finished"}


@dataclass(frozen=True, slots=True)
class Message:
    type: str
    """metrics, eval, checkpoint, part, prepend or done: what static/js/live.js understands."""
    data: dict[str, Any]


@dataclass(slots=True)
class Batch:
    messages: list[tuple[int, Message]] = field(default_factory=list)
    """(event id, message): a browser that reconnects asks for what came after the last id it saw."""
    last_id: int = 0
    has_more: bool = False
    is_over: bool = False
    """The run is final and everything was sent."""


def read_batch(request: Request, project_id: int, run_id: int, after: int) -> Batch:
    """Holds a connection for the time of three short queries only."""
    with session_scope() as db:
        run = db.scalar(select(Run).where(Run.project_id == project_id, Run.id == run_id))
        if run is None:
            raise NotFoundError("There is no such run in this project.")
        statement = select(RunEvent).where(RunEvent.run_id == run_id, RunEvent.id > after).order_by(RunEvent.id)
        rows = db.scalars(statement.limit(BATCH)).all()
        batch = Batch(last_id=rows[-1].id if rows else after, has_more=len(rows) == BATCH)
        for row in rows:
            batch.messages += [(row.id, message) for message in messages_of(request, row)]
        if rows and not batch.has_more:
            kinds = {row.kind for row in rows}
            batch.messages += [(batch.last_id, message) for message in _parts(request, db, run, kinds)]
        batch.is_over = views.is_final(run) and not batch.has_more
    return batch


def messages_of(request: Request, event: RunEvent) -> list[Message]:
    found: list[Message] = []
    if event.kind == "metrics":
        found.append(Message("metrics", {"step": event.step, "time": event.at.timestamp(), "values": event.data}))
    elif event.kind == "checkpoint_saved":
        found.append(Message("checkpoint", {"step": event.data["step"]}))
    elif event.kind == "evaluation_finished":
        found += [Message("eval", point) for point in evaluated_points(event.step, event.data)]
    entry = words.entry(event)
    if entry is not None:
        html = render_to_string(request, "runs/_event.html", {"item": entry})
        found.append(Message("prepend", {"target": "run-events", "html": html}))
    return found


def _parts(request: Request, db: Session, run: Run, kinds: set[str]) -> list[Message]:
    """The parts of the page that these kinds of events change."""
    context = views.live_context(db, run)
    names = {"run-strip": "runs/_strip.html"}
    if kinds & HEAD_KINDS:
        names |= {"run-head": "runs/_head.html", "run-facts": "runs/_facts.html"}
    if kinds & (CHECKPOINT_KINDS | HEAD_KINDS):
        names["run-checkpoints"] = "runs/_checkpoints.html"
    return [
        Message("part", {"target": target, "html": render_to_string(request, template, context)})
        for target, template in names.items()
    ]

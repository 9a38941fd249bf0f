"""Incidents: opened by monitoring or by a person, closed with a note."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.accounts.audit import record
from app.core.clock import utcnow
from app.core.errors import InvalidError, NotFoundError
from app.models import Incident, Project, User
from app.registry.monitoring import SENTINELS, Watched, watch
from app.web.formats import num, pct
from worker.alignment.evaluation.monitoring import clearly_higher

MAX_CHARS = 2_000
SHOWN = 50
RISES = {"loops": 0.01, "truncation": 0.02, "refusals": 0.05, "duplicates": 0.05, "pii": 0.02}
"""Least rise of a share that is worth an incident."""


def incidents_of(db: Session, project: Project) -> list[Incident]:
    """Open ones first, the newest of each; a bounded number."""
    query = select(Incident).where(Incident.project_id == project.id)
    return list(db.scalars(query.order_by(Incident.status.desc(), Incident.id.desc()).limit(SHOWN)))


def open_incident(
    db: Session,
    project: Project,
    *,
    kind: str,
    subject: str,
    title: str,
    data: dict[str, Any],
    user: User | None = None,
) -> bool:
    """False where one of this kind and subject is open already."""
    statement = upsert(Incident).values(project_id=project.id, kind=kind, subject=subject, title=title, data=data)
    opened = db.scalar(statement.on_conflict_do_nothing().returning(Incident.id)) is not None
    if opened:
        by = user.id if user else None
        record(db, "incident.opened", project_id=project.id, user_id=by, subject=title, kind=kind)
    return opened


def report(db: Session, project: Project, user: User, title: str) -> None:
    """Opened by hand. Raises InvalidError for the field ``title``."""
    title = title.strip()
    if not 0 < len(title) <= MAX_CHARS:
        raise InvalidError(
            "An incident needs a title.",
            fields={"title": f"Say in a sentence what happened, up to {MAX_CHARS:,} characters."},
        )
    if not open_incident(db, project, kind="manual", subject=title[:200], title=title, data={}, user=user):
        raise InvalidError("It is open already.", fields={"title": "An incident with this title is open already."})


def close(db: Session, project: Project, incident_id: int, user: User, note: str) -> Incident:
    """Closing twice changes nothing. Raises InvalidError for the field ``note``."""
    where = (Incident.project_id == project.id, Incident.id == incident_id)
    incident = db.scalar(select(Incident).where(*where).with_for_update())
    if incident is None:
        raise NotFoundError("There is no such incident.")
    note = note.strip()
    if incident.status == "closed":
        return incident
    if not 0 < len(note) <= MAX_CHARS:
        raise InvalidError("Closing needs a note.", fields={"note": f"Say what was found or done, up to {MAX_CHARS:,} characters."})  # fmt: skip
    incident.status, incident.note = "closed", note
    incident.closed_by, incident.closed_at = user.id, utcnow()
    record(db, "incident.closed", project_id=project.id, user_id=user.id, subject=incident.title, note=note)
    return incident


def check(db: Session, project: Project) -> int:
    """Open what the figures of now ask for; the number opened."""
    found = watch(db, project)
    return sum(open_incident(db, project, **incident) for incident in _asked_for(found))


def _asked_for(found: Watched) -> Iterator[dict[str, Any]]:
    current, before = found.current, found.baseline
    if current is not None and before is not None and found.chart is not None and found.chart.alarm_at is not None:
        down, votes = current.counts
        title = f"{current.model} gets more down-votes than {before.model}: {pct(down / votes)} against {pct(found.chart.baseline)}"
        data: dict[str, Any] = {
            "votes": votes,
            "down": down,
            "baseline": found.chart.baseline,
            "alarm_at_vote": found.chart.alarm_at,
        }
        yield {"kind": "down_votes", "subject": current.model, "title": title, "data": data}
    for key, sentinel in found.now_texts.items():
        earlier = found.before_texts.get(key)
        if current is None or earlier is None:
            continue
        if clearly_higher(sentinel.counts, earlier.counts, rise=RISES[key], factor=2.0):
            title = f"{SENTINELS[key]} of {current.model}: {num(sentinel.hits)} of {num(sentinel.n)} answers, before {num(earlier.hits)} of {num(earlier.n)}"
            data = {"completions": list(sentinel.examples)}
            yield {"kind": key, "subject": current.model, "title": title, "data": data}
    for rater in found.odd:
        yield {
            "kind": "rater",
            "subject": rater.rater,
            "title": f"Votes of {rater.rater} stand out: {rater.why}",
            "data": {"down": rater.down, "votes": rater.votes},
        }

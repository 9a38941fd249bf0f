"""Adjudication: a lead's last word on completions whose votes split.

The verdict is a rating of the source ``adjudication``; the label rule takes it as the label. The votes stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.errors import NotFoundError
from app.feedback.raters_names import PREFIX, rater_names
from app.feedback.ratings import rate, retract
from app.models import Completion, Project, Prompt, Rating, User

SOURCE = "adjudication"

_OPEN = """
    FROM completion_votes v
    WHERE v.project_id = :project AND v.ups > 0 AND v.downs > 0
      AND NOT EXISTS (SELECT 1 FROM ratings a WHERE a.completion_id = v.completion_id AND a.source = 'adjudication'
                      AND a.is_current)
"""
_NEXT = text(f"SELECT v.completion_id {_OPEN} AND v.completion_id > :after ORDER BY v.completion_id LIMIT 1")
_COUNT = text(f"SELECT count(*) FROM (SELECT 1 {_OPEN} LIMIT 1001) c")  # noqa: S608 -- a constant
_VOTES = text(
    """
    SELECT id FROM ratings WHERE completion_id = :completion AND project_id = :project AND is_current
      AND source <> 'adjudication' ORDER BY value DESC, id LIMIT 100
    """
)
_LAST = text(
    """
    SELECT id, completion_id FROM ratings
    WHERE project_id = :project AND source = 'adjudication' AND rater = :rater AND is_current
    ORDER BY id DESC LIMIT 1
    """
)


@dataclass(frozen=True, slots=True)
class Vote:
    name: str
    source: str
    value: bool
    reasons: list[str]
    comment: str | None


@dataclass(frozen=True, slots=True)
class Split:
    """A completion on which raters differ, with what each side says."""

    completion: Completion
    prompt: Prompt
    ups: list[Vote]
    downs: list[Vote]


def num_open(db: Session, project: Project) -> int:
    """How many wait for a verdict; 1,001 stands for more than a thousand."""
    return db.scalar(_COUNT, {"project": project.id}) or 0


def next_split(db: Session, project: Project, after: int = 0) -> Split | None:
    """The first open one behind ``after``."""
    found = db.scalar(_NEXT, {"project": project.id, "after": after})
    return _split(db, project, found) if found is not None else None


def _split(db: Session, project: Project, completion_id: int) -> Split:
    completion = db.get_one(Completion, completion_id)
    ids = list(db.scalars(_VOTES, {"project": project.id, "completion": completion_id}))
    rows = [rating for number in ids if (rating := db.get(Rating, number)) is not None]
    names = rater_names(db, [row.rater for row in rows])
    votes = [
        Vote(names.get(row.rater, row.rater), row.source, row.value, [str(word) for word in row.reasons], row.comment)
        for row in rows
    ]
    up, down = ([vote for vote in votes if vote.value is side] for side in (True, False))
    return Split(completion, db.get_one(Prompt, completion.prompt_id), up, down)


def adjudicate(db: Session, project: Project, completion_id: int, value: bool, user: User, comment: str = "") -> int:
    """The rating's id. Sent twice, it counts once. Raises NotFoundError for another project's completion."""
    completion = db.get(Completion, completion_id)
    if completion is None or completion.project_id != project.id:
        raise NotFoundError("There is no such completion in this project.")
    outcome, rating_id = rate(
        db,
        project.id,
        completion_id,
        source=SOURCE,
        rater=f"{PREFIX}{user.id}",
        value=value,
        comment=comment or None,
    )
    if outcome != "unchanged":
        audit.record(
            db,
            "completion.adjudicated",
            project_id=project.id,
            user_id=user.id,
            subject=f"completion {completion_id}",
            value=value,
        )
    return rating_id


def undo(db: Session, project: Project, user: User) -> int | None:
    """Take the person's newest adjudication back; the completion it was about, None where there is none."""
    row = db.execute(_LAST, {"project": project.id, "rater": f"{PREFIX}{user.id}"}).first()
    if row is None or not retract(db, project.id, row.id):
        return None
    audit.record(
        db,
        "completion.adjudication_undone",
        project_id=project.id,
        user_id=user.id,
        subject=f"completion {row.completion_id}",
    )
    return int(row.completion_id)

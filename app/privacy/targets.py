"""Whom or what an erasure is about, and which rows that is at this moment."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, and_, func, or_, select
from sqlalchemy.orm import Session, aliased

from app.core.crypto import decrypt, encrypt
from app.core.security import secret_key
from app.feedback.messages import messages_text
from app.models import Completion, CompletionSubject, GoldItem, PendingFeedback, Project, Prompt, Rating
from app.privacy.traces import Traces, row_key

RATER, SUBJECT, COMPLETION, RETENTION = "rater", "subject", "completion", "retention"
KINDS = (RATER, SUBJECT, COMPLETION, RETENTION)
BATCH = 2_000
"""Completions that one retention erasure takes at most."""
_PURPOSE = "erasure"


@dataclass(frozen=True, slots=True)
class Target:
    kind: str
    who: str
    """The rater's or the subject's name, the completion's id, or the instant before which everything goes."""

    def hashed(self, project: Project) -> str:
        """Recognises a second request of the same person; says nothing to who has not the installation's key."""
        told = f"erasure:{project.id}:{self.kind}:{self.who}".encode()
        return hmac.new(secret_key(), told, hashlib.sha256).hexdigest()

    def stored(self) -> dict[str, Any]:
        return {"who": encrypt(self.who, _PURPOSE).decode()}

    @classmethod
    def read(cls, kind: str, stored: dict[str, Any]) -> Target:
        return cls(kind, decrypt(str(stored["who"]).encode(), _PURPOSE))


@dataclass(slots=True)
class Found:
    """Ids of what goes, and the traces by which copies are known."""

    completions: list[int] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    """Those of which no completion is left."""
    ratings: list[int] = field(default_factory=list)
    num_comments: int = 0
    num_corrections: int = 0
    num_pending: int = 0
    keys: set[str] = field(default_factory=set)
    """``row_key`` of each completion."""
    external_ids: list[str] = field(default_factory=list)
    traces: Traces = field(default_factory=Traces)

    @property
    def counts(self) -> dict[str, int]:
        return {
            "completions": len(self.completions),
            "prompts": len(self.prompts),
            "ratings": len(self.ratings),
            "comments": self.num_comments,
            "corrections": self.num_corrections,
            "pending": self.num_pending,
        }


def look(db: Session, project: Project, target: Target) -> Found:
    """Everything that the target means now."""
    found = Found(completions=_completions(db, project, target))
    if target.kind in {RATER, SUBJECT}:
        found.traces.add_name(target.who)
    _take_texts(db, found)
    _take_ratings(db, project, target, found)
    waits: ColumnElement[bool] = PendingFeedback.completion_external_id.in_(found.external_ids)
    waits = PendingFeedback.rater == target.who if target.kind == RATER else waits
    where = (PendingFeedback.project_id == project.id, waits)
    for item in db.scalars(select(PendingFeedback.item).where(*where)):
        found.num_pending += 1
        for text in (item.get("comment"), item.get("correction")):
            if isinstance(text, str):
                found.traces.add_own(text)
    return found


def _completions(db: Session, project: Project, target: Target) -> list[int]:
    """With the edits of them, which quote them."""
    query = select(Completion.id).where(Completion.project_id == project.id)
    if target.kind == COMPLETION:
        query = query.where(Completion.id == int(target.who))
    elif target.kind == RETENTION:
        query = query.where(is_old(datetime.fromisoformat(target.who))).order_by(Completion.id).limit(BATCH)
    elif target.kind == SUBJECT:
        query = query.where(_only_subject(project, target.who))
    else:
        own = (Rating.project_id == project.id, Rating.rater == target.who, Rating.correction_id.is_not(None))
        # An edit that reads like an output of an app's is stored as that one: others rated it, and it stays.
        is_edit = or_(Completion.corrects_id.is_not(None), Completion.extra["kind"].astext == "correction")
        query = query.where(Completion.id.in_(select(Rating.correction_id).where(*own)), is_edit)
    ids = list(db.scalars(query))
    fresh = ids
    while fresh:
        edits = set(db.scalars(select(Completion.id).where(Completion.corrects_id.in_(fresh))))
        fresh = sorted(edits - set(ids))
        ids += fresh
    return sorted(ids)


def is_old(before: datetime) -> ColumnElement[bool]:
    """Came before, and is no gold item: that was chosen by a lead to be kept, until it is retired."""
    gold = select(GoldItem.id).where(GoldItem.completion_id == Completion.id, GoldItem.retired_at.is_(None))
    return and_(Completion.created_at < before, ~gold.exists())


def _only_subject(project: Project, who: str) -> ColumnElement[bool]:
    other = aliased(CompletionSubject)
    own = select(CompletionSubject.completion_id).where(
        CompletionSubject.project_id == project.id, CompletionSubject.subject == who
    )
    shared = select(other.completion_id).where(
        other.project_id == project.id, other.completion_id == Completion.id, other.subject != who
    )
    return and_(Completion.id.in_(own), ~shared.exists())


def _take_texts(db: Session, found: Found) -> None:
    query = (
        select(Completion.prompt_id, Completion.messages, Completion.external_id, Prompt.messages, Prompt.project_id)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(Completion.id.in_(found.completions))
    )
    rows = db.execute(query).all()
    asked = {row[0]: row[3] for row in rows}
    left = select(Completion.prompt_id).where(
        Completion.prompt_id.in_(asked), Completion.id.not_in(found.completions or [0])
    )
    kept = set(db.scalars(left))
    found.prompts = sorted(set(asked) - kept)
    shared = (
        _shared_systems(db, rows[0][4], [asked[key] for key in found.prompts], found.prompts) if rows else frozenset()
    )
    for key, answer, external_id, prompt, _ in rows:
        found.keys.add(row_key(prompt, answer))
        found.traces.add_messages(answer)
        if external_id:
            found.external_ids.append(external_id)
        if key not in kept:
            found.traces.add_messages(prompt, skip=shared)


def _shared_systems(db: Session, project_id: int, prompts: list[Any], going: list[int]) -> frozenset[str]:
    """System messages that prompts which stay begin with as well: they are the app's words, no person's."""
    texts = {
        messages_text([message])
        for prompt in prompts
        for message in prompt
        if message["role"] in {"system", "developer"}
    }
    shared = set()
    for text in texts:
        begins = Prompt.messages[0]["content"].astext == text
        other: ScalarSelect[Any] = (
            select(func.count())
            .where(Prompt.project_id == project_id, Prompt.id.not_in(going), begins)
            .scalar_subquery()
        )
        if db.scalar(select(other)):
            shared.add(text)
    return frozenset(shared)


def _take_ratings(db: Session, project: Project, target: Target, found: Found) -> None:
    of_target: ColumnElement[bool] = Rating.completion_id.in_(found.completions)
    if target.kind == RATER:
        of_target = (Rating.rater == target.who) | of_target
    query = select(Rating.id, Rating.comment, Rating.correction_id).where(Rating.project_id == project.id, of_target)
    corrections = set()
    for key, comment, correction in db.execute(query):
        found.ratings.append(key)
        if comment:
            found.num_comments += 1
            found.traces.add_own(comment)
        if correction:
            corrections.add(correction)
    found.num_corrections = len(corrections)

"""Completions: the table, and one with its prompt and ratings."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Query, Request, Response

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError
from app.core.pagination import int_cursor
from app.feedback import browse
from app.feedback.messages import shown_turns
from app.feedback.queue import SOURCE, rater_of
from app.feedback.ratings import rate, retract
from app.feedback.schemas import BigId
from app.feedback.search import is_behind
from app.models import Role
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/completions")
Watcher = Annotated[Viewer, Depends(Require("completion.view"))]
Rater = Annotated[Viewer, Depends(Require("rating.create"))]


@router.get("")
def completions(
    request: Request,
    db: Db,
    viewer: Watcher,
    category: Annotated[str, Query(max_length=200)] = "",
    model: Annotated[str, Query(max_length=200)] = "",
    state: Annotated[str, Query(max_length=20)] = "",
    q: Annotated[str, Query(max_length=200)] = "",
    source: Annotated[str, Query(max_length=200)] = "",
    cursor: str | None = None,
) -> Response:
    wanted = browse.Filter(*(value.replace("\x00", "") for value in (category, model, state, q.strip(), source)))
    hides = viewer.role == Role.ANNOTATOR
    if hides and wanted.state != "unrated":
        wanted = replace(wanted, state="")  # it would tell others' verdicts
    page = browse.list_completions(db, viewer.project, wanted, int_cursor(cursor))
    categories, models, sources = browse.choices(db, viewer.project)
    address = urlencode({"q" if key == "text" else key: value for key, value in wanted.to_dict().items()})
    context = {
        "lines": page.rows,
        "hides": hides,
        "own": browse.rated_by(db, viewer.project, rater_of(viewer.user), page.rows) if hides else set(),
        "wanted": wanted,
        "categories": [(name, name) for name in categories],
        "models": [(name, name) for name in models],
        "sources": [(name, name) for name in sources],
        "behind": bool(wanted.text) and is_behind(db, viewer.project),
        "turns": shown_turns,
        "address": address,
        "older": f"?{address}&cursor={page.next_cursor}" if page.next_cursor else None,
        "newest": f"?{address}" if cursor else None,
    }
    return render(request, "feedback/completions.html", context)


@router.get("/{completion_id}")
def one_completion(request: Request, db: Db, viewer: Watcher, completion_id: BigId) -> Response:
    completion = browse.get_completion(db, viewer.project, completion_id)
    ratings = browse.ratings_of(db, viewer.project, completion)
    mine = next(
        (row for row in ratings if row.is_current and (row.source, row.rater) == (SOURCE, rater_of(viewer.user))), None
    )
    context = {
        "completion": completion,
        "prompt": completion.prompt,
        "ratings": ratings,
        "hides": viewer.role == Role.ANNOTATOR and mine is None,
        "mine": mine,
        "names": browse.rater_names(db, ratings),
        "turns": shown_turns,
    }
    return render(request, "feedback/completion.html", context)


@router.post("/{completion_id}/rate")
def rate_completion(
    request: Request, db: Db, viewer: Rater, completion_id: BigId, value: Annotated[str, Form()]
) -> Response:
    """The viewer's own thumb; the pressed one again takes it back."""
    completion = browse.get_completion(db, viewer.project, completion_id)
    if value not in ("up", "down"):
        raise InvalidError("That is no verdict.", fields={"value": "up or down"})
    outcome, rating_id = rate(
        db, viewer.project.id, completion.id, source=SOURCE, rater=rater_of(viewer.user), value=value == "up"
    )
    words = "Saved: desirable." if value == "up" else "Saved: undesirable."
    if outcome == "unchanged":
        retract(db, viewer.project.id, rating_id)
        words = "Taken back."
    return redirect(request, f"/p/{viewer.project.slug}/completions/{completion.id}", words)

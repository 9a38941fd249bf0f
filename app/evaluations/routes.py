"""Prove: what every checkpoint of a run showed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.pagination import int_cursor
from app.evaluations import alarms, charts, queries, words
from app.evaluations.frame import frame_of
from app.models import Evaluation, EvaluationCategory
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/evaluations", include_in_schema=False)

CanView = Annotated[Viewer, Depends(Require("evaluation.view"))]
SORTS = {"effect": "Largest effect first", "name": "By name", "distinct": "Fewest distinct answers first"}
CATEGORIES_PER_PAGE = 50
NEWEST_ALARMS = 5


@router.get("")
def list_runs(request: Request, viewer: CanView, db: Db, before: str | None = None) -> Response:
    page = queries.evaluated_runs(db, viewer.project.id, int_cursor(before))
    older = f"{request.url.path}?{urlencode({'before': page.next_cursor})}" if page.next_cursor else None
    open_alarms = alarms.num_open_by_run(db, viewer.project.id, [row.run.id for row in page.rows])
    context = {"page_rows": page.rows, "older": older, "auc_of": queries.auc_of, "open_alarms": open_alarms}
    return render(request, "evaluations/list.html", {**context, "main_change": words.main_change})


@router.get("/{run_id:int}")
def overview(request: Request, viewer: CanView, db: Db, run_id: int, step: int | None = None) -> Response:
    frame = frame_of(db, viewer.project.id, run_id, "", step)
    shown = frame.shown
    measured = shown.diversity if shown else None
    context = {
        **frame.context(),
        "charts": charts,
        "sentences": _sentences(db, shown) if shown else (),
        "main_key": words.main_change(measured)[0] if measured else "similarity",
        "margin": words.MARGIN,
        "figures": words.sample_figures(measured) if measured else [],
        "open_alarms": [item for item in frame.alarms if item.counts][:NEWEST_ALARMS],
    }
    return render(request, "evaluations/overview.html", context)


def _sentences(db: Db, shown: Evaluation) -> tuple[str, str]:
    levels = [(row.kind, row.level) for row in alarms.raised_at(db, shown)]
    varied = words.collapse_sentence(shown.diversity, levels) if shown.diversity else words.diversity_sentence(None)
    return words.ranking_sentence(shown.heldout), varied


@router.get("/{run_id:int}/diversity/table")
def categories(
    request: Request,
    viewer: CanView,
    db: Db,
    run_id: int,
    step: int | None = None,
    q: str = "",
    sort: Literal["effect", "name", "distinct"] = "effect",
    after: str = "",
) -> Response:
    """Every category of one checkpoint in figures: what the heat map shows, for those who read tables."""
    frame = frame_of(db, viewer.project.id, run_id, "diversity", step, last=True)
    rows, next_after, total = _category_rows(
        queries.categories_at(db, frame.shown) if frame.shown else [], q.strip().casefold(), sort, after
    )
    address = {"q": q, "sort": sort, **({"step": step} if step is not None else {})}
    older = f"{request.url.path}?{urlencode({**address, 'after': next_after})}" if next_after else None
    context = {"rows": rows, "total": total, "older": older, "q": q, "sort": sort, "sorts": list(SORTS.items())}
    return render(request, "evaluations/categories.html", {**frame.context(), **context})


@router.get("/{run_id:int}/completions")
def completions(
    request: Request,
    viewer: CanView,
    db: Db,
    run_id: int,
    step: int | None = None,
    category: Annotated[str, Query()] = "",
    after: str | None = None,
) -> Response:
    frame = frame_of(db, viewer.project.id, run_id, "completions", step)
    shown: Evaluation | None = frame.shown
    address: dict[str, Any] = {"step": shown.step if shown else "", "category": category}
    samples = queries.samples_side_by_side(db, shown, category=category, after=int_cursor(after)) if shown else None
    older = (
        f"{request.url.path}?{urlencode({**address, 'after': samples.next_cursor})}"
        if samples and samples.next_cursor
        else None
    )
    return render(
        request,
        "evaluations/completions.html",
        {
            **frame.context(),
            "samples": samples.rows if samples else [],
            "older": older,
            "newer": f"{request.url.path}?{urlencode(address)}" if after else None,
            "category": category,
            "names": [row.category for row in queries.categories_at(db, shown)] if shown else [],
            "num_prompts": queries.num_prompts(db, shown, category) if shown else 0,
        },
    )


def _category_rows(
    rows: Sequence[EvaluationCategory], search: str, sort: str, after: str
) -> tuple[list[EvaluationCategory], str | None, int]:
    """One page of the table: rows, the name to go on after, and how many match. ``after`` is the last name shown."""
    found = [row for row in rows if search in row.category.casefold() or search in row.domain.casefold()]
    orders = {
        "effect": lambda row: (-words.main_figure(row.metrics)["change"], row.category),
        "name": lambda row: row.category,
        "distinct": lambda row: (row.metrics["distinct_k"]["policy"], row.category),
    }
    found.sort(key=orders[sort])
    start = next((index + 1 for index, row in enumerate(found) if row.category == after), 0) if after else 0
    shown = found[start : start + CATEGORIES_PER_PAGE]
    more = start + CATEGORIES_PER_PAGE < len(found)
    return shown, shown[-1].category if more else None, len(found)

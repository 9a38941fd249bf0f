"""Prove: what every checkpoint of a run showed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request, Response

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.pagination import int_cursor
from app.evaluations import charts, queries, words
from app.evaluations.frame import frame_of
from app.models import Evaluation, EvaluationCategory
from app.runs.curves import SIMILARITY_MARGIN
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/evaluations", include_in_schema=False)

CanView = Annotated[Viewer, Depends(Require("evaluation.view"))]
SORTS = {"effect": "Largest effect first", "name": "By name", "distinct": "Fewest distinct answers first"}
CATEGORIES_PER_PAGE = 50


@router.get("")
def list_runs(request: Request, viewer: CanView, db: Db, before: str | None = None) -> Response:
    page = queries.evaluated_runs(db, viewer.project.id, int_cursor(before))
    older = f"{request.url.path}?{urlencode({'before': page.next_cursor})}" if page.next_cursor else None
    return render(request, "evaluations/list.html", {"page_rows": page.rows, "older": older, "auc_of": queries.auc_of})


@router.get("/{run_id:int}")
def overview(request: Request, viewer: CanView, db: Db, run_id: int) -> Response:
    context = frame_of(db, viewer.project.id, run_id, "").context()
    shown: Evaluation | None = context["shown"]
    return render(
        request,
        "evaluations/overview.html",
        {**context, "charts": charts, "sentences": words.verdict(shown) if shown else (), "margin": SIMILARITY_MARGIN},
    )


@router.get("/{run_id:int}/diversity")
def diversity(
    request: Request,
    viewer: CanView,
    db: Db,
    run_id: int,
    step: int | None = None,
    q: str = "",
    sort: Literal["effect", "name", "distinct"] = "effect",
    after: str = "",
) -> Response:
    context = frame_of(db, viewer.project.id, run_id, "diversity", step, last=True).context()
    evaluations: list[Evaluation] = context["evaluations"]
    shown: Evaluation | None = context["shown"]
    curves = queries.category_curves(db, evaluations)
    rows, next_after, total = _category_rows(
        queries.categories_at(db, shown) if shown else [], q.strip().casefold(), sort, after
    )
    address = {"q": q, "sort": sort, **({"step": step} if step is not None else {})}
    older = f"{request.url.path}?{urlencode({**address, 'after': next_after})}" if next_after else None
    return render(
        request,
        "evaluations/diversity.html",
        {
            **context,
            "heat": charts.heat_categories(curves),
            "changes": {curve.category: curve.changes for curve in curves},
            "rows": rows,
            "total": total,
            "older": older,
            "q": q,
            "sort": sort,
            "sorts": list(SORTS.items()),
            "sentence": words.diversity_sentence(shown.diversity) if shown else "",
            "margin": SIMILARITY_MARGIN,
            "charts": charts,
        },
    )


@router.get("/{run_id:int}/completions")
def completions(
    request: Request,
    viewer: CanView,
    db: Db,
    run_id: int,
    step: int | None = None,
    category: str = "",
    after: str | None = None,
) -> Response:
    context = frame_of(db, viewer.project.id, run_id, "completions", step).context()
    shown: Evaluation | None = context["shown"]
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
            **context,
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
    found = [row for row in rows if search in row.category.casefold()]
    orders = {
        "effect": lambda row: (-row.metrics["similarity"]["change"], row.category),
        "name": lambda row: row.category,
        "distinct": lambda row: (row.metrics["distinct_k"]["policy"], row.category),
    }
    found.sort(key=orders[sort])
    start = next((index + 1 for index, row in enumerate(found) if row.category == after), 0) if after else 0
    shown = found[start : start + CATEGORIES_PER_PAGE]
    more = start + CATEGORIES_PER_PAGE < len(found)
    return shown, shown[-1].category if more else None, len(found)

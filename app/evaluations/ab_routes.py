"""Blind A/B: the list, a new test, one pair after another, and the result once it is closed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import HTMLResponse

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError
from app.evaluations import ab, ab_results, ab_sources
from app.evaluations.comparisons import get_comparison
from app.feedback.messages import shown_turns
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/ab", include_in_schema=False)

CanView = Annotated[Viewer, Depends(Require("project.view"))]
CanVote = Annotated[Viewer, Depends(Require("ab.vote"))]
CanEdit = Annotated[Viewer, Depends(Require("ab.edit"))]
SIDES: dict[str, ab.Side] = {"left": "left", "right": "right", "tie": "tie"}
DEFAULT_INSTRUCTIONS = "Which answer would you rather send to the person who asked?"


@router.get("")
def test_list(request: Request, viewer: CanView, db: Db) -> HTMLResponse:
    rows = [(test, ab.progress(db, test, viewer.user)) for test in ab.list_tests(db, viewer.project)]
    return render(request, "evaluations/ab_list.html", {"rows": rows})


@router.get("/new")
def new_test(request: Request, viewer: CanEdit, db: Db, comparison: int | None = None) -> HTMLResponse:
    form: dict[str, Any] = {"name": "", "first": "", "second": "", "num_items": "100", "instructions": ""}
    if comparison is not None:
        found = get_comparison(db, viewer.project, comparison)
        first, second = ab_sources.of_comparison(db, viewer.project, comparison)
        form |= {"comparison": comparison, "first": first, "second": second, "name": f"{found.run.name}, blind"}
    return _form_page(request, viewer, db, form)


@router.post("")
def create(
    request: Request,
    viewer: CanEdit,
    db: Db,
    name: Annotated[str, Form()] = "",
    first: Annotated[str, Form()] = "",
    second: Annotated[str, Form()] = "",
    num_items: Annotated[str, Form()] = "100",
    instructions: Annotated[str, Form()] = "",
    comparison: Annotated[str, Form()] = "",
) -> Response:
    typed = {"name": name, "first": first, "second": second, "num_items": num_items, "instructions": instructions}
    typed["comparison"] = comparison
    try:
        number = int(num_items) if num_items.isdecimal() and len(num_items) < 6 else 0
        source = int(comparison) if comparison.isdecimal() and len(comparison) < 10 else None
        test = ab.create(
            db,
            viewer.project,
            viewer.user,
            name=name,
            instructions=instructions,
            first=ab_sources.read(db, viewer.project, first, "first"),
            second=ab_sources.read(db, viewer.project, second, "second"),
            num_items=number,
            comparison_id=get_comparison(db, viewer.project, source).id if source else None,
        )
    except InvalidError as error:
        return _form_page(request, viewer, db, typed, errors=error.fields or {"": error.message})
    return redirect(request, f"{request.url.path}/{test.id}")


@router.get("/{test_id:int}")
def test_page(request: Request, viewer: CanView, db: Db, test_id: int) -> HTMLResponse:
    """The next pair; once the test is closed its result."""
    test = ab.get_test(db, viewer.project, test_id)
    context: dict[str, Any] = {"test": test, "progress": ab.progress(db, test, viewer.user)}
    if test.status == "closed":
        result = ab_results.result_of(db, test)
        words = ab_results.sentence(test, result) if result else "Nobody voted before the test was closed."
        return render(request, "evaluations/ab_result.html", {**context, "result": result, "sentence": words})
    item = ab.next_item(db, test, viewer.user) if viewer.can("ab.vote") else None
    sides = None
    if item is not None:
        texts = (item.text_a, item.text_b)
        sides = texts if ab.left_arm(item, viewer.user.id) == "a" else texts[::-1]
    context |= {"item": item, "sides": sides, "turns": shown_turns, "default_instructions": DEFAULT_INSTRUCTIONS}
    return render(request, "evaluations/ab.html", context)


@router.post("/{test_id:int}/vote")
def vote(
    request: Request,
    viewer: CanVote,
    db: Db,
    test_id: int,
    item: Annotated[str, Form()] = "",
    side: Annotated[str, Form()] = "",
) -> Response:
    test = ab.get_test(db, viewer.project, test_id)
    if side not in SIDES or not item.isdecimal() or len(item) > 9:
        raise InvalidError("This is no vote.", remedy="Reload the page and choose a side again.")
    ab.vote(db, test, viewer.user, int(item), SIDES[side])
    return redirect(request, _url(viewer, test_id))


@router.post("/{test_id:int}/undo")
def undo(request: Request, viewer: CanVote, db: Db, test_id: int) -> Response:
    done = ab.undo(db, ab.get_test(db, viewer.project, test_id), viewer.user)
    return redirect(request, _url(viewer, test_id), None if done else "There is nothing to undo.")


@router.post("/{test_id:int}/close")
def close(request: Request, viewer: CanEdit, db: Db, test_id: int) -> Response:
    ab.close(db, viewer.project, viewer.user, ab.get_test(db, viewer.project, test_id))
    return redirect(request, _url(viewer, test_id))


def _url(viewer: Viewer, test_id: int) -> str:
    return f"/p/{viewer.project.slug}/ab/{test_id}"


def _form_page(
    request: Request, viewer: Viewer, db: Db, form: dict[str, Any], errors: dict[str, str] | None = None
) -> HTMLResponse:
    context = {
        "form": {"comparison": ""} | form,
        "errors": errors or {},
        "sources": [("", "Choose"), *ab_sources.choices(db, viewer.project)],
    }
    return render(request, "evaluations/ab_new.html", context, status_code=422 if errors else 200)

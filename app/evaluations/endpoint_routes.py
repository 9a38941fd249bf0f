"""The page of endpoints."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError
from app.evaluations import endpoints
from app.evaluations.suite_routes import SmallId, root
from app.models import Endpoint
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/suites/endpoints", include_in_schema=False)
CanEdit = Annotated[Viewer, Depends(Require("endpoint.edit"))]


def form_fields(
    name: Annotated[str, Form()] = "",
    kind: Annotated[str, Form()] = "judge",
    url: Annotated[str, Form()] = "",
    model: Annotated[str, Form()] = "",
    key: Annotated[str, Form()] = "",
    key_env: Annotated[str, Form()] = "",
    timeout: Annotated[str, Form()] = "60",
    concurrency: Annotated[str, Form()] = "4",
) -> dict[str, str]:
    return {
        "name": name,
        "kind": kind,
        "url": url,
        "model": model,
        "key": key,
        "key_env": key_env,
        "timeout": timeout,
        "concurrency": concurrency,
    }


Typed = Annotated[dict[str, str], Depends(form_fields)]
EMPTY = {"name": "", "kind": "judge", "url": "", "model": "", "key_env": "", "timeout": "60", "concurrency": "4"}


def _page(
    request: Request,
    viewer: Viewer,
    db: Db,
    *,
    typed: dict[str, str] | None = None,
    editing: Endpoint | None = None,
    error: InvalidError | None = None,
    tested: tuple[int, bool, str] | None = None,
) -> Response:
    context: dict[str, Any] = {
        "endpoints": endpoints.list_endpoints(db, viewer.project),
        "kinds": endpoints.KINDS,
        "typed": typed or EMPTY,
        "editing": editing,
        "errors": error.fields if error else {},
        "tested": tested,
        "env_prefix": endpoints.ENV_PREFIX,
    }
    return render(request, "evaluations/endpoints.html", context, status_code=422 if error else 200)


@router.get("")
def endpoints_page(request: Request, viewer: CanEdit, db: Db) -> Response:
    return _page(request, viewer, db)


@router.post("")
def create(request: Request, viewer: CanEdit, db: Db, typed: Typed) -> Response:
    try:
        row = endpoints.save(db, viewer.project, typed, user=viewer.user)
    except InvalidError as error:
        return _page(request, viewer, db, typed=typed, error=error)
    return redirect(request, f"{root(viewer)}/endpoints", f"{row.name} is saved. Test it before you rely on it.")


@router.get("/{endpoint_id:int}")
def edit_page(request: Request, viewer: CanEdit, db: Db, endpoint_id: SmallId) -> Response:
    row = endpoints.find_endpoint(db, viewer.project.id, endpoint_id)
    typed = {
        "name": row.name,
        "kind": row.kind,
        "url": row.url,
        "model": row.model,
        "key_env": row.secret_env,
        "timeout": str(row.options.get("timeout_seconds", 60)),
        "concurrency": str(row.options.get("concurrency", 4)),
    }
    return _page(request, viewer, db, typed=typed, editing=row)


@router.post("/{endpoint_id:int}")
def save(request: Request, viewer: CanEdit, db: Db, endpoint_id: SmallId, typed: Typed) -> Response:
    row = endpoints.find_endpoint(db, viewer.project.id, endpoint_id)
    try:
        endpoints.save(db, viewer.project, typed, user=viewer.user, endpoint=row)
    except InvalidError as error:
        return _page(request, viewer, db, typed=typed, editing=row, error=error)
    return redirect(request, f"{root(viewer)}/endpoints", f"{row.name} is saved.")


@router.post("/{endpoint_id:int}/test")
def test(request: Request, viewer: CanEdit, db: Db, endpoint_id: SmallId) -> Response:
    row = endpoints.find_endpoint(db, viewer.project.id, endpoint_id)
    works, words = endpoints.test(row)
    return _page(request, viewer, db, tested=(row.id, works, words))


@router.post("/{endpoint_id:int}/remove")
def remove(request: Request, viewer: CanEdit, db: Db, endpoint_id: SmallId) -> Response:
    row = endpoints.find_endpoint(db, viewer.project.id, endpoint_id)
    endpoints.remove(db, viewer.project, row, user=viewer.user)
    return redirect(request, f"{root(viewer)}/endpoints", f"{row.name} is removed; what it judged stays.")

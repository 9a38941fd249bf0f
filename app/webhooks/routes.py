"""Pages of webhooks, under Sources."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Path, Request, Response
from sqlalchemy.orm import Session

from app.accounts.access import Require, Viewer
from app.core.clock import utcnow
from app.core.db import Db
from app.core.errors import InvalidError
from app.core.pagination import int_cursor
from app.models import Webhook
from app.web.htmx import redirect
from app.web.templating import render
from app.webhooks import service
from app.webhooks.events import TYPES

router = APIRouter(prefix="/p/{slug}/sources/webhooks", include_in_schema=False)
Watcher = Annotated[Viewer, Depends(Require("source.view"))]
CanEdit = Annotated[Viewer, Depends(Require("webhook.edit"))]
SmallId = Annotated[int, Path(ge=1, le=2**31 - 1)]
BigId = Annotated[int, Path(ge=1, le=2**63 - 1)]
WORDS = {
    "feedback.created": "A thumb came in, or a rater changed theirs",
    "run.finished": "A run succeeded, failed or was cancelled",
    "model.promoted": "Another version is in production",
}


def form_fields(
    url: Annotated[str, Form()] = "",
    description: Annotated[str, Form()] = "",
    events: Annotated[list[str], Form()] = [],  # noqa: B006 -- FastAPI copies defaults
) -> dict[str, Any]:
    return {"url": url, "description": description, "events": events}


Typed = Annotated[dict[str, Any], Depends(form_fields)]


def _root(viewer: Viewer) -> str:
    return f"/p/{viewer.project.slug}/sources/webhooks"


def _list(request: Request, viewer: Viewer, db: Session, *, status_code: int = 200, **more: Any) -> Response:
    context = {
        "webhooks": service.list_webhooks(db, viewer.project),
        "counts": service.counts(db, viewer.project),
        "types": [(name, WORDS[name]) for name in TYPES],
        "typed": {"url": "", "description": "", "events": list(TYPES)},
        "errors": {},
        "secret": None,
        **more,
    }
    return render(request, "webhooks/list.html", context, status_code=status_code)


def _one(
    request: Request, viewer: Viewer, db: Session, webhook: Webhook, *, status_code: int = 200, **more: Any
) -> Response:
    before = int_cursor(request.query_params.get("before"))
    page = service.deliveries(db, webhook, before)
    context = {
        "webhook": webhook,
        "counts": service.counts(db, viewer.project).get(webhook.id, {}),
        "deliveries": page.rows,
        "older": f"{_root(viewer)}/{webhook.id}?before={page.next_cursor}" if page.next_cursor else None,
        "newer": f"{_root(viewer)}/{webhook.id}" if before is not None else None,
        "types": [(name, WORDS[name]) for name in TYPES],
        "typed": {"url": webhook.url, "description": webhook.description, "events": webhook.events},
        "errors": {},
        "secret": None,
        "tested": None,
        "now": utcnow(),
        **more,
    }
    return render(request, "webhooks/webhook.html", context, status_code=status_code)


@router.get("")
def webhooks_page(request: Request, viewer: Watcher, db: Db) -> Response:
    return _list(request, viewer, db)


@router.post("")
def create(request: Request, viewer: CanEdit, db: Db, typed: Typed) -> Response:
    """The secret is in this answer and nowhere else."""
    try:
        row, secret = service.create(db, viewer.project, typed, user=viewer.user)
    except InvalidError as error:
        return _list(request, viewer, db, status_code=422, typed=typed, errors=error.fields)
    return _list(request, viewer, db, secret=secret, fresh=row)


@router.get("/{webhook_id:int}")
def webhook_page(request: Request, viewer: Watcher, db: Db, webhook_id: SmallId) -> Response:
    return _one(request, viewer, db, service.find_webhook(db, viewer.project.id, webhook_id))


@router.post("/{webhook_id:int}")
def change(request: Request, viewer: CanEdit, db: Db, webhook_id: SmallId, typed: Typed) -> Response:
    row = service.find_webhook(db, viewer.project.id, webhook_id)
    try:
        service.change(db, row, typed, user=viewer.user)
    except InvalidError as error:
        return _one(request, viewer, db, row, status_code=422, typed=typed, errors=error.fields)
    return redirect(request, f"{_root(viewer)}/{row.id}", "The webhook is saved.")


@router.post("/{webhook_id:int}/test")
def test(request: Request, viewer: CanEdit, db: Db, webhook_id: SmallId) -> Response:
    row = service.find_webhook(db, viewer.project.id, webhook_id)
    return _one(request, viewer, db, row, tested=service.send_test(db, row, user=viewer.user))


@router.post("/{webhook_id:int}/rotate")
def rotate(request: Request, viewer: CanEdit, db: Db, webhook_id: SmallId) -> Response:
    row = service.find_webhook(db, viewer.project.id, webhook_id)
    return _one(request, viewer, db, row, secret=service.rotate(db, row, user=viewer.user))


@router.post("/{webhook_id:int}/enable")
def enable(request: Request, viewer: CanEdit, db: Db, webhook_id: SmallId) -> Response:
    row = service.find_webhook(db, viewer.project.id, webhook_id)
    service.enable(db, row, user=viewer.user)
    return redirect(request, f"{_root(viewer)}/{row.id}", "Enabled. What was held is sent now.")


@router.post("/{webhook_id:int}/disable")
def disable(request: Request, viewer: CanEdit, db: Db, webhook_id: SmallId) -> Response:
    row = service.find_webhook(db, viewer.project.id, webhook_id)
    service.disable(db, row, user=viewer.user)
    return redirect(request, f"{_root(viewer)}/{row.id}", "Disabled. What waits is held.")


@router.post("/{webhook_id:int}/remove")
def remove(request: Request, viewer: CanEdit, db: Db, webhook_id: SmallId) -> Response:
    row = service.find_webhook(db, viewer.project.id, webhook_id)
    service.remove(db, row, user=viewer.user)
    return redirect(request, _root(viewer), "The webhook is removed.")


@router.post("/{webhook_id:int}/deliveries/{delivery_id:int}/again")
def again(request: Request, viewer: CanEdit, db: Db, webhook_id: SmallId, delivery_id: BigId) -> Response:
    row = service.find_webhook(db, viewer.project.id, webhook_id)
    service.send_again(db, row, delivery_id, user=viewer.user)
    return redirect(request, f"{_root(viewer)}/{row.id}", "It is sent again.")

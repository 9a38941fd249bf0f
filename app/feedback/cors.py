"""What a browser asks before a page of another site sends feedback: may it, from there?

Answered for the routes that take publishable keys and no other, and only where some valid publishable key names the page's
origin. The question carries no key: the key itself is checked when the feedback comes. Cookies are never let through.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app.accounts.access import Public
from app.core.db import Db
from app.core.errors import ForbiddenError
from app.models import ApiKey

router = APIRouter(prefix="/api/v1", include_in_schema=False, dependencies=[Depends(Public())])
MAX_AGE_SECONDS = 600
"""How long a browser may go on without asking again; a revoked key is refused at once all the same."""
_METHODS = {"send": "POST", "put": "PUT, DELETE"}


def _is_named(db: Session, origin: str) -> bool:
    valid = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())
    query = select(ApiKey.id).where(
        ApiKey.kind == "publishable", ApiKey.revoked_at.is_(None), valid, ApiKey.origins.contains([origin])
    )
    return db.scalar(query.limit(1)) is not None


def _answer(request: Request, db: Session, methods: str) -> Response:
    origin = request.headers.get("origin", "")
    if not origin.isprintable() or not _is_named(db, origin):
        raise ForbiddenError("No publishable key names this origin.", remedy="Add it to a key under Sources.")
    headers = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key",
        "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
        "Vary": "Origin",
    }
    return Response(status_code=204, headers=headers)


@router.options("/feedback")
def may_send(request: Request, db: Db) -> Response:
    return _answer(request, db, _METHODS["send"])


@router.options("/feedback/{source}/{external_id:path}")
def may_put(request: Request, db: Db, source: str, external_id: str) -> Response:  # noqa: ARG001 -- any of them
    return _answer(request, db, _METHODS["put"])

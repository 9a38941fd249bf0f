"""Whether the parts answer: for container health checks and `kto health`."""

from __future__ import annotations

import os
from datetime import timedelta

import redis
from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from app.accounts.access import Public
from app.core.clock import utcnow
from app.core.db import session_scope
from app.core.errors import StudioError
from app.core.redis import get_redis
from app.models import Worker

router = APIRouter(include_in_schema=False)


def check() -> list[str]:
    """What does not answer, in words; empty when all is well."""
    problems = []
    try:
        with session_scope() as db:
            db.execute(text("SELECT 1"))
    except (SQLAlchemyError, StudioError):
        problems.append("the database does not answer")
    try:
        get_redis().ping()
    except (redis.RedisError, ValueError):
        problems.append("Redis does not answer")
    return problems


def worker_heard() -> bool:
    with session_scope() as db:
        since = utcnow() - timedelta(minutes=1)
        names = db.scalars(select(Worker.name).where(Worker.heard_at > since))
        return any(name.endswith(os.uname().nodename) for name in names)


@router.get("/healthz", dependencies=[Depends(Public())])
def healthz() -> JSONResponse:
    problems = check()
    return JSONResponse({"ok": not problems, "problems": problems}, 503 if problems else 200)

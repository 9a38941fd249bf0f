"""Readiness and snapshots: pages and the download of a snapshot's files."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response

from app.accounts.access import Require, Viewer
from app.core.clock import utcnow
from app.core.db import Db
from app.core.errors import InvalidError, UnavailableError
from app.core.pagination import int_cursor
from app.datasets import routes_rules, service
from app.datasets.splits import SIDES
from app.models import User
from app.web.htmx import redirect
from app.web.templating import render
from worker.alignment.weights import advised_weights

router = APIRouter(prefix="/p/{slug}", include_in_schema=False)
router.include_router(routes_rules.router)
Watcher = Annotated[Viewer, Depends(Require("snapshot.view"))]


@router.get("/readiness")
def readiness_page(request: Request, db: Db, viewer: Watcher) -> Response:
    context = {"readiness": service.readiness(db, viewer.project), "computed_at": utcnow(), "refusal": None}
    return render(request, "datasets/readiness.html", context)


@router.post("/snapshots")
def freeze(request: Request, db: Db, viewer: Annotated[Viewer, Depends(Require("snapshot.freeze"))]) -> Response:
    try:
        frozen = service.freeze_or_find(db, viewer.project, viewer.user)
    except (InvalidError, UnavailableError) as error:
        context = {"readiness": service.readiness(db, viewer.project), "computed_at": utcnow(), "refusal": error}
        return render(request, "datasets/readiness.html", context, status_code=error.status)
    words = "Snapshot frozen." if frozen.is_new else "Nothing changed since this snapshot was frozen: here it is."
    return redirect(request, f"/p/{viewer.project.slug}/snapshots/{frozen.snapshot.content_hash[:16]}", words)


@router.get("/snapshots")
def snapshot_list(request: Request, db: Db, viewer: Watcher, cursor: str = "") -> Response:
    page = service.list_snapshots(db, viewer.project, int_cursor(cursor))
    return render(request, "datasets/snapshots.html", {"snapshots": page, "cursor": cursor})


@router.get("/snapshots/{digest}")
def snapshot_page(request: Request, db: Db, viewer: Watcher, digest: str) -> Response:
    snapshot = service.find_snapshot(db, viewer.project, digest)
    train = snapshot.counts["train"]
    context = {
        "snapshot": snapshot,
        "sides": [(side, snapshot.counts[side]) for side in SIDES],
        "weights": advised_weights(train["desirable"], train["undesirable"]),
        "band": service.weights_band(train["desirable"], train["undesirable"]),
        "runs": service.runs_of(db, snapshot),
        "frozen_by": db.get(User, snapshot.created_by) if snapshot.created_by else None,
    }
    return render(request, "datasets/snapshot.html", context)


@router.get("/snapshots/{digest}/files/{name}")
def snapshot_file(db: Db, viewer: Watcher, digest: str, name: str) -> Response:
    snapshot = service.find_snapshot(db, viewer.project, digest)
    kind = "application/json" if name.endswith(".json") else "application/jsonl"
    path = service.snapshot_file(snapshot, name)
    return FileResponse(path, media_type=kind, filename=f"{viewer.project.slug}-{snapshot.content_hash[:8]}-{name}")

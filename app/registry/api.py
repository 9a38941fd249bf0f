"""What an app should serve, by API key."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from app.accounts.access import KeyHolder, RequireKey
from app.core.db import Db
from app.core.errors import NotFoundError
from app.registry import service
from app.registry.exports import exports_of, open_archive
from app.registry.labels import base_model_label
from app.web.openapi import BEARER, error_answers

router = APIRouter(prefix="/api/v1/versions", tags=["versions"], dependencies=[BEARER])

CanRead = Annotated[KeyHolder, Depends(RequireKey("version:read"))]


class AdapterFacts(BaseModel):
    ready: bool
    """False until someone exports the adapter on the Versions page."""
    size_bytes: int | None
    url: str | None
    """Path of a tar archive in peft's format, for the same key."""


class ProductionVersion(BaseModel):
    version: int
    run: str
    objective: str
    base_model: str
    snapshot: str
    checkpoint_step: int
    checkpoint_manifest_sha256: str
    promoted_at: datetime
    adapter: AdapterFacts


@router.get("/production", summary="Which version to serve", responses=error_answers(404))
def production_version(holder: CanRead, db: Db) -> ProductionVersion:
    """The version that holds the alias ``production``; 404 while none does."""
    alias = service.production(db, holder.project.id)
    if alias is None:
        raise NotFoundError("No version is in production.", remedy="Promote one on the Versions page.")
    version = alias.version
    export = exports_of(db, version).get("adapter")
    ready = export is not None and export.status == "ready"
    return ProductionVersion(
        version=version.number,
        run=version.run.name,
        objective=version.run.objective,
        base_model=base_model_label(version.run),
        snapshot=version.run.snapshot.content_hash,
        checkpoint_step=version.checkpoint.step,
        checkpoint_manifest_sha256=version.checkpoint.manifest_sha256,
        promoted_at=alias.moved_at,
        adapter=AdapterFacts(
            ready=ready,
            size_bytes=export.size_bytes if export is not None and ready else None,
            url="/api/v1/versions/production/adapter" if ready else None,
        ),
    )


@router.get(
    "/production/adapter",
    summary="Download the adapter to serve",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-tar": {}}, "description": "The archive."}, **error_answers(404, 503)},
)
def production_adapter(holder: CanRead, db: Db) -> Response:
    """The adapter of ``production`` as a tar archive in peft's format; 404 while it is not exported."""
    alias = service.production(db, holder.project.id)
    if alias is None:
        raise NotFoundError("No version is in production.", remedy="Promote one on the Versions page.")
    archive = open_archive(db, project_slug=holder.project.slug, version=alias.version, kind="adapter")
    headers = {
        "Content-Disposition": f'attachment; filename="{archive.filename}"',
        "Content-Length": str(archive.size_bytes),
    }
    return StreamingResponse(archive.chunks, media_type="application/x-tar", headers=headers)

"""The pages of the feedback room: annotate, queues, completions, sources; and the documentation of the API."""

from __future__ import annotations

from fastapi import APIRouter

from app.feedback import (
    cors,
    routes_annotate,
    routes_bulk,
    routes_completions,
    routes_docs,
    routes_gold,
    routes_import,
    routes_keys,
    routes_links,
    routes_queues,
    routes_raters,
    routes_sources,
    widget,
)

router = APIRouter(include_in_schema=False)
for part in (
    routes_annotate,
    routes_keys,
    routes_queues,
    routes_raters,
    routes_completions,
    routes_bulk,
    routes_import,
    routes_sources,
    routes_docs,
    routes_gold,
    routes_links,
    cors,
    widget,
):
    router.include_router(part.router)

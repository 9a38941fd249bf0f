"""The pages of the feedback room: annotate, queues, completions, sources; and the documentation of the API."""

from __future__ import annotations

from fastapi import APIRouter

from app.feedback import routes_annotate, routes_completions, routes_docs, routes_queues, routes_sources

router = APIRouter(include_in_schema=False)
for part in (routes_annotate, routes_queues, routes_completions, routes_sources, routes_docs):
    router.include_router(part.router)

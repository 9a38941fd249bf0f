"""The web application. Start it with ``kto up``, or ``uvicorn app.main:create_app --factory``."""

from __future__ import annotations

import gc

from fastapi import APIRouter, FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from app.accounts import redaction
from app.accounts.people_routes import router as people_pages
from app.accounts.routes import router as account_pages
from app.core.logs import set_up_logs
from app.datasets.routes import router as dataset_pages
from app.datasets.routes_exports import router as export_pages
from app.evaluations.ab_routes import router as ab_pages
from app.evaluations.comparison_routes import router as comparison_pages
from app.evaluations.diversity_routes import router as diversity_pages
from app.evaluations.endpoint_routes import router as endpoint_pages
from app.evaluations.job_routes import router as job_pages
from app.evaluations.routes import router as evaluation_pages
from app.evaluations.suite_routes import router as suite_pages
from app.evaluations.tab_routes import router as suite_tabs
from app.feedback.api import router as feedback_api
from app.feedback.api import send_feedback
from app.feedback.routes import router as feedback_pages
from app.feedback.routes_links import api as link_api
from app.home.routes import router as home_pages
from app.privacy.api import router as privacy_api
from app.privacy.routes import router as privacy_pages
from app.registry.api import router as version_api
from app.registry.monitoring_routes import router as monitoring_pages
from app.registry.routes import router as version_pages
from app.runs.events import router as run_events
from app.runs.reference_routes import router as off_policy_pages
from app.runs.routes import router as run_pages
from app.runs.routes import worker_router as worker_pages
from app.settings import get_settings
from app.web import errors
from app.web.health import router as health_pages
from app.web.middleware import BrowserMiddleware, SizeLimitMiddleware
from app.web.routes import router as styleguide_pages
from app.web.shortcut import Shortcut
from app.web.static import StudioStatic
from app.webhooks.routes import router as webhook_pages

ROUTERS: tuple[APIRouter, ...] = (
    feedback_api,
    link_api,
    webhook_pages,  # before the pages of sources, whose addresses it lies under
    feedback_pages,
    account_pages,
    people_pages,
    privacy_pages,
    privacy_api,
    dataset_pages,
    export_pages,
    home_pages,
    comparison_pages,
    ab_pages,
    diversity_pages,
    evaluation_pages,
    suite_tabs,
    suite_pages,
    job_pages,
    endpoint_pages,
    off_policy_pages,
    run_pages,
    run_events,
    worker_pages,
    version_pages,
    monitoring_pages,
    version_api,
    health_pages,
    styleguide_pages,
)


class Studio(FastAPI):
    """Single thumbs skip middleware and router: there are as many of them as of all other requests together."""

    def build_middleware_stack(self) -> ASGIApp:
        return Shortcut(super().build_middleware_stack(), "/api/v1/feedback", send_feedback)


def create_app() -> FastAPI:
    app = Studio(
        title="KTO Studio",
        summary="Collect binary feedback and align models with it.",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", StudioStatic(), name="static")
    errors.install(app)
    set_up_logs()
    redaction.install()
    app.add_middleware(SizeLimitMiddleware)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=get_settings().answered_hosts)
    app.add_middleware(BrowserMiddleware)  # the outermost: refusals of the others carry the security headers too
    _spare_the_collector()
    return app


def _spare_the_collector() -> None:
    """What stands now stands until the end; walking through it again and again cost each request a tenth of its time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)

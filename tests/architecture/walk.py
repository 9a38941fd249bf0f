"""Every page and form of the application with addresses of real rows: what the tests that walk all routes stand on."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.keys import create_key
from app.accounts.members import invite
from app.core.db import Base
from app.datasets.labels import RULE
from app.feedback.gold import mark
from app.feedback.importers import import_file
from app.feedback.queue_fill import default_queue, queue_everything
from app.main import create_app
from app.models import (
    AbItem,
    AbTest,
    AnnotationSlot,
    BulkLabel,
    Comparison,
    Erasure,
    Incident,
    OutboxEvent,
    Project,
    Role,
    User,
    Webhook,
    WebhookDelivery,
)
from app.registry.exports import request_export
from app.registry.service import make_version
from app.runs import service
from app.webhooks.secrets import set_first
from tests.evaluations.support import alarm_in, checkpoint_of, evaluation_in
from tests.runs import samples
from tests.suites.support import suite_rows

SEEN = ("login_sessions",)
"""Signing in writes these."""


@dataclass(frozen=True)
class Furnished:
    """A project with a row of every kind, and how these are called in addresses and forms."""

    project: Project
    owner: User
    params: dict[str, str]
    form: dict[str, str]

    def path(self, template: str, slug: str | None = None) -> str:
        values = {**self.params, "slug": slug or self.project.slug}
        return re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: values[found[1]], template)


def furnish(db: Session, factory: Any, folder: Path) -> Furnished:
    project = factory.project()
    owner = factory.member(project, Role.OWNER)
    completion = factory.completion(project, category="sums")
    factory.rating(completion)
    queue = default_queue(db, project)
    queue_everything(db, project, queue, 2)
    line = {"prompt": "How?", "completion": "So.", "label": True}
    entry = import_file(db, project, io.BytesIO(json.dumps(line).encode()), user=owner)
    key, _ = create_key(db, project, "shop", user=owner)
    invited = invite(db, project, f"new-{project.id}@example.org", "New", "annotator", owner)
    snapshot = samples.freeze(db, project, samples.balanced(), samples.mixed_dev(), name=f"walk-{project.id}")
    snapshot.counts = snapshot.counts | {"cut": 0, "dropped": {"ties": 0, "conflicts": 0, "duplicates": 0}}
    snapshot.rule = RULE
    config = samples.small_config(samples.model_folder())
    run = service.launch(db, project, owner, config=config, snapshot=snapshot, launch_key="walk")
    checkpoint = checkpoint_of(factory, run)
    evaluation = evaluation_in(factory, run, checkpoint, folder)
    alarm = alarm_in(factory, evaluation)
    version = make_version(db, project=project, checkpoint_id=checkpoint.id, user=owner)
    request_export(db, version=version, kind="adapter", user=owner)
    comparison = factory.add(
        Comparison(
            project_id=project.id, run_id=run.id, snapshot_id=snapshot.id, launch_key=f"walk-{project.id}", plan={}
        )
    )
    test = factory.add(
        AbTest(project_id=project.id, comparison_id=comparison.id, name="Walk", arm_a="dpo", arm_b="kto_all")
    )
    prompt = [{"role": "user", "content": "How?"}]
    factory.add(AbItem(test_id=test.id, number=0, prompt=prompt, text_a="So.", text_b="Thus."))
    incident = factory.add(Incident(project_id=project.id, kind="manual", subject="walk", title="Something"))
    run.status = "succeeded"  # its stream of events ends by itself
    bulk = factory.add(BulkLabel(project_id=project.id, user_id=owner.id, filter={}, value=True))
    gold_item = mark(db, project, completion, owner, value=True)
    slot = db.scalar(select(AnnotationSlot.id).where(AnnotationSlot.queue_id == queue.id))
    db.flush()
    hook = Webhook(project_id=project.id, url="https://hooks.invalid/walk", events=["run.finished"])
    set_first(hook)
    factory.add(hook)
    erasure = factory.add(Erasure(project_id=project.id, kind="rater", who_hash="walk", status="done"))
    erasure.counts = dict.fromkeys(
        ("completions", "prompts", "ratings", "comments", "corrections", "copies", "files"), 0
    )
    event = factory.add(OutboxEvent(project_id=project.id, type="run.finished", data={}))
    sent = factory.add(WebhookDelivery(webhook_id=hook.id, event_id=event.id, status="delivered"))
    params = {
        "webhook_id": hook.id,
        "delivery_id": sent.id,
        "completion_id": completion.id,
        "queue_slug": queue.slug,
        "gold_id": gold_item.id,
        "bulk_id": bulk.id,
        "key_id": key.id,
        "source_name": "import",
        "import_id": entry.id,
        "user_id": invited.member.user_id,
        "digest": snapshot.content_hash,
        "name": "train.jsonl",
        "run_id": run.id,
        "number": version.number,
        "kind": "adapter",
        "token": "no-such-token",
        "feedback_id": 1,
        "external_id": "fb-1",
        "source": "shop",
        "alarm_id": alarm.id,
        "comparison_id": comparison.id,
        "test_id": test.id,
        "incident_id": incident.id,
        "erasure_id": erasure.id,
        **suite_rows(db, project, owner, checkpoint),
    }
    form = {
        "checkpoint_id": checkpoint.id,
        "snapshot_id": snapshot.id,
        "base_model": config.base_model,
        "launch_key": f"other-{project.id}",
        "slot": slot,
        "value": "up",
        "role": "viewer",
        "kind": "adapter",
        "overlap": 3,
        "version_id": 1,
        "number": 0,
        "repeat": 0,
        "label": "none",
    }
    return Furnished(project, owner, _as_text(params), _as_text(form))


def _as_text(values: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def routes() -> list[tuple[str, APIRoute]]:
    """(method, route) of all, those of routers inside routers too."""
    found = [context.original_route for context in iter_route_contexts([*create_app().routes])]
    return [
        (method, route)
        for route in found
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())
        if method != "HEAD"
    ]


STREAM = "/p/{slug}/runs/{run_id:int}/events"
"""Goes on beside its request's own session: not on the one connection that these tests share. `events.json` is the same."""


def sizes(db: Session) -> dict[str, int]:
    """Rows of every table that a refused request must not touch."""
    return {
        table.name: db.scalar(select(func.count()).select_from(table)) or 0
        for table in Base.metadata.sorted_tables
        if table.name not in SEEN
    }

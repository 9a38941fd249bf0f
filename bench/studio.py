"""A throw-away KTO Studio for benchmarks: the bundled PostgreSQL and Redis in a temporary folder, one project."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from app.core.db import get_engine, session_scope
from app.core.migrate import migrate
from app.embedded.errors import EmbeddedError
from app.embedded.services import EmbeddedServices
from app.feedback.schemas import FeedbackItem, parse_item
from app.feedback.service import ingest
from app.models import Membership, Project, Role, User
from app.serve import set_environment
from bench.report import CannotRunError

BATCH = 500
_WORDS = "the parcel refund order arrived late and my card was charged twice please tell when it will come back".split()  # noqa: SIM905


@contextmanager
def studio() -> Iterator[None]:
    """Settings point at fresh services that write durably (fsync on); a configured database is never touched."""
    folder = Path(tempfile.mkdtemp(prefix="kto-bench-"))
    folder.chmod(0o755)  # the database may run as another user
    kept = dict(os.environ)
    try:
        with EmbeddedServices(folder / "data") as services:
            set_environment(
                DATABASE_URL=services.database_url, REDIS_URL=services.redis_url, KTO_DATA_DIR=str(folder / "data")
            )
            migrate(services.database_url)
            try:
                yield
            finally:
                get_engine().dispose()
    except EmbeddedError as error:
        raise CannotRunError(str(error)) from error
    finally:
        os.environ.clear()
        os.environ.update(kept)
        shutil.rmtree(folder, ignore_errors=True)


def make_project() -> tuple[Project, User]:
    """With a lead."""
    with session_scope() as db:
        project = Project(slug="bench", name="Bench", split_salt="salt")
        lead = User(email="lead@example.org", name="Lee Ader")
        db.add_all([project, lead])
        db.flush()
        db.add(Membership(project_id=project.id, user_id=lead.id, role=Role.LEAD.value))
    return project, lead


def raw_items(start: int, count: int, *, labelled: bool = True) -> list[dict[str, Any]]:
    """Items as an app sends them, different for every number, with answers of skewed length (median 60 words)."""
    made = []
    for number in range(start, start + count):
        rng = np.random.default_rng(number)
        length = int(np.clip(rng.lognormal(np.log(60), 0.9), 3, 800))
        item = {
            "prompt": [{"role": "user", "content": " ".join(rng.choice(_WORDS, 15)) + f" {number}?"}],
            "completion": " ".join(rng.choice(_WORDS, length)),
            "category": f"category {number % 12}",
            "model": "helpdesk-7",
            "rater": f"customer-{number}",
            "completion_id": f"msg-{number}",
        }
        made.append(item | {"label": bool(rng.random() < 0.6)} if labelled else item)
    return made


def items(raw: list[dict[str, Any]]) -> list[FeedbackItem]:
    return [parse_item(each) for each in raw]


def store(project: Project, batch: list[FeedbackItem]) -> None:
    """Ingest and commit; every item must be new."""
    with session_scope() as db:
        results = ingest(db, project, batch, "shop")
    assert all(result.status == "created" for result in results), "a batch of the benchmark was not new"


def fill(project: Project, count: int, *, labelled: bool = True, start: int = 0) -> None:
    for first in range(start, start + count, BATCH):
        store(project, items(raw_items(first, min(BATCH, start + count - first), labelled=labelled)))

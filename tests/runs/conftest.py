from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.models import Project, Role, Run, Snapshot, User
from app.runs import service
from tests.runs import samples


@dataclass
class Bench:
    """A project with a lead, a snapshot and a model; ``launch`` queues a run."""

    db: Session
    project: Project
    lead: User
    snapshot: Snapshot
    model: str

    def launch(self, key: str = "key-1", **changes: Any) -> Run:
        config = samples.small_config(changes.pop("base_model", self.model), **changes)
        return service.launch(self.db, self.project, self.lead, config=config, snapshot=self.snapshot, launch_key=key)


def make_bench(db: Session, factory: Any) -> Bench:
    project = factory.project()
    lead = factory.member(project, Role.LEAD)
    snapshot = samples.freeze(db, project, samples.balanced(), samples.mixed_dev())
    return Bench(db, project, lead, snapshot, str(samples.model_folder()))


@pytest.fixture
def bench(db: Session, factory: Any) -> Bench:
    return make_bench(db, factory)


@pytest.fixture
def page(bench, sign_in):
    """The lead's browser."""
    return sign_in(bench.lead)


@pytest.fixture
def root(bench):
    return f"/p/{bench.project.slug}/runs"

"""Server time of Home and of the list of runs, beside the health check: the least that a request with a query costs.

    make bench NAME=pages             (QUICK=1: 2,000 ratings instead of 20,000, under a minute)
    python -m bench.pages

Requests go into the application in this process, signed in, over PostgreSQL; no network and no browser.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from fastapi.testclient import TestClient
from sqlalchemy import text

from app.accounts.sessions import cookie_name, open_login
from app.core.db import get_engine, session_scope
from app.main import create_app
from app.models import Project, Run, RunStatus, Snapshot, User
from bench.report import Row, interleave, main, percentile, ratios, row
from bench.studio import fill, make_project, studio
from worker.alignment.config import AlignmentConfig

NUM_RUNS = 60


def measure(quick: bool) -> Sequence[Row]:
    with studio():
        project, lead = make_project()
        fill(project, 2_000 if quick else 20_000)
        _add_runs(project)
        with get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))  # as autovacuum leaves it; else plans change in mid-run
        with TestClient(create_app(), base_url="http://localhost", follow_redirects=False) as client:
            return _page_rows(client, project, lead, 30 if quick else 200)


def _add_runs(project: Project) -> None:
    with session_scope() as db:
        side = {"desirable": 600, "undesirable": 400, "prompts": 1000, "roots": 1000}
        counts = {"train": side, "dev": side, "test": side, "categories": 12, "dropped": {}}
        snapshot = Snapshot(
            project_id=project.id, content_hash="0" * 64, rule={}, path="snapshots/1", counts=counts, size_bytes=1
        )
        db.add(snapshot)
        db.flush()
        config = AlignmentConfig(base_model="demo").to_json()
        db.add_all(
            Run(
                project_id=project.id,
                snapshot_id=snapshot.id,
                name=f"kto-{number}",
                launch_key=str(number),
                objective="kto",
                config=config,
                status=RunStatus.SUCCEEDED.value,
                step=100,
                total_steps=100,
                summary={"metrics": {"loss": 0.43, "kl": 0.1}},
            )
            for number in range(NUM_RUNS)
        )


def _page_rows(client: TestClient, project: Project, lead: User, rounds: int) -> list[Row]:
    with session_scope() as db:
        client.cookies.set(cookie_name("session"), open_login(db, lead))

    def get(path: str) -> Callable[[int], None]:
        def ask(_number: int) -> None:
            assert client.get(path).status_code == 200, path

        return ask

    home = f"/p/{project.slug}/"
    spent = interleave({"Home": get(home), "Runs": get(f"{home}runs"), "health": get("/healthz")}, rounds)
    rows = []
    for name in ("Home", "Runs"):
        took = [1000 * seconds for seconds in spent[name]]
        rows += [
            row(f"{name}, p50", "ms", took),
            row(f"{name}, p95", "ms", took, value=percentile(took, 0.95), at_most=500),
            row(f"{name} / health check", "x", ratios(spent[name], spent["health"])),
        ]
    return [*rows, row("health check, p50", "ms", [1000 * seconds for seconds in spent["health"]])]


if __name__ == "__main__":
    sys.exit(main("pages", measure, packages=("fastapi", "sqlalchemy")))

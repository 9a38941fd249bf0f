"""The soak's 30-second form: processes of the product die at random, nothing that was acknowledged is lost or doubled."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.conftest import ROOT


def test_nothing_acknowledged_is_lost_while_processes_die() -> None:
    """In a process of its own: the services die with the thread that started them, and the settings are its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KTO_", "DATABASE_", "REDIS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak"],
        cwd=ROOT,
        env={**kept, "SECONDS": "30"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stderr[-3000:]
    rows = {row["name"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}
    assert [name for name, row in rows.items() if not row["holds"]] == [], done.stderr[-3000:]
    assert rows["processes killed"]["value"] >= 3
    assert rows["events acknowledged"]["value"] >= 100
    assert rows["verdicts of annotators"]["value"] >= 20

"""``kto import`` as a real process that is interrupted, and ``kto export`` to a file."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, create_engine, text

from tests.browser.conftest import clean_environment
from tests.cli.conftest import Kto
from tests.cli.test_up import ROOT, command
from tests.conftest import create_database, worker_number

ROWS = 30_000


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A migrated database of this test's own."""
    from app.core.migrate import migrate

    url = create_database(f"test_data_{worker_number()}")
    migrate(url)
    made = create_engine(url)
    yield made
    made.dispose()


def address(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def write_rows(path: Path, name: str, number: int) -> Path:
    rows = ({"prompt": f"{name} {n}?", "completion": f"Answer {n}.", "label": n % 2 == 0} for n in range(number))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def number_of(engine: Engine, what: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT coalesce(({what}), 0)")).scalar_one())


def interrupted(engine: Engine, data: Path, file: Path) -> str:
    """Ctrl-C once rows are staged; what the command said."""
    env = {**clean_environment(), "PYTHONPATH": str(ROOT), "DATABASE_URL": address(engine)}
    # What runs in the background of a shell inherits that this signal is ignored.
    heard = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    argv = command("import", str(file), "--project", "made", "--create", "--data", str(data))
    argv = [sys.executable, "-c", heard, *argv]
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while number_of(engine, f"SELECT num_rows FROM imports WHERE filename = '{file.name}'") < 2000:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in said
    return said


def test_an_interrupted_import_goes_on_or_is_thrown_away(kto: Kto, engine: Engine, data: Path, tmp_path: Path) -> None:
    url = address(engine)
    said = interrupted(engine, data, write_rows(tmp_path / "first.jsonl", "First", ROWS))
    found = re.search(r"Go on: kto import --project made --resume (\d+)", said)
    assert found, said
    assert "nothing of it is seen" in said
    assert number_of(engine, "SELECT count(*) FROM completions") == 0
    staged = number_of(engine, "SELECT count(*) FROM import_rows")
    assert staged >= 2000
    done = kto("import", "--project", "made", "--resume", found[1], DATABASE_URL=url)
    assert (done.exit_code, done.output) == (0, f"{ROWS:,} created, 0 updated, 0 duplicate, 0 rejected\n")
    assert number_of(engine, "SELECT count(*) FROM ratings") == ROWS
    assert "started already" in kto("import", "--project", "made", "--resume", found[1], DATABASE_URL=url).output

    said = interrupted(engine, data, write_rows(tmp_path / "second.jsonl", "Second", ROWS))
    found = re.search(r"Throw it away: kto import --project made --cancel (\d+)", said)
    assert found, said
    assert list((data / "artifacts").glob("imports/*")) != []
    done = kto("import", "--project", "made", "--cancel", found[1], DATABASE_URL=url)
    assert (done.exit_code, done.output) == (0, "Cancelled; nothing of it is stored.\n")
    assert "over already" in kto("import", "--project", "made", "--cancel", found[1], DATABASE_URL=url).output
    assert number_of(engine, "SELECT count(*) FROM prompts") == ROWS
    assert number_of(engine, "SELECT count(*) FROM import_rows") == 0
    assert list((data / "artifacts").glob("imports/*")) == []


def test_export_to_a_file(kto: Kto, engine: Engine, tmp_path: Path) -> None:
    url = address(engine)

    def run(*options: str, project: str = "made") -> tuple[int, str]:
        result = kto("export", "--project", project, *options, DATABASE_URL=url)
        return result.exit_code, result.output

    file = write_rows(tmp_path / "rows.jsonl", "Question", 50)
    assert kto("import", str(file), "--project", "made", "--create", DATABASE_URL=url).exit_code == 0
    out = tmp_path / "out.jsonl"
    assert run("--out", str(out)) == (0, f"{out}: {out.stat().st_size:,} bytes\n")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    collected = {(row["prompt"][0]["content"], row["completion"][0]["content"], row["label"]) for row in rows}
    sent = [json.loads(line) for line in file.read_text().splitlines()]
    assert collected == {(row["prompt"], row["completion"], row["label"]) for row in sent}
    assert run()[1] == out.read_text(), "the same to standard output"

    table = tmp_path / "out.parquet"
    assert run("--out", str(table))[0] == 0
    assert pq.read_table(table).column("label").to_pylist() == [row["label"] for row in rows]
    parts = [run("--split", side)[1] for side in ("train", "dev", "test")]
    assert sorted("".join(parts).splitlines()) == sorted(out.read_text().splitlines())
    assert run("--kind", "ratings")[1].count("\n") == 51

    before = out.read_bytes()
    code, said = run("--kind", "dpo", "--out", str(out))
    assert (code, "nothing to export" in said) == (1, True), said
    assert out.read_bytes() == before, "a file that is there stays where there is nothing to write"
    assert "There is no project nowhere" in run("--out", str(out), project="nowhere")[1]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.jsonl", "out.parquet", "rows.jsonl"]

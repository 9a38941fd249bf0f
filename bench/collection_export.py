"""The labels of a project as TRL rows: rows a second and the memory of the process that writes them.

    python -m bench.collection_export        (QUICK=1: 100,000 rows instead of 1,000,000)

The data are filled inside PostgreSQL.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from sqlalchemy import text

from app.core.db import get_engine, session_scope
from app.models import Project
from bench.report import Row, main, row
from bench.studio import studio

MIN_RATE, MAX_MIB = 20_000, 512
_FILL = (
    """INSERT INTO prompts (project_id, content_hash, messages, category, root)
       SELECT :p, 'export-' || n, jsonb_build_array(jsonb_build_object('role', 'user', 'content',
              'Question ' || n || ' about a parcel that came late, and what to do about it?')), 'category ' || n % 500,
              md5(n::text) FROM generate_series(1, :n) n""",
    """INSERT INTO completions (project_id, prompt_id, content_hash, messages, text)
       SELECT :p, id, content_hash, jsonb_build_array(jsonb_build_object('role', 'assistant', 'content',
              'Answer ' || id || repeat(' it will be looked into within a day.', 8))), 'a' FROM prompts WHERE project_id = :p""",
    """INSERT INTO ratings (project_id, completion_id, source, rater, value)
       SELECT :p, id, 'import', 'customer-' || id % 5000, id % 3 > 0 FROM completions WHERE project_id = :p""",
)
_RUN = """
import json, resource, sys, time
from app.core.db import session_scope
from app.datasets.exports import export
from app.models import Project
with session_scope() as db:
    project = db.get_one(Project, int(sys.argv[1]))
began = time.monotonic()
size = sum(len(chunk) for chunk in export(project, kind="kto", file_format=sys.argv[2]).chunks)
print(json.dumps([time.monotonic() - began, size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def fill(number: int) -> int:
    """Returns the id of a new project with as many labels."""
    with session_scope() as db:
        project = Project(slug=f"export-{number}", name="Export", split_salt="salt")
        db.add(project)
        db.flush()
        for statement in _FILL:
            db.execute(text(statement), {"p": project.id, "n": number})
    with get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE prompts, completions, ratings, completion_votes"))
    return project.id


def _rows(quick: bool) -> list[Row]:
    number = 100_000 if quick else 1_000_000
    project_id = fill(number)
    found = []
    for file_format in ("jsonl", "parquet"):
        argv = [sys.executable, "-c", _RUN, str(project_id), file_format]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        seconds, _, mebibytes = json.loads(done.stdout)
        name = f"export of {number:,} rows as {file_format}"
        found.append(row(name, "rows/s", [number / seconds], at_least=MIN_RATE))
        found.append(row(f"{name}, memory of the process", "MiB", [mebibytes], at_most=MAX_MIB))
    return found


def rows(quick: bool) -> Sequence[Row]:
    with studio():
        return _rows(quick)


if __name__ == "__main__":
    sys.exit(main("collection_export", rows))

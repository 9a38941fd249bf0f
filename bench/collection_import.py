"""A large file through the importer: rows a second and the memory of the process that runs it.

python -m bench.collection_import        (QUICK=1: 20,000 rows)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app.core.db import session_scope
from app.feedback.imports import drafts
from app.models import Import, Project
from bench.report import Row, main, row
from bench.studio import make_project, studio

MAX_MIB = 512
_RUN = """
import json, resource, sys, time
from app.feedback.imports.runner import run_import
began = time.monotonic()
run_import(int(sys.argv[1]))
print(json.dumps([time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def write_file(path: Path, number: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for each in range(number):
            item = {
                "prompt": f"Question {each} about a parcel that came late, and what to do about it?",
                "completion": f"Answer {each}: " + "it will be looked into within a day. " * 8,
                "label": each % 3 > 0,
                "rater": f"customer-{each % 5000}",
                "category": f"category {each % 500}",
            }
            file.write(json.dumps(item) + "\n")


def _rows(quick: bool) -> list[Row]:
    number = 20_000 if quick else 200_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_file(path, number)
        with session_scope() as db, path.open("rb") as file:
            project = db.query(Project).order_by(Project.id).first()
            assert project is not None
            entry = drafts.make_draft(db, project, file, filename=path.name)
            drafts.start(db, entry, ring=False)
            import_id = entry.id
    done = subprocess.run([sys.executable, "-c", _RUN, str(import_id)], check=True, capture_output=True, text=True)
    seconds, mebibytes = json.loads(done.stdout)
    with session_scope() as db:
        imported = db.get_one(Import, import_id)
    assert (imported.status, imported.num_created) == ("succeeded", number), imported.error
    return [
        row(f"import of {number:,} rows, checked and published", "rows/s", [number / seconds]),
        row(f"import of {number:,} rows, memory of the process", "MiB", [mebibytes], at_most=MAX_MIB),
    ]


def rows(quick: bool) -> Sequence[Row]:
    with studio():
        make_project()
        return _rows(quick)


if __name__ == "__main__":
    sys.exit(main("collection_import", rows))

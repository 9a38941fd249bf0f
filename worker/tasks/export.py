"""Makes the files of a version in a process of its own. The message only names the export: the row decides what is to do."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from app.core.db import session_scope
from app.core.errors import StudioError
from app.core.storage import artifact_path, require_free_space
from app.models import ModelVersion
from app.registry import export_leases as leases
from app.runs.base_models import find_base_model
from app.settings import get_settings
from worker.alignment.checkpoints import validate_checkpoint
from worker.alignment.errors import CheckpointError
from worker.celery_app import app
from worker.launchers.local import LocalProcess

POLL_SECONDS = 0.25
REFUSED = 3
"""Exit code of the export process: it said in words why not."""
_BYTES_PER_PARAMETER = 8
"""A merged model in float32, beside the first try that was not accepted."""
_ADAPTER_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Job:
    export_id: int
    token: datetime
    work: Path
    """This try's own folder; only its ``files`` stay."""
    root: str
    """Of all tries, relative to the artifacts."""

    @property
    def files(self) -> Path:
        return self.work / "files"


@dataclass(frozen=True, slots=True)
class Outcome:
    status: str
    message: str = ""
    report: dict[str, Any] | None = None


@app.task(name="worker.tasks.export.export_version")  # type: ignore[untyped-decorator]  # Celery has no types
def export_version(export_id: int) -> None:
    """Harmless to repeat: a second worker finds nothing to claim."""
    with session_scope() as db:
        export = leases.claim(db, export_id)
        if export is None or export.lease_until is None:
            return
        version = leases.version_of(db, export)
        root = f"exports/{version.project_id}/{version.id}/{export.kind}"
        job = Job(export_id, export.lease_until, artifact_path(root, uuid4().hex), root)
        kind = export.kind
    try:
        spec = _spec(kind, version, job)
    except (StudioError, CheckpointError, OSError) as error:
        _finish(job, job.token, Outcome("failed", _in_words(error)))
        return
    _run(job, spec)


def _spec(kind: str, version: ModelVersion, job: Job) -> dict[str, Any]:
    checkpoint_dir = artifact_path(version.checkpoint.path)
    validate_checkpoint(checkpoint_dir)
    model = find_base_model(version.run.config["base_model"])
    merged_bytes = model.num_parameters * _BYTES_PER_PARAMETER if kind == "merged" else 0
    require_free_space(job.work, version.checkpoint.size_bytes + merged_bytes + _ADAPTER_BYTES)
    snapshot = artifact_path(version.run.snapshot.path)
    return {
        "kind": kind,
        "base_model": str(model.path or model.name),
        "adapter_dir": str(checkpoint_dir),
        "out_dir": str(job.files),
        "probe_paths": [str(snapshot / name) for name in ("dev.jsonl", "test.jsonl") if (snapshot / name).is_file()],
        "max_length": version.run.config.get("max_length", 2048),
    }


def _in_words(error: Exception) -> str:
    if isinstance(error, StudioError):
        return " ".join(filter(None, [*(error.fields.values() or [error.message]), error.remedy]))
    return str(error)


def _run(job: Job, spec: dict[str, Any]) -> None:
    """Start the process, keep the lease while it lives, store what came of it."""
    try:
        job.work.mkdir(parents=True)
        spec_file, log_file = job.work / "spec.json", job.work / "log.txt"
        spec_file.write_text(json.dumps(spec), encoding="utf-8")
        process = LocalProcess([sys.executable, "-m", "worker.alignment.export", str(spec_file)], log_file=log_file)
    except OSError as error:
        _finish(job, job.token, Outcome("failed", f"The export could not start: {error.strerror}."))
        return
    token: datetime | None = job.token
    renewed = time.monotonic()
    try:
        while (code := process.exit_code()) is None and token is not None:
            time.sleep(POLL_SECONDS)
            if time.monotonic() - renewed > get_settings().lease_seconds / 3:
                with session_scope() as db:
                    token = leases.renew(db, job.export_id, token)
                renewed = time.monotonic()
    finally:
        process.kill()
    if token is None or code is None:
        shutil.rmtree(job.work, ignore_errors=True)
        return
    _finish(job, token, _outcome(code, log_file))


def _outcome(code: int, log_file: Path) -> Outcome:
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    told = _last_json(lines)
    if code == 0 and told is not None:
        return Outcome("ready", "", told["report"])
    if code == REFUSED and told is not None:
        return Outcome("refused", told["message"], told["report"])
    if code < 0:
        return Outcome("failed", f"The export process was killed (signal {-code}); it may lack memory.")
    return Outcome("failed", f"The export process ended with code {code}: {lines[-1] if lines else 'no output'}")


def _last_json(lines: Sequence[str]) -> dict[str, Any] | None:
    for line in reversed(lines):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and "accepted" in found:
                return found
    return None


def _finish(job: Job, token: datetime, outcome: Outcome) -> None:
    ready = outcome.status == "ready"
    size = sum(file.stat().st_size for file in job.files.rglob("*") if file.is_file()) if ready else 0
    path = f"{job.root}/{job.work.name}/files" if ready else None
    with session_scope() as db:
        kept = leases.finish(
            db,
            job.export_id,
            token,
            status=outcome.status,
            message=outcome.message,
            report=outcome.report,
            path=path,
            size_bytes=size,
        )
    if not (ready and kept):
        shutil.rmtree(job.work, ignore_errors=True)
        return
    for other in job.work.parent.iterdir():  # what a lost worker left behind
        if other != job.work:
            shutil.rmtree(other, ignore_errors=True)

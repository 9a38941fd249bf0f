"""Copies of texts outside their own rows: in results, jobs, logs of runs, imports, and in files under the artifacts folder."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from sqlalchemy import ColumnElement, delete, inspect, select, update
from sqlalchemy.orm import Session

from app import models
from app.core.storage import artifact_path
from app.feedback.imports.reading import opened
from app.models import Project
from app.privacy.traces import ERASED, Traces

Heartbeat = Callable[[], None]
_BATCH = 500
_TEXT_FILES = {".jsonl", ".json", ".txt", ".log", ".md", ".yaml", ".yml", ".csv", ".tsv", ""}
_MAX_LINE = 16 * 2**20


def _scopes(project: Project) -> list[tuple[Any, tuple[str, ...], ColumnElement[bool]]]:
    """(table, columns that may quote a text, the project's rows)."""
    own, m = project.id, models
    evaluations = select(m.Evaluation.id).where(m.Evaluation.project_id == own)
    results = select(m.SuiteResult.id).where(m.SuiteResult.project_id == own)
    versions = select(m.SuiteVersion.id).where(m.SuiteVersion.project_id == own)
    tests = select(m.AbTest.id).where(m.AbTest.project_id == own)
    runs = select(m.Run.id).where(m.Run.project_id == own)
    comparisons = select(m.Comparison.id).where(m.Comparison.project_id == own)
    webhooks = select(m.Webhook.id).where(m.Webhook.project_id == own)
    return [
        (m.EvaluationSample, ("prompt", "text"), m.EvaluationSample.evaluation_id.in_(evaluations)),
        (m.EvaluationAlarm, ("data", "reason"), m.EvaluationAlarm.project_id == own),
        (m.SuiteSample, ("data",), m.SuiteSample.version_id.in_(versions)),
        (m.SuiteResult, ("summary",), m.SuiteResult.project_id == own),
        (m.SuiteSampleResult, ("text", "checks", "error"), m.SuiteSampleResult.result_id.in_(results)),
        (m.JudgeVerdict, ("answer",), m.JudgeVerdict.project_id == own),
        (m.EvalJob, ("title", "plan", "message", "result"), m.EvalJob.project_id == own),
        (m.AbItem, ("prompt", "text_a", "text_b"), m.AbItem.test_id.in_(tests)),
        (m.Comparison, ("plan", "message", "data_use", "decision"), m.Comparison.project_id == own),
        (m.ComparisonArm, ("summary",), m.ComparisonArm.comparison_id.in_(comparisons)),
        (m.Run, ("summary", "failure_message"), m.Run.project_id == own),
        (m.RunEvent, ("data",), m.RunEvent.run_id.in_(runs)),
        (m.Incident, ("subject", "title", "data", "note"), m.Incident.project_id == own),
        (m.Import, ("preview", "rejected", "error"), m.Import.project_id == own),
        (m.BulkLabel, ("filter", "reason"), m.BulkLabel.project_id == own),
        (m.GoldItem, ("note",), m.GoldItem.project_id == own),
        (m.IdempotencyKey, ("body",), m.IdempotencyKey.project_id == own),
        (m.OutboxEvent, ("data",), m.OutboxEvent.project_id == own),
        (m.WebhookDelivery, ("answer",), m.WebhookDelivery.webhook_id.in_(webhooks)),
        (m.AuditEntry, ("subject", "details"), m.AuditEntry.project_id == own),
        (m.PendingFeedback, ("item",), m.PendingFeedback.project_id == own),
    ]


def clean_tables(db: Session, project: Project, traces: Traces, beat: Heartbeat) -> int:
    """Quotations become ``[erased]``; returns how many rows held one."""
    changed = 0
    for table, columns, where in _scopes(project):
        keys = inspect(table).primary_key
        fields = [getattr(table, name) for name in columns]
        rows = db.execute(select(*keys, *fields).where(where), execution_options={"yield_per": _BATCH})
        fixes = []
        for number, row in enumerate(rows):
            if number % _BATCH == 0:
                beat()
            values = row[len(keys) :]
            fresh = {
                name: new for name, old in zip(columns, values, strict=True) if (new := traces.clean(old)) is not old
            }
            if fresh:
                fixes.append((row[: len(keys)], fresh))
        for place, fresh in fixes:
            named = [key == part for key, part in zip(keys, place, strict=True)]
            db.execute(update(table).where(*named).values(fresh).execution_options(synchronize_session=False))
        changed += len(fixes)
    return changed + _drop_staged(db, project, traces)


def _drop_staged(db: Session, project: Project, traces: Traces) -> int:
    """Rows of imports that were never published."""
    own = select(models.Import.id).where(models.Import.project_id == project.id)
    row = models.ImportRow
    hits = [
        (import_id, number)
        for import_id, number, item in db.execute(
            select(row.import_id, row.number, row.item).where(row.import_id.in_(own)),
            execution_options={"yield_per": _BATCH},
        )
        if traces.clean(item) is not item
    ]
    for import_id, number in hits:
        db.execute(delete(row).where(row.import_id == import_id, row.number == number))
    return len(hits)


def drop_uploads(db: Session, project: Project, traces: Traces, beat: Heartbeat) -> list[Path]:
    """Uploaded files that hold a text: their import is cancelled. The caller removes the files once that is durable."""
    found = []
    where = (models.Import.project_id == project.id, models.Import.path.is_not(None))
    for entry in db.scalars(select(models.Import).where(*where)):
        beat()
        path = artifact_path(str(entry.path))
        if not path.is_file() or not any(traces.clean(value) is not value for value in _contents(path, entry.filename)):
            continue
        found.append(path)
        entry.status, entry.path, entry.preview = "cancelled", None, None
        entry.error = "The file held a text that has been erased. Upload one without it."
    db.flush()
    return found


def _contents(path: Path, name: str) -> Iterator[Any]:
    """Rows of an upload, or its lines where it is text."""
    with opened(path, name) as source:
        if source.is_parquet:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
            return
        for line in io.TextIOWrapper(source.stream, encoding="utf-8", errors="replace"):
            yield _parsed(line)
            yield line.replace(",", " ").replace('"', " ")  # a cell of a CSV file


def project_folders(db: Session, project: Project) -> list[Path]:
    runs = db.scalars(select(models.Run.id).where(models.Run.project_id == project.id))
    folders = [artifact_path("runs", str(number)) for number in runs]
    return [*folders, artifact_path("evaluations", str(project.id)), artifact_path("cache")]


def clean_files(folders: list[Path], traces: Traces, beat: Heartbeat) -> int:
    """Text files of runs, evaluations and caches, line by line; returns how many held a text. Twice is harmless."""
    changed = 0
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.is_file() and not path.is_symlink() and path.suffix in _TEXT_FILES and not _is_checkpoint(path):
                beat()
                changed += _clean_file(path, traces)
    return changed


def _is_checkpoint(path: Path) -> bool:
    """Weights, tokenizer and counters, hashed by their manifest: they hold no text of the data."""
    return path.name != "manifest.json" and (path.parent / "manifest.json").is_file()


def _clean_file(path: Path, traces: Traces) -> bool:
    partial = path.with_name(f".{path.name}.erasing")
    hit = False
    try:
        with path.open("rb") as source, partial.open("wb") as target:
            whole = source.read() if path.suffix == ".json" else None
            for line in [whole] if whole is not None else iter(lambda: source.readline(_MAX_LINE), b""):
                fresh = _clean_line(line, traces)
                hit |= fresh is not line
                target.write(fresh)
            target.flush()
            os.fsync(target.fileno())
        if hit:
            partial.chmod(path.stat().st_mode & 0o777)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return hit


def _clean_line(line: bytes, traces: Traces) -> bytes:
    text = line.decode("utf-8", errors="surrogateescape")
    value = _parsed(text)
    fresh = traces.clean(value)
    if fresh is value:
        return line
    ending = "\n" if text.endswith("\n") else ""
    told = ERASED if isinstance(value, str) else json.dumps(fresh, ensure_ascii=False)
    return (told + ending).encode("utf-8", errors="surrogateescape")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line

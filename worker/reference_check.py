"""Sees a reference check through: samples completions per source model, has a child score them, keeps the lease meanwhile."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.core.db import session_scope
from app.core.errors import StudioError
from app.core.storage import artifact_path, require_free_space
from app.datasets import reference
from app.models import ReferenceCheck
from app.runs.base_models import find_base_model
from app.settings import get_settings
from worker.launchers.local import LocalProcess
from worker.supervisor import shutdown

log = logging.getLogger(__name__)
PER_MODEL = 500
MAX_MODELS = 12
MAX_LENGTH = 2048
POLL_SECONDS = 0.2
MAX_BEAT_SECONDS = 2.0
NEEDED_BYTES = 64 * 2**20
Z95 = 1.96

_MODELS = text(
    """
    SELECT coalesce(c.model, '') AS model, count(*) AS labels FROM completion_votes v
    JOIN completions c ON c.id = v.completion_id
    WHERE v.project_id = :project AND v.state <> 0 GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :most
    """
)
# By a hash of the id: the same sample each time, and spread over the project's whole life.
_SAMPLE = text(
    """
    SELECT c.id, p.messages AS prompt, c.messages AS completion, c.finish_reason, p.root
    FROM completions c JOIN completion_votes v ON v.completion_id = c.id JOIN prompts p ON p.id = c.prompt_id
    WHERE c.project_id = :project AND v.state <> 0 AND coalesce(c.model, '') = :model
    ORDER BY md5(c.id::text) LIMIT :most
    """
)


class _LostError(Exception):
    """The check is another worker's by now."""


class _StoppedError(Exception):
    """The worker was asked to end."""


class _FailedError(Exception):
    """The check cannot go on; the message says why."""


def work(check_id: int) -> None:
    """Claim the check and see it through. Harmless to repeat."""
    if shutdown.is_set():
        return
    with session_scope() as db:
        check = reference.claim(db, check_id)
        if check is None:
            return
        db.expunge(check)
    folder = artifact_path("reference-checks", str(check.project_id), f"{check.id}-{check.attempt}")
    result, error = None, ""
    try:
        result = _measured(check, folder)
    except _LostError:
        log.info("Reference check %s is another worker's", check_id)
        return
    except _StoppedError:
        with session_scope() as db:
            reference.release(db, check_id, check.attempt)
        return
    except StudioError as failure:
        error = " ".join(filter(None, [failure.message, *failure.fields.values(), failure.remedy]))
    except (_FailedError, OSError) as failure:
        error = str(failure)
    except Exception as failure:
        log.exception("Reference check %s", check_id)
        error = f"The check broke: {type(failure).__name__}. The worker's log has the details."
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # people's words lie in it
    with session_scope() as db:
        reference.finish(db, check_id, check.attempt, result=result, error=error)


def _measured(check: ReferenceCheck, folder: Path) -> dict[str, Any]:
    model = find_base_model(check.base_model)
    require_free_space(folder, NEEDED_BYTES)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with session_scope() as db:
        models, source_of = _write_rows(db, check, folder / "rows.jsonl")
    if not source_of:
        raise _FailedError("No completion has a rating yet: there is nothing to score.")
    spec = {
        "model_path": str(model.path or model.name),
        "base_model": check.base_model,
        "rows": str(folder / "rows.jsonl"),
        "out_dir": str(folder),
        "max_length": min(MAX_LENGTH, model.context_length or MAX_LENGTH),
    }
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    _run_child(check, folder)
    scores = [json.loads(line) for line in (folder / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    told = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    found = summarise(scores, source_of, models)
    if not found:
        raise _FailedError("None of the sampled completions fits into the model's length.")
    skipped = sum("skipped" in row for row in scores)
    extra = {"skipped": skipped, "max_length": spec["max_length"], "seconds": round(time.monotonic() - started, 1)}
    return {"models": found, **told, **extra}


def _write_rows(db: Session, check: ReferenceCheck, path: Path) -> tuple[dict[str, int], dict[int, str]]:
    """The models with how many rated completions each has, and which row is of which model."""
    values: dict[str, Any] = {"project": check.project_id, "most": MAX_MODELS}
    models = {row.model: row.labels for row in db.execute(_MODELS, values)}
    source_of: dict[int, str] = {}
    with path.open("w", encoding="utf-8") as file:
        for name in models:
            for row in db.execute(_SAMPLE, {"project": check.project_id, "model": name, "most": PER_MODEL}):
                source_of[row.id] = name
                file.write(json.dumps({**row._mapping, "label": True}) + "\n")  # noqa: SLF001 -- SQLAlchemy's public name
    return models, source_of


def _run_child(check: ReferenceCheck, folder: Path) -> None:
    log_file = folder / "log.txt"
    argv = [sys.executable, "-m", "worker.alignment.token_scores", str(folder / "spec.json")]
    process = LocalProcess(argv, log_file=log_file)
    every, beaten = min(MAX_BEAT_SECONDS, get_settings().lease_seconds / 3), 0.0
    try:
        while (code := process.exit_code()) is None:
            if shutdown.is_set():
                raise _StoppedError
            if time.monotonic() - beaten >= every:
                beaten = time.monotonic()
                _beat(check)
            time.sleep(POLL_SECONDS)
    finally:
        process.kill()
    if code:
        lines = [line for line in log_file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        raise _FailedError(lines[-1][:500] if lines else f"The scoring process ended with code {code}.")


def _beat(check: ReferenceCheck) -> None:
    try:
        with session_scope() as db:
            kept = reference.beat(db, check.id, check.attempt)
    except OperationalError as error:  # a database that is away is asked again later
        log.warning("Reference check %s could not keep its lease: %s", check.id, error)
        return
    if not kept:
        raise _LostError


def summarise(scores: list[dict[str, Any]], source_of: dict[int, str], models: dict[str, int]) -> list[dict[str, Any]]:
    """Per model the mean over completions of log-prob per token, with its 95 % interval (normal, over completions)."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in scores:
        if "skipped" not in row and row["tokens"] and math.isfinite(row["logp"]):
            values[source_of[row["id"]]].append(row["logp"] / row["tokens"])
    found = []
    for model, means in values.items():
        n = len(means)
        mean = sum(means) / n
        spread = sum((value - mean) ** 2 for value in means) / max(n - 1, 1)
        half = Z95 * math.sqrt(spread / n)
        found.append(
            {"model": model, "n": n, "mean": mean, "low": mean - half, "high": mean + half, "labels": models[model]}
        )
    return sorted(found, key=lambda item: -item["mean"])

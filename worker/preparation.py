"""What stands before an attempt's process: its folder, its spec, and the checkpoint that it goes on from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from app.core.db import session_scope
from app.core.errors import InvalidError, UnavailableError
from app.core.storage import artifact_path, require_free_space
from app.models import Run
from app.runs.base_models import find_base_model
from app.runs.diversity_suites import find_version, prompt_lines
from app.runs.encoders import find_encoder
from app.runs.service import attempt_folder
from app.runs.starts import find_start
from worker.alignment.checkpoints import clear_leftovers, latest_valid_checkpoint
from worker.alignment.config import AlignmentConfig, ConfigError, TrainSpec
from worker.event_file import EventFile
from worker.recorder import Recorder

NEEDED_BYTES = 64 * 2**20


class PreparationError(Exception):
    """The attempt cannot begin; shown to the user as the run's failure."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Prepared:
    attempt_dir: Path
    spec_file: Path
    resume_from: Path | None


def prepare(run: Run) -> Prepared:
    """Write the attempt's spec. ``run`` was just claimed, its snapshot is loaded. Raises PreparationError."""
    attempt_dir = attempt_folder(run.id, run.attempt)
    try:
        config = _with_adapter(run, AlignmentConfig.from_json(run.config))
        find_encoder(config.evaluation.encoder)
        model = find_base_model(config.base_model)
        require_free_space(attempt_dir, NEEDED_BYTES)
        attempt_dir.mkdir(parents=True)
        resume_from = newest_checkpoint(run.id, before=run.attempt)
        spec = TrainSpec(
            run_id=run.id,
            attempt=run.attempt,
            config=config,
            model_path=str(model.path or model.name),
            snapshot_dir=str(snapshot_folder(run.snapshot.path)),
            attempt_dir=str(attempt_dir),
            cache_dir=str(artifact_path("cache")),
            resume_from=str(resume_from) if resume_from else None,
            acknowledged_alarms=tuple(run.acknowledged_alarms),
            diversity_prompts=_write_prompts(run, config, attempt_dir),
        )
        spec_file = attempt_dir / "spec.json"
        spec_file.write_text(json.dumps(spec.to_json(), indent=1), encoding="utf-8")
    except ConfigError as error:
        raise PreparationError("data", f"The settings are not valid: {error}") from error
    except InvalidError as error:
        raise PreparationError("model", next(iter(error.fields.values()), error.message)) from error
    except UnavailableError as error:
        raise PreparationError("disk_full", error.message) from error
    except FileExistsError as error:
        text = f"The folder {attempt_dir} is there already: the artifacts belong to another database. Move them away."
        raise PreparationError("unknown", text) from error
    except OSError as error:
        raise PreparationError("unknown", f"The folder {attempt_dir} cannot be written: {error.strerror}.") from error
    return Prepared(attempt_dir, spec_file, resume_from)


def _with_adapter(run: Run, config: AlignmentConfig) -> AlignmentConfig:
    """The version to start from as the folder of its checkpoint, which the trainer can read."""
    with session_scope() as db:
        start = find_start(db, run.project_id, config)
        return replace(config, init_adapter=str(artifact_path(start.checkpoint.path))) if start else config


def _write_prompts(run: Run, config: AlignmentConfig, attempt_dir: Path) -> str:
    """The chosen suite's prompts as a file of the attempt; "" where the dev split's are sampled."""
    with session_scope() as db:
        try:
            version = find_version(db, run.project_id, config.evaluation.diversity_suite)
        except InvalidError as error:
            raise PreparationError("data", f"The prompts for diversity: {error.fields['diversity_suite']}.") from error
        if version is None:
            return ""
        file = attempt_dir / "diversity.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(prompt_lines(db, version))
        return str(file)


def snapshot_folder(path: str) -> Path:
    folder = artifact_path(path)
    if not (folder / "train.jsonl").is_file():
        raise PreparationError("data", "The snapshot's files are not in the artifacts folder. Freeze it again.")
    return folder


def newest_checkpoint(run_id: int, *, before: int) -> Path | None:
    """The valid checkpoint of the highest step over all earlier attempts; of equals, the newest attempt's.

    Their trainers are gone: what one of them left half done is cleared away.
    """
    found: list[tuple[str, int, Path]] = []
    for attempt in range(1, before):
        folder = attempt_folder(run_id, attempt) / "checkpoints"
        clear_leftovers(folder)
        path = latest_valid_checkpoint(folder)
        if path is not None:
            found.append((path.name, attempt, path))
    return max(found)[2] if found else None


def catch_up(recorder: Recorder) -> None:
    """Store what earlier attempts told after their supervisor had died. The claim has made their files ours."""
    for attempt in range(1, recorder.fence):
        folder = attempt_folder(recorder.run_id, attempt)
        known = recorder.last_seq(attempt)
        file = EventFile(folder / "events.jsonl")
        while events := file.read():
            fresh = [event for event in events if event.seq > known]
            recorder.record(fresh, attempt=attempt, attempt_dir=folder)

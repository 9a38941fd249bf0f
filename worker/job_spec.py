"""From an evaluation job's plan, which names rows, to the spec of its child, which names files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import InvalidError
from app.core.storage import artifact_path, require_free_space
from app.models import Checkpoint, Comparison, Endpoint, EvalJob, Run, Snapshot, SuiteSample, SuiteVersion
from app.runs.base_models import find_base_model
from app.runs.encoders import find_encoder
from worker.alignment.config import AlignmentConfig
from worker.alignment.jobs import JobArm, JobSpec, JobSuite

NEEDED_BYTES = 64 * 2**20


def job_folder(job: EvalJob) -> Path:
    return artifact_path("evaluations", str(job.project_id), str(job.id))


def write_spec(db: Session, job: EvalJob) -> JobSpec:
    """Write the suites' prompts and ``spec.json`` into the job's folder. Raises InvalidError or UnavailableError in words."""
    folder = job_folder(job)
    require_free_space(folder, NEEDED_BYTES)
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(db, job)
    model = find_base_model(job.plan["base_model"])
    spec = JobSpec(
        job_id=job.id,
        model_path=str(model.path or model.name),
        config=config,
        arms=tuple(_arm(db, job, arm) for arm in job.plan["arms"] if not arm.get("endpoint_id")),
        out_dir=str(folder),
        cache_dir=str(artifact_path("cache")),
        suites=_suites(db, job, folder, config),
        heldout=_heldout(db, job),
        encoder=_encoder(db, job, config),
    )
    (folder / "spec.json").write_text(json.dumps(spec.to_json(), indent=1), encoding="utf-8")
    return spec


def run_of(db: Session, job: EvalJob) -> Run | None:
    """The run that the job is about: its settings are the job's."""
    if job.run_id is not None:
        return db.get(Run, job.run_id)
    asked = [arm["checkpoint_id"] for arm in job.plan["arms"] if arm.get("checkpoint_id") is not None]
    query = select(Run).join(Checkpoint, Checkpoint.run_id == Run.id)
    return db.scalar(query.where(Run.project_id == job.project_id, Checkpoint.id.in_(asked)).order_by(Run.id).limit(1))


def _config(db: Session, job: EvalJob) -> AlignmentConfig:
    run = run_of(db, job)
    if run is None:
        return AlignmentConfig(base_model=job.plan["base_model"])
    config = AlignmentConfig.from_json(run.config, drop_unknown=True)
    return replace(config, base_model=job.plan["base_model"], init_adapter="", reference="")


def _arm(db: Session, job: EvalJob, arm: dict[str, Any]) -> JobArm:
    adapter = ""
    if arm.get("checkpoint_id") is not None:
        query = select(Checkpoint).where(Checkpoint.project_id == job.project_id, Checkpoint.id == arm["checkpoint_id"])
        checkpoint = db.scalar(query)
        folder = artifact_path(checkpoint.path) if checkpoint is not None and checkpoint.removed_at is None else None
        if folder is None or not folder.is_dir():
            raise InvalidError(f"The files of the checkpoint of {arm['name']} are gone.", remedy="Choose another one.")
        adapter = str(folder)
    return JobArm(name=arm["name"], adapter_dir=adapter, system_prompt=arm.get("system_prompt") or "")


def _suites(db: Session, job: EvalJob, folder: Path, config: AlignmentConfig) -> tuple[JobSuite, ...]:
    if job.kind == "full":
        from worker.job_full import full_suite

        return (full_suite(db, job, folder, config),)
    return tuple(_suite(db, version, folder) for version in versions_of(db, job))


def versions_of(db: Session, job: EvalJob) -> list[SuiteVersion]:
    """Of the plan, in its order."""
    wanted = job.plan["suite_versions"]
    query = select(SuiteVersion).where(SuiteVersion.project_id == job.project_id, SuiteVersion.id.in_(wanted))
    found = {version.id: version for version in db.scalars(query)}
    return [found[version_id] for version_id in wanted if version_id in found]


def _suite(db: Session, version: SuiteVersion, folder: Path) -> JobSuite:
    path = folder / "suites" / f"{version.content_hash}.jsonl"
    path.parent.mkdir(exist_ok=True)
    rows = select(SuiteSample).where(SuiteSample.version_id == version.id).order_by(SuiteSample.number)
    with path.open("w", encoding="utf-8") as file:
        for row in db.scalars(rows):
            # By number: an id is the author's own, and may be any text.
            file.write(json.dumps({"id": str(row.number), "input": row.data["input"]}) + "\n")
    sampling = version.header.get("sampling", {})
    return JobSuite(
        content_hash=version.content_hash,
        path=str(path),
        samples_per_prompt=sampling.get("n", 1),
        temperature=float(sampling.get("temperature", 0.7)),
        top_p=float(sampling.get("top_p", 1.0)),
        max_tokens=sampling.get("max_tokens", 256),
        seed=sampling.get("seed", 0),
    )


def snapshot_of(db: Session, job: EvalJob) -> Snapshot | None:
    if job.comparison_id is not None:
        return db.get_one(Comparison, job.comparison_id).snapshot
    run = run_of(db, job)
    return run.snapshot if run else None


def _heldout(db: Session, job: EvalJob) -> str:
    split = job.plan.get("heldout") or ""
    if not split:
        return ""
    snapshot = snapshot_of(db, job)
    file = artifact_path(snapshot.path, f"{split}.jsonl") if snapshot is not None else None
    if file is None or not file.is_file():
        raise InvalidError(f"The snapshot's {split} split is not in the artifacts folder.", remedy="Freeze it again.")
    return str(file)


def embeddings_of(db: Session, project_id: int) -> Endpoint | None:
    """What compares meanings in a project: its newest endpoint for embeddings, or its newest local encoder."""
    kinds = (Endpoint.project_id == project_id, Endpoint.kind.in_(("embeddings", "encoder")))
    return db.scalar(select(Endpoint).where(*kinds).order_by(Endpoint.id.desc()).limit(1))


def _encoder(db: Session, job: EvalJob, config: AlignmentConfig) -> str:
    """The folder that a full evaluation's child loads; the run's own where the project has chosen nothing."""
    if job.kind != "full":
        return ""
    chosen = embeddings_of(db, job.project_id)
    if chosen is not None and chosen.kind != "encoder":
        return ""
    name = chosen.model if chosen is not None else config.evaluation.encoder
    try:
        found = find_encoder(name)
    except InvalidError:
        return name  # the child tells what is wrong with it: it costs one figure, not the evaluation
    return found.name if found else ""

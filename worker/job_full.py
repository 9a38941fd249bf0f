"""FULL: a checkpoint's larger diversity evaluation. More prompts a category, more samples a prompt, the same figures."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.core.db import session_scope
from app.core.errors import InvalidError, StudioError
from app.core.storage import artifact_path
from app.evaluations import service
from app.evaluations.endpoints import client_of
from app.models import Checkpoint, EvalJob, Evaluation, Run
from app.runs import diversity_suites
from app.runs.encoders import find_encoder
from worker.alignment.config import AlignmentConfig
from worker.alignment.evaluate_files import read_lines
from worker.alignment.evaluate_vectors import read_vectors
from worker.alignment.evaluation.assess import assess
from worker.alignment.evaluation.diversity import Embed, PromptSamples, SampledText
from worker.alignment.evaluation.judging.wire import EndpointError
from worker.alignment.evaluation.quality import LabelModel, fit_label_model
from worker.alignment.evaluation.semantic import endpoint_embed
from worker.alignment.jobs import JobSuite
from worker.job_spec import embeddings_of, job_folder, run_of

PROMPTS_PER_CATEGORY = SAMPLES_PER_PROMPT = 8
PROMPTS, SAMPLES = "prompts.jsonl", "samples.jsonl"
ARMS = ("reference", "policy")


def full_suite(db: Session, job: EvalJob, folder: Path, config: AlignmentConfig) -> JobSuite:
    """Write the prompts to sample. Raises InvalidError where no prompt has a category."""
    run = run_of(db, job)
    if run is None:
        raise InvalidError("The run of this evaluation is gone.")
    settings = config.evaluation
    lines = choose(_prompts(db, run, config), job.plan.get("prompts_per_category", PROMPTS_PER_CATEGORY), settings.seed)
    if not lines:
        raise InvalidError("No prompt of this run has a category, so diversity cannot be measured.")
    path = folder / PROMPTS
    text = "".join(
        json.dumps({"id": str(number), "input": line["messages"], **line}) + "\n" for number, line in enumerate(lines)
    )
    path.write_text(text, encoding="utf-8")
    return JobSuite(
        content_hash=hashlib.sha256(text.encode()).hexdigest(),
        path=str(path),
        samples_per_prompt=job.plan.get("samples_per_prompt", SAMPLES_PER_PROMPT),
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_new_tokens,
        seed=settings.seed,
    )


def choose(prompts: Iterable[dict[str, Any]], per_category: int, seed: int) -> list[dict[str, Any]]:
    """So many different prompts of each category, decided by a hash: the same whatever the order."""
    by_category: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for prompt in prompts:
        key = hashlib.sha256(json.dumps([seed, prompt["messages"]], sort_keys=True).encode()).hexdigest()
        by_category[prompt["category"]].setdefault(key, prompt)
    return [
        by_category[category][key]
        for category in sorted(by_category)
        for key in sorted(by_category[category])[:per_category]
    ]


def _prompts(db: Session, run: Run, config: AlignmentConfig) -> Iterable[dict[str, Any]]:
    version = diversity_suites.find_version(db, run.project_id, config.evaluation.diversity_suite)
    if version is not None:
        return [json.loads(line) for line in diversity_suites.prompt_lines(db, version)]
    rows = read_lines(artifact_path(run.snapshot.path, "dev.jsonl"))
    return [{"category": row["category"], "messages": row["prompt"]} for row in rows if row.get("category")]


def finish_full(job_id: int) -> dict[str, Any]:
    """Measure the samples and store them as the checkpoint's full evaluation.

    Where the project has an endpoint for embeddings the samples' meanings are compared as well; one that does not answer
    costs that figure alone, and the job's result says why.
    """
    with session_scope() as db:
        job = db.get_one(EvalJob, job_id)
        checkpoint = db.get_one(Checkpoint, job.checkpoint_id)
        run = db.get_one(Run, checkpoint.run_id)
        folder = job_folder(job)
        spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        config = AlignmentConfig.from_json(run.config, drop_unknown=True)
        paired = paired_samples(folder, spec["suites"][0])
        vectors, told = _vectors(db, run.project_id, paired, folder, str(spec.get("encoder") or ""))
        found, alarms = assess(
            paired,
            word_limit=config.evaluation.word_limit,
            seed=config.evaluation.seed,
            label_model=_label_model(artifact_path(run.snapshot.path, "train.jsonl")),
            embed=vectors,
        )
        screen = (
            db.query(Evaluation)
            .filter(Evaluation.checkpoint_id == checkpoint.id, Evaluation.kind == service.SCREEN)
            .one_or_none()
        )
        data = {
            "step": checkpoint.step,
            "heldout": screen.heldout if screen else {},
            "diversity": asdict(found) if found else None,
            "samples_path": SAMPLES,
            "seconds": 0.0,
            "alarms": [asdict(alarm) for alarm in alarms],
        }
        _write_samples(folder, spec["suites"][0])
        service.record_full(db, run=run, checkpoint=checkpoint, data=data, folder=folder)
    return told


def _vectors(
    db: Session, project_id: int, paired: list[PromptSamples], folder: Path, encoder: str
) -> tuple[Embed | None, dict[str, Any]]:
    """By the encoder that the child loaded, or the project's endpoint, asked before anything is measured; and what is told."""
    if encoder:
        found_by, error = read_vectors(folder, encoder)
        if error:
            error = _why(encoder) or error
        name = Path(encoder).name
        return found_by, {"semantic": f"{name} gave no vectors: {error}" if error else f"By {name}, a local encoder."}
    endpoint = embeddings_of(db, project_id)
    if endpoint is None or endpoint.kind == "encoder":
        return None, {}
    texts = list(dict.fromkeys(sample.text for prompt in paired for sample in prompt.both))
    try:
        with client_of(endpoint) as client:
            found = endpoint_embed(client)(texts)
    except (EndpointError, StudioError) as error:
        return None, {"semantic": f"{endpoint.name} gave no vectors: {error.message}"}
    place = {text: number for number, text in enumerate(texts)}
    return (lambda wanted: found[[place[text] for text in wanted]]), {"semantic": f"By {endpoint.name}."}


def _why(encoder: str) -> str:
    """What is wrong with the folder, in the words of the pages; "" where it looks whole."""
    try:
        find_encoder(encoder)
    except InvalidError as error:
        return error.fields["encoder"]
    return ""


def _label_model(train: Path) -> LabelModel:
    """What the votes of the training rows say of a text: the gate of the screens, too."""
    rows = read_lines(train)
    texts = [" ".join(str(message.get("content") or "") for message in row["completion"]) for row in rows]
    return fit_label_model(texts, [row["label"] for row in rows], [str(row["root"]) for row in rows])


def paired_samples(folder: Path, suite: dict[str, Any]) -> list[PromptSamples]:
    """Prompts of which both arms have all samples, in the order of the file."""
    wanted = suite["samples_per_prompt"]
    arms = [_by_prompt(folder / "samples" / arm / f"{suite['content_hash']}.jsonl") for arm in ARMS]
    found = []
    for prompt in read_lines(Path(suite["path"])):
        ours, theirs = (arm.get(prompt["id"], []) for arm in arms)
        if len(ours) == len(theirs) == wanted:
            found.append(
                PromptSamples(
                    category=prompt["category"],
                    reference=ours,
                    policy=theirs,
                    domain=prompt.get("domain", ""),
                    open_ended=prompt.get("open_ended", True),
                )
            )
    return found


def _by_prompt(path: Path) -> dict[str, list[SampledText]]:
    """By prompt, in the order of the index; prompts that could not be asked are absent."""
    found: dict[str, list[SampledText]] = defaultdict(list)
    for line in sorted(read_lines(path), key=lambda line: int(line["index"])):
        if not line.get("error"):
            found[line["sample"]].append(SampledText(text=line["text"], truncated=line["truncated"]))
    return found


def _write_samples(folder: Path, suite: dict[str, Any]) -> None:
    """As ``EvaluationResult.samples_path`` says."""
    wanted = suite["samples_per_prompt"]
    arms = [_by_prompt(folder / "samples" / arm / f"{suite['content_hash']}.jsonl") for arm in ARMS]
    with (folder / SAMPLES).open("w", encoding="utf-8") as file:
        for prompt in read_lines(Path(suite["path"])):
            both = [arm.get(prompt["id"], []) for arm in arms]
            if any(len(samples) != wanted for samples in both):
                continue
            for arm, samples in zip(ARMS, both, strict=True):
                for index, sample in enumerate(samples):
                    line = {"category": prompt["category"], "prompt": prompt["messages"], "arm": arm, "index": index}
                    file.write(json.dumps(line | {"text": sample.text, "truncated": sample.truncated}) + "\n")

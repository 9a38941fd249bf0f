"""A project full of one person's words, and a search for them in every table and file."""

from __future__ import annotations

import io
import json
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.core.storage import artifact_path, artifacts_root
from app.datasets import service as datasets
from app.feedback import queue_fill
from app.feedback.imports import drafts
from app.feedback.schemas import FeedbackItem
from app.feedback.service import ingest
from app.models import (
    AbItem,
    AbTest,
    Checkpoint,
    Completion,
    CompletionSubject,
    Endpoint,
    EvalJob,
    Evaluation,
    EvaluationSample,
    GoldItem,
    IdempotencyKey,
    ImportRow,
    Incident,
    JudgeVerdict,
    ModelVersion,
    PendingFeedback,
    Project,
    Run,
    RunEvent,
    Snapshot,
    Suite,
    SuiteResult,
    SuiteSample,
    SuiteSampleResult,
    SuiteVersion,
)

MARK = "zqmarker"
ASKED = f"My name is {MARK} and my parcel from the ninth of May has not arrived at all."
ANSWER = (
    f"Dear {MARK}, your parcel left our house on the tenth of May and lies at the post office in your street, "
    "where you can fetch it until the end of the month with the notice that was left in your letter box."
)
COMMENT = f"{MARK} says that this is plainly wrong and that nobody ever left a notice"
EDIT = f"Dear {MARK}, we are sorry: the parcel was lost and a new one is on its way to you since this morning, free of charge."


def item(number: int, *, label: bool = True, **fields: Any) -> FeedbackItem:
    base = {
        "prompt": [
            {
                "role": "system",
                "content": "You are the friendly help desk of a parcel service and answer in one sentence.",
            },
            {"role": "user", "content": f"Where does parcel number {number} lie at this very moment, please?"},
        ],
        "completion": f"Parcel number {number} lies in the hall.",
        "label": label,
        "rater": f"other-{number}",
        "category": "parcels",
    }
    return FeedbackItem.model_validate(base | fields)


def furnish(db: Session, factory: Any) -> tuple[Project, Snapshot, Run]:
    """Everywhere that a completion's words can lie."""
    project = factory.project()
    others = [item(number, label=number % 2 == 0) for number in range(60)]
    system = others[0].prompt[0]
    person = item(
        99,
        prompt=[system, {"role": "user", "content": ASKED}],
        completion=ANSWER,
        comment=COMMENT,
        rater=f"{MARK}-rater",
        completion_id=f"{MARK}-1",
        metadata={"note": f"called by {MARK} twice"},
    )
    results = ingest(db, project, [*others, person], "shop")
    key = results[-1].output_id
    assert key is not None
    completion = db.get_one(Completion, key)
    edit = factory.completion(project, EDIT, prompt="x")
    spare, edit.prompt_id, edit.corrects_id = edit.prompt, completion.prompt_id, key
    db.flush()
    db.delete(spare)
    factory.add(CompletionSubject(project_id=project.id, subject=f"{MARK}-subject", completion_id=key))
    factory.add(CompletionSubject(project_id=project.id, subject=f"{MARK}-subject", completion_id=edit.id))
    factory.add(GoldItem(project_id=project.id, completion_id=key, value=True, note=f"as {MARK} says"[:0]))
    queue_fill.queue_everything(db, project, queue_fill.default_queue(db, project), 1)
    pending = {"value": True, "comment": COMMENT}
    factory.add(
        PendingFeedback(
            project_id=project.id, source="shop", rater="r", completion_external_id=f"{MARK}-1", item=pending
        )
    )
    snapshot = datasets.freeze(db, project)
    run = _run(db, factory, project, snapshot)
    _evaluations(factory, project, run, completion)
    _imports(db, factory, project)
    factory.add(IdempotencyKey(project_id=project.id, key="k", request_hash="h", status=200, body={"comment": COMMENT}))
    factory.add(Incident(project_id=project.id, kind="manual", title="t", data={"quote": ASKED}))
    db.flush()
    return project, snapshot, run


def _run(db: Session, factory: Any, project: Project, snapshot: Snapshot) -> Run:
    run: Run = factory.add(
        Run(
            project_id=project.id,
            snapshot_id=snapshot.id,
            name="kto-1",
            launch_key="l",
            objective="kto",
            config={},
            status="succeeded",
            step=10,
        )
    )
    factory.add(
        RunEvent(
            run_id=run.id, attempt=1, seq=1, kind="warning", step=1, data={"text": f"Row 3: {ASKED}"}, at=run.created_at
        )
    )
    folder = artifact_path("runs", str(run.id), "attempts", "1")
    folder.mkdir(parents=True)
    prompt = [{"role": "user", "content": ASKED}]
    lines = [
        {"prompt": prompt, "text": "Hello.", "arm": "policy"},
        {"prompt": [{"role": "user", "content": "Hi"}], "text": "Yes."},
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "prompts.json").write_text(json.dumps({"prompts": [prompt]}, indent=1))
    (folder / "trainer.log").write_text(f"loading\nskipped: {ASKED}\ndone\n")
    cache = artifact_path("cache", "samples")
    cache.mkdir(parents=True, exist_ok=True)
    (cache / f"{run.id}.jsonl").write_text(json.dumps({"prompt": ASKED, "text": ANSWER}) + "\n")
    return run


def _evaluations(factory: Any, project: Project, run: Run, completion: Completion) -> None:
    checkpoint = factory.add(
        Checkpoint(
            project_id=project.id, run_id=run.id, attempt=1, step=10, path="c", manifest_sha256="s", size_bytes=1
        )
    )
    factory.add(ModelVersion(project_id=project.id, number=1, run_id=run.id, checkpoint_id=checkpoint.id))
    evaluation = factory.add(
        Evaluation(
            project_id=project.id,
            run_id=run.id,
            checkpoint_id=checkpoint.id,
            kind="screen",
            step=10,
            heldout={},
            seconds=1,
        )
    )
    prompt = [{"role": "user", "content": ASKED}]
    sample = {"category": "parcels", "prompt_number": 0, "arm": "policy", "truncated": False}
    factory.add(
        EvaluationSample(id=run.id * 10, evaluation_id=evaluation.id, prompt=prompt, number=0, text="Hello.", **sample)
    )
    factory.add(
        EvaluationSample(
            id=run.id * 10 + 1, evaluation_id=evaluation.id, prompt=[], number=1, text=f"It said: {ANSWER}", **sample
        )
    )
    suite = factory.add(Suite(project_id=project.id, name="s", kind="eval"))
    version = factory.add(
        SuiteVersion(project_id=project.id, suite_id=suite.id, content_hash="h", header={}, num_samples=1)
    )
    factory.add(
        SuiteSample(
            version_id=version.id, number=0, sample_id="s0", data={"id": "s0", "input": prompt, "target": ANSWER}
        )
    )
    job = factory.add(
        EvalJob(
            project_id=project.id,
            kind="suites",
            title="t",
            plan={"prompt": ASKED},
            result={"examples": [ANSWER[:170]]},
            status="succeeded",
        )
    )
    folder = artifact_path("evaluations", str(project.id), str(job.id))
    folder.mkdir(parents=True)
    (folder / "prompts.jsonl").write_text(json.dumps({"messages": prompt}) + "\n")
    result = factory.add(
        SuiteResult(
            project_id=project.id,
            job_id=job.id,
            suite_version_id=version.id,
            arm="policy",
            summary={"leaks": {"examples": [{"text": ANSWER[10:]}]}},
        )
    )
    factory.add(SuiteSampleResult(result_id=result.id, number=0, repeat=0, text=ANSWER, checks=[{"detail": ASKED}]))
    endpoint = factory.add(
        Endpoint(project_id=project.id, name="j", kind="judge", url="https://j.example/v1", model="m")
    )
    factory.add(
        JudgeVerdict(
            project_id=project.id,
            endpoint_id=endpoint.id,
            request_hash="h",
            answer={"reason": f"The user said {ASKED}"},
        )
    )
    test = factory.add(AbTest(project_id=project.id, name="a", arm_a="x", arm_b="y"))
    factory.add(AbItem(test_id=test.id, number=0, prompt=prompt, text_a=ANSWER, text_b="No."))


def _imports(db: Session, factory: Any, project: Project) -> None:
    line = {"prompt": ASKED, "completion": ANSWER, "label": True}
    entry = drafts.make_draft(db, project, io.BytesIO(json.dumps(line).encode() + b"\n"), filename="a.jsonl")
    factory.add(ImportRow(import_id=entry.id, number=1, line=1, item={"prompt": ASKED, "completion": ANSWER}))


def tables_with(db: Session, mark: str = MARK) -> list[str]:
    """``table.column`` for every text and JSON column of every table that holds the mark."""
    columns = db.execute(
        text(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' "
            "AND data_type IN ('text', 'jsonb', 'tsvector', 'character varying')"
        )
    ).all()
    assert len(columns) > 100
    return [
        f"{table}.{column}"
        for table, column in columns
        if db.scalar(text(f'SELECT 1 FROM "{table}" WHERE "{column}"::text ILIKE :mark LIMIT 1'), {"mark": f"%{mark}%"})
    ]


def files_with(mark: str = MARK) -> list[str]:
    root = artifacts_root()
    needle = mark.encode()
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and needle in path.read_bytes()
    )

"""Evaluation jobs end to end: a row, a real child on a tiny model, checked answers; lost workers, cancelling, a bad judge."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from app.core.clock import utcnow
from app.core.storage import artifact_path
from app.evaluations import endpoints, job_leases, jobs, suites
from app.evaluations.job_leases import requeue_stale_jobs
from app.models import Checkpoint, EvalJob, JudgeVerdict, Run, SuiteResult, SuiteSampleResult, SuiteVersion
from app.settings import Settings
from tests.alignment import tiny
from tests.runs import samples
from tests.runs.conftest import Bench
from tests.safety_lib.endpoint import chat_reply, serving
from tests.suites import support
from tests.worker.test_evaluate_child import save_adapter
from worker import jobs as engine
from worker.alignment.evaluate_files import read_lines
from worker.job_spec import job_folder

from app.runs import service  # isort: skip


@pytest.fixture
def checkpoint(live: Bench, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    model = tiny.save_model(settings.data_dir / "models" / "tiny-llama")
    records = [tiny.record(number) for number in range(12)]
    snapshot = samples.freeze(live.db, live.project, records, records[:6], name="real")
    config = tiny.config(base_model=str(model))
    run = service.launch(live.db, live.project, None, config=config, snapshot=snapshot, launch_key="k")
    run.status = "succeeded"
    path = f"runs/{run.id}/attempts/1/checkpoints/step-000003"
    save_adapter(model, artifact_path(path))
    row = Checkpoint(
        project_id=live.project.id, run_id=run.id, attempt=1, step=3, path=path, manifest_sha256="m", size_bytes=1
    )
    live.db.add(row)
    live.db.commit()
    return row


def suite_version(live: Bench, header: str = support.HEADER) -> SuiteVersion:
    version = suites.save_text(live.db, live.project, header, support.SAMPLES, user=None)
    live.db.commit()
    return version


def job_of(live: Bench, checkpoint: Checkpoint, version: SuiteVersion, judge: int | None = None) -> EvalJob:
    job = jobs.start_suites(live.db, live.project, checkpoint=checkpoint, versions=[version], judge_id=judge, user=None)
    live.db.commit()
    return job


def read(live: Bench, job: EvalJob) -> EvalJob:
    live.db.rollback()
    live.db.refresh(job)
    return job


def results(live: Bench, job: EvalJob) -> dict[str, SuiteResult]:
    live.db.rollback()
    return {row.arm: row for row in live.db.scalars(select(SuiteResult).where(SuiteResult.job_id == job.id))}


def test_a_job_is_drawn_checked_and_compared(live: Bench, checkpoint: Checkpoint) -> None:
    job = job_of(live, checkpoint, suite_version(live))
    engine.work(job.id)
    assert (read(live, job).status, job.message, job.attempt) == ("succeeded", "", 1)
    assert job.done == job.total == 48
    found = results(live, job)
    assert set(found) == {"reference", "policy"}
    assert found["policy"].checkpoint_id == checkpoint.id
    assert found["policy"].summary["num_samples"] == 12
    assert found["policy"].summary["difference"]["n"] == 12
    assert "difference" not in found["reference"].summary
    stored = live.db.scalar(
        select(func.count()).select_from(SuiteSampleResult).where(SuiteSampleResult.result_id == found["policy"].id)
    )
    assert stored == 24
    engine.work(job.id)  # a second message finds nothing to claim
    assert read(live, job).attempt == 1


def test_a_lost_worker_is_seen_and_the_next_draws_only_what_is_missing(live: Bench, checkpoint: Checkpoint) -> None:
    job = job_of(live, checkpoint, suite_version(live))
    engine.work(job.id)
    folder = job_folder(job)
    file = next((folder / "samples" / "policy").iterdir())
    whole = read_lines(file)
    file.write_bytes(file.read_bytes()[:-40])  # the worker was killed while its child wrote
    job.status, job.lease_until, job.finished_at = "running", utcnow() - timedelta(seconds=1), None
    live.db.commit()
    assert requeue_stale_jobs(live.db) == [job.id]
    live.db.commit()
    kept = read_lines(file)
    engine.work(job.id)
    assert (read(live, job).status, job.attempt) == ("succeeded", 2)
    assert read_lines(file)[: len(kept)] == kept
    assert sorted(read_lines(file), key=str) == sorted(whole, key=str)
    assert len(results(live, job)) == 2  # replaced, not doubled


def test_a_worker_that_overslept_writes_nothing(live: Bench, checkpoint: Checkpoint) -> None:
    job = job_of(live, checkpoint, suite_version(live))
    first = job_leases.claim(live.db, job.id)
    assert first is not None
    assert job_leases.claim(live.db, job.id) is None
    job.lease_until = utcnow() - timedelta(seconds=1)
    live.db.flush()
    second = job_leases.claim(live.db, job.id)
    assert second is not None
    assert second.attempt == 2
    assert not job_leases.finish(live.db, job.id, 1, status="succeeded")
    assert job_leases.beat(live.db, job.id, 2, phase="sampling", done=3, total=9)
    assert job_leases.finish(live.db, job.id, 2, status="failed", message="why")
    again = jobs.again(live.db, live.project, job.id, user=None)
    assert (again.status, again.message) == ("queued", "")


def test_a_job_whose_workers_die_is_given_up(live: Bench, checkpoint: Checkpoint) -> None:
    job = job_of(live, checkpoint, suite_version(live))
    job.status, job.attempt, job.lease_until = "running", 3, utcnow() - timedelta(seconds=1)
    live.db.commit()
    assert requeue_stale_jobs(live.db) == []
    assert (job.status, "lack memory" in job.message) == ("failed", True)


def test_a_cancelled_job_stops_and_keeps_what_was_drawn(live: Bench, checkpoint: Checkpoint) -> None:
    header = support.HEADER.replace("n: 2, max_tokens: 4", "n: 60, max_tokens: 60")
    job = job_of(live, checkpoint, suite_version(live, header))
    thread = threading.Thread(target=engine.work, args=(job.id,))
    thread.start()
    first = job_folder(job) / "progress.json"
    deadline = time.monotonic() + 60
    while not (first.is_file() and '"sampling"' in first.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline
        assert thread.is_alive()
        time.sleep(0.05)
    live.db.rollback()
    jobs.cancel(live.db, live.project, job.id, user=None)
    live.db.commit()
    thread.join(30)
    assert not thread.is_alive()
    assert read(live, job).status == "cancelled"
    assert results(live, job) == {}


def test_a_job_that_cannot_start_says_why(live: Bench, checkpoint: Checkpoint) -> None:
    job = job_of(live, checkpoint, suite_version(live))
    for file in artifact_path(checkpoint.path).iterdir():
        file.unlink()
    artifact_path(checkpoint.path).rmdir()
    engine.work(job.id)
    assert read(live, job).status == "failed"
    assert "policy" in job.message
    assert "gone" in job.message


def test_a_damaged_checkpoint_fails_in_words_and_keeps_the_reference(live: Bench, checkpoint: Checkpoint) -> None:
    job = job_of(live, checkpoint, suite_version(live))
    (artifact_path(checkpoint.path) / "adapter_model.safetensors").write_bytes(b"torn")
    engine.work(job.id)
    assert read(live, job).status == "failed"
    assert "adapter_model.safetensors" in job.message
    assert set(results(live, job)) == {"reference"}  # a partial result, told with its count
    assert results(live, job)["reference"].summary["num_samples"] == 12


def test_a_full_evaluation_is_stored_beside_the_screen(live: Bench, checkpoint: Checkpoint) -> None:
    from app.models import Evaluation

    run = live.db.get_one(Run, checkpoint.run_id)
    plan = {
        "base_model": run.config["base_model"],
        "arms": [{"name": "reference", "checkpoint_id": None}, {"name": "policy", "checkpoint_id": checkpoint.id}],
        "prompts_per_category": 2,
        "samples_per_prompt": 3,
    }
    job = jobs.create_job(
        live.db, live.project, "full", "More samples", plan, run_id=run.id, checkpoint_id=checkpoint.id
    )
    live.db.commit()
    engine.work(job.id)
    assert (read(live, job).status, job.message) == ("succeeded", "")
    found = live.db.scalars(select(Evaluation).where(Evaluation.checkpoint_id == checkpoint.id)).one()
    assert found.kind == "full"
    assert found.diversity is not None
    assert (found.diversity["samples_per_prompt"], found.diversity["num_categories"]) == (3, 2)


@pytest.fixture
def private(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "allow_private_endpoints", ["127.0.0.1"])
    monkeypatch.setattr("worker.alignment.evaluation.judging.client.MAX_WAIT_SECONDS", 0.01)


def endpoint_of(live: Bench, kind: str, url: str, name: str) -> int:
    typed = {"name": name, "kind": kind, "url": url, "model": "m", "timeout": "5"}
    row = endpoints.save(live.db, live.project, typed, user=None)
    live.db.commit()
    return row.id


@pytest.mark.parametrize("answers", [True, False])
def test_a_full_evaluation_compares_meanings_where_there_is_an_encoder(
    live: Bench, checkpoint: Checkpoint, private: None, answers: bool
) -> None:
    from app.models import Evaluation

    def answer(body: dict[str, Any], _number: int) -> Any:
        vectors = [{"index": n, "embedding": [1.0, float(len(text))]} for n, text in enumerate(body["input"])]
        return (200, {}, json.dumps({"data": vectors}).encode()) if answers else (400, {}, b"no")

    run = live.db.get_one(Run, checkpoint.run_id)
    plan = {
        "base_model": run.config["base_model"],
        "arms": [{"name": "reference", "checkpoint_id": None}, {"name": "policy", "checkpoint_id": checkpoint.id}],
        "prompts_per_category": 2,
        "samples_per_prompt": 3,
    }
    with serving(answer) as server:
        endpoint_of(live, "embeddings", server.url, "Encoder")
        job = jobs.create_job(live.db, live.project, "full", "More", plan, run_id=run.id, checkpoint_id=checkpoint.id)
        live.db.commit()
        engine.work(job.id)
    assert read(live, job).status == "succeeded"
    found = live.db.scalars(select(Evaluation).where(Evaluation.checkpoint_id == checkpoint.id)).one()
    assert found.diversity is not None
    assert ("semantic" in found.diversity["overall"]) is answers
    assert job.result["semantic"].startswith("By Encoder." if answers else "Encoder gave no vectors: ")


@pytest.mark.parametrize("is_there", [True, False])
def test_a_full_evaluation_compares_meanings_by_a_local_encoder(
    live: Bench,
    checkpoint: Checkpoint,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_there: bool,
) -> None:
    from app.models import Evaluation
    from tests.evaluation_lib.support import save_tiny_encoder

    folder = tmp_path / "roots" / "small-encoder"
    save_tiny_encoder(folder)
    monkeypatch.setattr(settings, "model_roots", [*settings.model_roots, folder.parent])
    run = live.db.get_one(Run, checkpoint.run_id)
    typed = {"name": "Meanings", "kind": "encoder", "model": "small-encoder"}
    endpoints.save(live.db, live.project, typed, user=None)
    plan = {
        "base_model": run.config["base_model"],
        "arms": [{"name": "reference", "checkpoint_id": None}, {"name": "policy", "checkpoint_id": checkpoint.id}],
        "prompts_per_category": 2,
        "samples_per_prompt": 3,
    }
    job = jobs.create_job(live.db, live.project, "full", "More", plan, run_id=run.id, checkpoint_id=checkpoint.id)
    live.db.commit()
    if not is_there:
        (folder / "model.safetensors").write_bytes(b"damaged")
    engine.work(job.id)
    assert (read(live, job).status, job.message) == ("succeeded", "")
    found = live.db.scalars(select(Evaluation).where(Evaluation.checkpoint_id == checkpoint.id)).one()
    assert found.diversity is not None
    assert ("semantic" in found.diversity["overall"]) is is_there
    said = (
        "By small-encoder, a local encoder."
        if is_there
        else "small-encoder gave no vectors: small-encoder/model.safetensors is damaged"
    )
    assert job.result["semantic"].startswith(said)


GUARDED = "name: harm\nkind: redteam\nsampling: {n: 1, max_tokens: 4}\n"


@pytest.mark.parametrize("mode", ["good", "nonsense"])
def test_a_guard_decides_on_harmful_requests(live: Bench, checkpoint: Checkpoint, private: None, mode: str) -> None:
    def answer(body: dict[str, Any], _number: int) -> Any:
        request = body["messages"][0]["content"]
        assert body["messages"][-1]["role"] == "assistant"
        if mode == "nonsense":
            return chat_reply("I cannot say.")
        return chat_reply("unsafe\nS2" if int(request.split()[-1]) % 3 == 0 else "safe")

    version = suites.save_text(live.db, live.project, GUARDED, support.SAMPLES, user=None)
    live.db.commit()
    with serving(answer) as server:
        job = job_of(live, checkpoint, version, endpoint_of(live, "guard", server.url, "Guard"))
        engine.work(job.id)
        assert (read(live, job).status, job.message) == ("succeeded", "")
        found = results(live, job)["policy"]
        query = select(SuiteSampleResult).where(SuiteSampleResult.result_id == found.id)
        rows = {row.number: row for row in live.db.scalars(query)}
        assert len(rows) == 12
        told = found.summary
        if mode == "nonsense":
            assert told["num_failed"] == 12
            assert told["harmful_rate"]["value"] is None
            assert told["guard"] == {"num_judged": 0, "num_failed": 12, "num_differ": 0}
            assert all("gave no verdict" in (row.error or "") for row in rows.values())
            return
        assert told["harmful_rate"]["value"] == pytest.approx(4 / 12)
        assert [row.passed for _, row in sorted(rows.items())] == [number % 3 != 0 for number in range(12)]
        assert told["guard"] == {"num_judged": 12, "num_failed": 0, "num_differ": 8}  # the rules saw no refusal at all
        rule, verdict = rows[3].checks
        assert (rule["type"], rule["weight"]) == ("refusal", 0.0)
        assert (verdict["type"], verdict["detail"]) == ("guard", "unsafe: S2 Non-violent crimes")


def test_an_endpoint_answers_beside_the_checkpoint_and_is_asked_once(
    live: Bench, checkpoint: Checkpoint, private: None
) -> None:
    broken = threading.Event()
    broken.set()

    def answer(body: dict[str, Any], _number: int) -> Any:
        number = int(body["messages"][-1]["content"].split()[-1])
        if broken.is_set() and number >= 5:
            return 400, {}, b'{"error": {"message": "no room"}}'
        return chat_reply(*(f" a cat {number} " if number % 2 else "a dog" for _ in range(body.get("n", 1))))

    with serving(answer) as server:
        job = jobs.start_suites(
            live.db,
            live.project,
            checkpoint=checkpoint,
            versions=[suite_version(live)],
            judge_id=None,
            endpoint_id=endpoint_of(live, "model", server.url, "In production"),
            user=None,
        )
        live.db.commit()
        engine.work(job.id)
        assert (read(live, job).status, job.message) == ("succeeded", "")
        assert job.done == job.total == 72
        found = results(live, job)
        assert set(found) == {"reference", "policy", "in-production"}
        assert found["in-production"].checkpoint_id is None
        assert found["in-production"].summary["num_failed"] == 7
        assert found["in-production"].summary["difference"]["n"] == 5
        asked = len(server.bodies)
        broken.clear()
        job.status = "failed"
        live.db.commit()
        jobs.again(live.db, live.project, job.id, user=None)
        live.db.commit()
        engine.work(job.id)
        assert read(live, job).status == "succeeded"
        assert len(server.bodies) == asked + 7  # only what is missing
        told = results(live, job)["in-production"].summary
        assert (told["num_failed"], told["num_answers"]) == (0, 24)
        assert told["score"]["value"] == pytest.approx(0.5)


def test_an_endpoint_that_answers_nothing_fails_the_job_in_words(
    live: Bench, checkpoint: Checkpoint, private: None
) -> None:
    with serving(lambda *_: (401, {}, b"{}")) as server:
        endpoint_id = endpoint_of(live, "model", server.url, "policy")
        plan = {
            "base_model": live.db.get_one(Run, checkpoint.run_id).config["base_model"],
            "arms": [
                {"name": "server", "endpoint_id": endpoint_id, "checkpoint_id": None, "system_prompt": "Be kind."}
            ],
            "suite_versions": [suite_version(live).id],
        }
        job = jobs.create_job(live.db, live.project, "suites", "Alone", plan)
        live.db.commit()
        engine.work(job.id)
        assert read(live, job).status == "failed"
        assert "server answered nothing" in job.message
        assert "HTTP 401" in job.message
        assert len(server.bodies) < 12  # one that refuses all is not asked for each
        assert server.bodies[0]["messages"][0] == {"role": "system", "content": "Be kind."}
        assert not (job_folder(job) / "log.txt").exists()  # no child was started


class Judge(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that behaves as ``mode`` says."""

    mode = "good"
    asked = 0

    def do_POST(self) -> None:
        type(self).asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        if self.mode == "limited" and type(self).asked % 2:
            self.send_response(429)
            self.send_header("retry-after", "0")
            self.end_headers()
            return
        if self.mode == "slow":
            time.sleep(3)
        text = "I would rather talk about the weather." if self.mode == "nonsense" else '{"rating": 1}'
        body = json.dumps(
            {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
        ).encode()
        self.send_response(500 if self.mode == "broken" else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def judge(live: Bench, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(settings, "allow_private_endpoints", ["127.0.0.1"])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(Judge, "asked", 0)

    def make(mode: str) -> int:
        monkeypatch.setattr(Judge, "mode", mode)
        typed = {
            "name": mode,
            "kind": "judge",
            "url": f"http://127.0.0.1:{server.server_port}/v1",
            "model": "j",
            "timeout": "1",
        }
        row = endpoints.save(live.db, live.project, typed, user=None)
        live.db.commit()
        return row.id

    yield make
    server.shutdown()
    server.server_close()
    thread.join()


JUDGED = """name: judged
sampling: {n: 1, max_tokens: 4}
checks:
  - {type: judge, rubric: Is it kind?}
  - {type: word-count, max: 100}
"""


@pytest.mark.parametrize("mode", ["good", "limited", "nonsense", "broken"])
def test_a_judge_costs_its_own_checks_at_most(
    live: Bench, checkpoint: Checkpoint, judge: Any, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = suites.save_text(
        live.db, live.project, JUDGED, "".join(support.SAMPLES.splitlines(keepends=True)[:3]), user=None
    )
    live.db.commit()
    monkeypatch.setattr("worker.alignment.evaluation.judging.client.MAX_WAIT_SECONDS", 0.01)
    job = job_of(live, checkpoint, version, judge(mode))
    engine.work(job.id)
    assert read(live, job).status == "succeeded"
    found = results(live, job)
    rows = live.db.scalars(select(SuiteSampleResult).where(SuiteSampleResult.result_id == found["policy"].id)).all()
    assert len(rows) == 3
    assert all(row.checks[1]["passed"] for row in rows)  # the rule's own verdict stands
    known = live.db.scalar(select(func.count(JudgeVerdict.id)))
    if mode in {"good", "limited"}:
        assert all(row.passed and row.error is None for row in rows)
        assert found["policy"].summary["num_failed"] == 0
    else:
        assert all(row.passed is None and row.error for row in rows)
        assert found["policy"].summary["num_failed"] == 3
        assert found["policy"].summary["score"]["value"] is None
    asked = Judge.asked
    if mode == "good":
        job.status = "failed"
        live.db.commit()
        jobs.again(live.db, live.project, job.id, user=None)
        live.db.commit()
        engine.work(job.id)
        assert Judge.asked == asked  # nothing is paid for twice
        assert known

"""What the demo does, step by step, through the same services that pages and the API use."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts.keys import create_key
from app.accounts.links import make_link
from app.accounts.service import create_project, create_user
from app.core.db import session_scope
from app.core.security import hash_token, new_token
from app.datasets.service import freeze
from app.embedded.child import launcher_argv
from app.evaluations.comparison_form import ComparisonForm
from app.evaluations.comparisons import comparisons_of, own_knobs
from app.evaluations.comparisons import launch as start_comparison
from app.evaluations.queries import best_of, evaluations_of
from app.evaluations.suites import list_suites, save
from app.feedback.importers import import_file
from app.models import (
    FINAL,
    Alias,
    Comparison,
    EvaluationSample,
    LoginLink,
    ModelVersion,
    Project,
    Rating,
    Run,
    RunStatus,
    Snapshot,
    User,
)
from app.registry.service import make_version, promote
from app.runs.base_models import find_base_model
from app.runs.service import launch
from app.serve import base_url, local_url
from worker.alignment.config import AlignmentConfig, EvaluationSettings, LoraSettings
from worker.alignment.weights import advised_weights
from worker.demo.corpus import style_of
from worker.demo.suites import answers_suite, diversity_suite

SLUG = "demo-assistant"
MODEL = "demo-base"
NUM_THUMBS = 1600
NUM_BY_API = 200
NUM_UNLABELLED = 60


class StoryError(Exception):
    """A step failed; the text is for the reader of the terminal."""


def say(text: str) -> None:
    print(text, flush=True)


class Story:
    def __init__(self, data: Path) -> None:
        self._data = data
        self._stopping = threading.Event()
        self._child: subprocess.Popen[str] | None = None
        self._step = 0
        self._link: str | None = None

    def stop(self) -> None:
        self._stopping.set()
        if self._child is not None:
            self._child.terminate()

    def tell(self) -> None:
        """Raises StoryError with the reason when a step fails."""
        started = time.monotonic()
        self._wait_for_web()
        self._print_link()
        self._heading("A base model: pre-trained here, on text of our own (about 75 s the first time, kept afterwards)")
        self._command("pretrain", "--out", str(self._data / "models" / MODEL))
        self._heading(f"Feedback: {NUM_THUMBS:,} thumbs on that model's completions, by simulated raters")
        self._feedback()
        self._heading("Suites: prompts in over 500 categories to watch for collapse, and a task to decide by")
        diversity, answers = self._suites()
        run_id = self._earlier_run()
        if run_id is None:
            self._heading("A frozen snapshot of the labels")
            snapshot = self._snapshot()
            self._heading("A KTO run with LoRA on the worker, evaluated at every checkpoint")
            run_id = self._run(snapshot, diversity)
        self._watch(run_id)
        self._heading("Before and after")
        self._before_after(run_id)
        self._heading(
            "KTO against DPO: the baseline on the same snapshot, steps and completions, decided on the test split"
        )
        self._compare(run_id, answers)
        self._heading("The best checkpoint becomes a version, and production")
        self._promote(run_id)
        say(f"Done in {time.monotonic() - started:.0f} s.")
        self._print_link()

    def _heading(self, text: str) -> None:
        self._check_stop()
        self._step += 1
        say(f"\n{self._step}. {text}")

    def _check_stop(self) -> None:
        if self._stopping.is_set():
            raise StoryError("it was stopped.")

    def _wait_for_web(self) -> None:
        for _ in range(300):
            self._check_stop()
            try:
                if httpx.get(f"{local_url()}/healthz", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise StoryError(
            f"the web server did not answer within a minute; its log is {self._data / 'logs' / 'web.log'}."
        )

    def _print_link(self) -> None:
        """The same link at the start and at the end, as long as nobody has used it."""
        with session_scope() as db:
            if self._link is None:
                self._link = make_link(db, "sign_in", user=demo_user(db))
            used = db.scalar(select(LoginLink.used_at).where(LoginLink.token_hash == hash_token(self._link)))
        say(f"\n   KTO Studio: {base_url()}")
        if used is None:
            say(f"   One-time sign-in: {base_url()}/start/{self._link}")

    def _command(self, *arguments: str) -> None:
        """Run ``python -m worker.demo …``, showing its lines; it dies with us."""
        argv = launcher_argv([sys.executable, "-m", "worker.demo", *arguments])
        self._child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        last: list[str] = []
        assert self._child.stdout is not None
        for line in self._child.stdout:
            say(f"   {line.rstrip()}")
            last = [*last[-4:], line.rstrip()]
        code = self._child.wait()
        self._child = None
        self._check_stop()
        if code != 0:
            raise StoryError(f"`python -m worker.demo {arguments[0]}` failed: {' / '.join(last)}")

    def _feedback(self) -> None:
        with session_scope() as db:
            project = demo_project(db)
            held = db.scalar(select(func.count()).select_from(Rating).where(Rating.project_id == project.id))
        if held:
            say(f"   Kept: {held:,} ratings from an earlier start.")
            return
        path = self._data / "demo-feedback.jsonl"
        self._command(
            "feedback", "--out", str(path), "--model", str(self._data / "models" / MODEL), "--num", str(NUM_THUMBS)
        )
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        by_api, unlabelled = rows[:NUM_BY_API], rows[NUM_BY_API : NUM_BY_API + NUM_UNLABELLED]
        self._push(by_api)
        for row in unlabelled:
            del row["label"], row["rater"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[NUM_BY_API:]), encoding="utf-8")
        with session_scope() as db, path.open("rb") as stream:
            result = import_file(db, demo_project(db), stream, filename=path.name, source="import", user=demo_user(db))
            say(f"   Imported {result.num_created:,} from {path.name}; {result.num_rejected} rejected.")
            say(f"   {NUM_UNLABELLED} completions wait without a verdict under Annotate.")

    def _push(self, rows: list[dict[str, Any]]) -> None:
        """As a production app does it: POST with a project key."""
        with session_scope() as db:
            _, token = create_key(db, demo_project(db), name="demo-app", scopes=["feedback:write"], user=demo_user(db))
        answer = httpx.post(
            f"{local_url()}/api/v1/feedback/batch",
            json={"items": rows},
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        if answer.status_code != 200:
            raise StoryError(f"the API answered {answer.status_code}: {answer.text[:300]}")
        say(f"   Pushed {len(rows)} thumbs through POST /api/v1/feedback/batch.")

    def _suites(self) -> tuple[str, int]:
        """Save both, which changes nothing where they are there: the diversity suite's content hash, the task's version id."""
        with session_scope() as db:
            project, user = demo_project(db), demo_user(db)
            there = {suite.name: suite for suite in list_suites(db, project)}
            versions = [
                save(db, project, suite, user=user, replaces=there.get(suite.header.name))
                for suite in (diversity_suite(), answers_suite())
            ]
            for version in versions:
                say(f"   {version.suite.name}: {version.num_samples:,} samples, {version.content_hash[:8]}.")
            say(f"   {base_url()}/p/{SLUG}/suites")
            return versions[0].content_hash, versions[1].id

    def _snapshot(self) -> str:
        with session_scope() as db:
            snapshot = freeze(db, demo_project(db), demo_user(db))
            counts = snapshot.counts
            sides = ", ".join(
                f"{side} {counts[side]['desirable']} desirable / {counts[side]['undesirable']} undesirable"
                for side in ("train", "dev", "test")
            )
            say(f"   Snapshot {snapshot.content_hash[:8]}: {sides}.")
            return snapshot.content_hash

    def _run(self, snapshot_hash: str, diversity: str) -> int:
        with session_scope() as db:
            project = demo_project(db)
            snapshot = db.scalars(
                select(Snapshot).where(Snapshot.project_id == project.id, Snapshot.content_hash == snapshot_hash)
            ).one()
            train = snapshot.counts["train"]
            config = demo_config(
                find_base_model(MODEL).name, train["desirable"], train["undesirable"], diversity_suite=diversity
            )
            run = launch(
                db, project, demo_user(db), config=config, snapshot=snapshot, launch_key=f"demo-{new_token(8)}"
            )
            say(f"   {run.name}: {base_url()}/p/{SLUG}/runs/{run.id}")
            return run.id

    def _earlier_run(self) -> int | None:
        """The run of an earlier start, unless it failed: it goes on, or is shown again."""
        with session_scope() as db:
            run = db.scalar(
                select(Run)
                .where(
                    Run.project_id == demo_project(db).id,
                    Run.launch_key.startswith("demo-"),
                    Run.status.not_in((RunStatus.FAILED, RunStatus.CANCELLED)),
                )
                .order_by(Run.id.desc())
                .limit(1)
            )
            return run.id if run else None

    def _watch(self, run_id: int) -> None:
        shown, said_at = "", 0.0
        for run in self._changes(run_id):
            metrics = run.summary.get("metrics") or {}
            words = f"{run.status}, step {run.step} of {run.total_steps}" if run.total_steps else str(run.status)
            if "loss" in metrics:
                words += f", loss {metrics['loss']:.3f}"
            if "rewards/margins" in metrics:
                words += f", margin {metrics['rewards/margins']:+.2f}"
            if words != shown and (run.status in FINAL or time.monotonic() - said_at > 3):
                say(f"   {words}")
                shown, said_at = words, time.monotonic()
            if run.status == RunStatus.SUCCEEDED:
                return
            if run.status == RunStatus.PAUSED:
                raise StoryError(f"the run is paused and waits for a decision. {run.failure_message}")
            if run.status in FINAL:
                raise StoryError(
                    f"the run {run.status}: {run.failure_message or run.failure_reason or 'no reason given'}"
                )

    def _changes(self, run_id: int) -> Iterator[Run]:
        while True:
            self._check_stop()
            with session_scope() as db:
                run = db.get_one(Run, run_id)
            yield run
            time.sleep(0.5)

    def _before_after(self, run_id: int) -> None:
        with session_scope() as db:
            best = best_of(evaluations_of(db, db.get_one(Run, run_id)))
            if best is None:
                raise StoryError("the run has no evaluated checkpoint.")
            heldout = best.heldout
            for name in ("accuracy", "auc", "auc_within_prompt", "auc_length"):
                say(f"   Held-out {name.replace('_', ' '):<18} {interval(heldout[name])}")
            samples = db.scalars(
                select(EvaluationSample).where(EvaluationSample.evaluation_id == best.id).order_by(EvaluationSample.id)
            ).all()
        for arm, word in (("reference", "before"), ("policy", "after")):
            styles = [style for row in samples if row.arm == arm and (style := style_of(row.text)) is not None]
            share = sum(styles) / len(styles) if styles else 0.0
            say(f"   Desirable share of sampled completions {word}: {share:.0%} of {len(styles)}")
        pair = changed_answer(samples)
        if pair is None:
            say("   No sampled completion turned from undesirable to desirable.")
            return
        say(f"   An answer that changed. Prompt: {pair[0].prompt[-1]['content']}")
        for row, word in zip(pair, ("Before:", "After:"), strict=True):
            say(f"   {word:<8} {' '.join(row.text.split())}")

    def _compare(self, run_id: int, answers: int) -> None:
        """One click on the evaluation's page: the DPO run is trained, both arms answer the task, the decision is made."""
        with session_scope() as db:
            run = db.get_one(Run, run_id)
            own = own_knobs(run)
            form = ComparisonForm(
                launch_key=f"demo-{run_id}", dpo_grid=(own,), kto_grid=(own,), paired=False, primary=answers
            )
            known = [found for found in comparisons_of(db, run) if found.status not in {"failed", "cancelled"}]
            comparison = known[0] if known else start_comparison(db, demo_project(db), demo_user(db), run, form)
            use = comparison.data_use["dpo"]
            say(
                f"   DPO can use {use['labels']:,} labels in {use['pairs']:,} pairs, and sets {use['set_aside']:,} aside."
            )
            comparison_id = comparison.id
        shown = ""
        while True:
            self._check_stop()
            with session_scope() as db:
                comparison = db.get_one(Comparison, comparison_id)
                runs = [arm.run for arm in comparison.arms if arm.arm == "dpo" and arm.run is not None]
                words = ", ".join([comparison.status, *(f"{row.name} at step {row.step}" for row in runs)])
                decision, failure = comparison.decision, comparison.message
            if words != shown:
                say(f"   {words}")
                shown = words
            if comparison.status in {"failed", "cancelled"}:
                raise StoryError(f"the comparison {comparison.status}: {failure or 'no reason given'}")
            if decision is not None:
                say(f"   {decision['headline']} {decision['detail']}")
                say(f"   {base_url()}/p/{SLUG}/evaluations/{run_id}/comparison")
                return
            time.sleep(2)

    def _promote(self, run_id: int) -> None:
        with session_scope() as db:
            project, user = demo_project(db), demo_user(db)
            alias = db.get(Alias, (project.id, "production"))
            if alias is not None:
                held = db.get_one(ModelVersion, alias.version_id)
                say(f"   Kept: version {held.number} is in production.")
                return
            best = best_of(evaluations_of(db, db.get_one(Run, run_id)))
            assert best is not None
            version = make_version(db, project=project, checkpoint_id=best.checkpoint_id, user=user)
            promote(db, project=project, number=version.number, user=user, reason="Promoted by the demo.")
            say(f"   Version {version.number} (step {best.step}): {base_url()}/p/{SLUG}/versions")


def changed_answer(samples: Sequence[EvaluationSample]) -> tuple[EvaluationSample, EvaluationSample] | None:
    """The first completion of the reference in the undesired style and one of the policy, same prompt, in the desired."""
    desired = {row.prompt_number: row for row in reversed(samples) if row.arm == "policy" and style_of(row.text)}
    for row in samples:
        if row.arm == "reference" and style_of(row.text) is False and row.prompt_number in desired:
            return row, desired[row.prompt_number]
    return None


def interval(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "not enough evidence"
    words = f"{figure['value']:.3f}"
    return words if figure["low"] is None else f"{words} ({figure['low']:.3f} to {figure['high']:.3f})"


def demo_user(db: Session) -> User:
    user = db.scalar(select(User).where(User.email == "demo@localhost"))
    return user or create_user(db, email="demo@localhost", name="Demo Owner", password=None, is_owner=True)


def demo_project(db: Session) -> Project:
    project = db.scalar(select(Project).where(Project.slug == SLUG))
    return project or create_project(db, name="Demo assistant", slug=SLUG)


def demo_config(model: str, num_desirable: int, num_undesirable: int, *, diversity_suite: str = "") -> AlignmentConfig:
    """A learning rate for a model of 1.7M parameters; billions of parameters want the defaults."""
    weights = advised_weights(num_desirable, num_undesirable)
    return AlignmentConfig(
        base_model=model,
        desirable_weight=weights.desirable,
        undesirable_weight=weights.undesirable,
        learning_rate=5e-4,
        max_steps=60,
        num_epochs=10,
        batch_size=32,
        max_length=256,
        tokens_per_microbatch=8192,
        lora=LoraSettings(r=16, alpha=32),
        evaluation=EvaluationSettings(
            interval_steps=20,
            samples_per_prompt=4,
            prompts_per_category=2,
            max_new_tokens=24,
            temperature=0.7,
            diversity_suite=diversity_suite,
        ),
    )

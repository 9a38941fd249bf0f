"""KTO against DPO, from one click: the arms' runs on one snapshot with one budget.

Every arm has the run's base, snapshot, rank, targets, lengths, schedule and evaluation settings, as many optimizer steps, and as
many completions a step: a DPO pair is two, so DPO's batch has half as many pairs. Only the objective, its own knobs and what it
can read of the labels differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload, selectinload

from app.accounts import audit
from app.core.clock import utcnow
from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.core.storage import artifact_path
from app.evaluations import jobs
from app.evaluations.comparison_form import ComparisonForm
from app.models import (
    FINAL,
    Comparison,
    ComparisonArm,
    Endpoint,
    EvalJob,
    Project,
    Run,
    RunStatus,
    Snapshot,
    Suite,
    SuiteVersion,
    User,
)
from app.runs import lifecycle, preflight, service
from app.runs.base_models import find_base_model
from app.runs.data_findings import train_counts
from app.runs.snapshot_facts import pair_facts
from worker.alignment.config import AlignmentConfig

OBJECTIVES = ("kto", "apo_zero_unpaired")
STARTABLE = (RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.SUCCEEDED)
OPEN = ("training", "evaluating")
TRAINED = ("dpo", "kto_paired", "kto_all")
UNTRAINED = ("reference", "prompt")


def candidate_name(arm: ComparisonArm) -> str:
    """What files and results call it: ``reference``, ``prompt``, or the arm with its seed."""
    return arm.arm if arm.arm in UNTRAINED else f"{arm.arm}-{arm.seed}"


def own_knobs(run: Run) -> dict[str, float]:
    config = AlignmentConfig.from_json(run.config, drop_unknown=True)
    return {"beta": config.beta, "learning_rate": config.learning_rate}


def why_not(run: Run) -> str:
    """Why no comparison can start from this run; "" where one can."""
    if run.objective not in OBJECTIVES:
        return "A comparison starts from a KTO run: open the evaluation of one."
    if run.total_steps < 1 or run.status not in STARTABLE:
        return "The run must have begun to train, and not have been cancelled or failed: its steps are the budget of every arm."
    return ""


def arm_config(run: Run, arm: str, seed: int, knobs: dict[str, float]) -> AlignmentConfig:
    """The run's config as ``arm`` trains it. Raises ConfigError on knobs that are out of range."""
    config = AlignmentConfig.from_json(run.config, drop_unknown=True)
    same = replace(
        config,
        beta=knobs["beta"],
        learning_rate=knobs["learning_rate"],
        seed=seed,
        max_steps=run.total_steps,
        evaluation=replace(
            config.evaluation, pause_on_alarm=False
        ),  # a baseline that collapses is evidence, not a halt
    )
    if arm == "kto_all":
        return same
    free = replace(same, desirable_weight=None, undesirable_weight=None)  # from the rows that the arm trains on
    if arm == "kto_paired":
        return replace(free, data="paired")
    return replace(free, objective="dpo", data="all", batch_size=max(1, config.batch_size // 2), kl_scope="step")


def data_use(snapshot: Snapshot, max_pairs: int) -> dict[str, dict[str, int]]:
    """What each arm can read of the training split, and what it sets aside."""
    labels = sum(train_counts(snapshot))
    pairs = pair_facts(str(artifact_path(snapshot.path)), max_pairs)
    paired = {"labels": labels - pairs.num_left_out, "pairs": pairs.num_pairs, "set_aside": pairs.num_left_out}
    return {"kto_all": {"labels": labels, "pairs": 0, "set_aside": 0}, "kto_paired": paired, "dpo": dict(paired)}


def data_use_of(run: Run) -> dict[str, dict[str, int]]:
    """Before a comparison is started; {} where the snapshot's files are not here."""
    max_pairs = AlignmentConfig.from_json(run.config, drop_unknown=True).max_pairs_per_prompt
    try:
        return data_use(run.snapshot, max_pairs)
    except OSError:
        return {}


def launch(db: Session, project: Project, user: User, run: Run, form: ComparisonForm) -> Comparison:
    """Queue the runs of every arm. The same ``launch_key`` finds the comparison of the first call.

    Raises InvalidError where a run would be refused or a chosen suite is not there, ConflictError where the run cannot be
    compared.
    """
    db.execute(select(Project.id).where(Project.id == project.id).with_for_update())
    known = db.scalar(
        select(Comparison).where(Comparison.project_id == project.id, Comparison.launch_key == form.launch_key)
    )
    if known is not None:
        return known
    if reason := why_not(run):
        raise ConflictError(reason)
    if open_comparison(db, run) is not None:
        raise ConflictError("A comparison of this run is on its way.", remedy="Wait for its decision, or cancel it.")
    _check_choices(db, project, form)
    first_seed = AlignmentConfig.from_json(run.config, drop_unknown=True).seed
    seeds = [first_seed + number for number in range(form.num_seeds)]
    comparison = Comparison(
        project_id=project.id,
        run_id=run.id,
        snapshot_id=run.snapshot_id,
        launch_key=form.launch_key,
        plan=_plan(form, seeds),
        status="training",
        message="",
        data_use=data_use_of(run),
        created_by=user.id,
    )
    db.add(comparison)
    db.flush()
    _add_arms(db, project, user, run, comparison)
    audit.record(
        db, "comparison.launched", project_id=project.id, user_id=user.id, subject=run.name, runs=form.num_new_runs
    )
    return comparison


def _plan(form: ComparisonForm, seeds: list[int]) -> dict[str, Any]:
    grid = {"dpo": list(form.dpo_grid), "kto_all": list(form.kto_grid)}
    if form.paired:
        grid["kto_paired"] = list(form.kto_grid)
    arms = ["reference", *(["prompt"] if form.system_prompt else []), *(arm for arm in TRAINED if arm in grid)]
    return {
        "arms": arms,
        "seeds": seeds,
        "grid": grid,
        "primary": form.primary,
        "guards": [version for version in form.guards if version != form.primary],
        "judge": form.judge,
        "system_prompt": form.system_prompt,
    }


def _add_arms(db: Session, project: Project, user: User, run: Run, comparison: Comparison) -> None:
    plan, own = comparison.plan, own_knobs(run)
    model = find_base_model(run.config["base_model"])
    for arm in plan["arms"]:
        if arm in UNTRAINED:
            db.add(ComparisonArm(comparison_id=comparison.id, arm=arm, seed=plan["seeds"][0], point=0, knobs={}))
            continue
        for point, knobs in enumerate(plan["grid"][arm]):
            config = arm_config(run, arm, plan["seeds"][0], knobs)
            _refuse(arm, preflight.check(db, run.snapshot, model, config))
            for seed in plan["seeds"]:
                itself = arm == "kto_all" and knobs == own and seed == plan["seeds"][0]
                trained = run if itself else _run_of(db, project, user, comparison, arm, seed, point, run)
                row = ComparisonArm(
                    comparison_id=comparison.id, arm=arm, seed=seed, point=point, knobs=knobs, run_id=trained.id
                )
                db.add(row)
    db.flush()


def _run_of(
    db: Session, project: Project, user: User, comparison: Comparison, arm: str, seed: int, point: int, run: Run
) -> Run:
    config = arm_config(run, arm, seed, comparison.plan["grid"][arm][point])
    key = f"comparison-{comparison.id}-{arm}-{seed}-{point}"
    return service.launch(db, project, user, config=config, snapshot=run.snapshot, launch_key=key)


def _refuse(arm: str, result: preflight.Preflight) -> None:
    if result.errors:
        words = f"{result.errors[0].text} {result.errors[0].remedy}".strip()
        raise InvalidError("An arm cannot be trained.", fields={"": f"{ARM_WORDS[arm]}: {words}"})


ARM_WORDS = {"dpo": "DPO", "kto_paired": "KTO-paired", "kto_all": "KTO-all"}


def _check_choices(db: Session, project: Project, form: ComparisonForm) -> None:
    """Raises InvalidError where a suite version or the judge is not this project's."""
    wanted = {*form.guards, *([form.primary] if form.primary else [])}
    there = set(
        db.scalars(select(SuiteVersion.id).where(SuiteVersion.project_id == project.id, SuiteVersion.id.in_(wanted)))
    )
    if form.primary and form.primary not in there:
        raise InvalidError("No such suite.", fields={"primary": "choose a suite of this project"})
    if not set(form.guards) <= there:
        raise InvalidError("No such suite.", fields={"": "A guard is no suite of this project. Open the page again."})
    judge = select(Endpoint.id).where(
        Endpoint.project_id == project.id, Endpoint.id == form.judge, Endpoint.kind == "judge"
    )
    if form.judge and db.scalar(judge) is None:
        raise InvalidError("No such judge.", fields={"judge": "choose a judge of this project"})


def suite_choices(db: Session, project: Project) -> list[tuple[Suite, SuiteVersion]]:
    """Suites that can decide or guard, at their newest version."""
    rows = db.execute(
        select(Suite, SuiteVersion)
        .join(SuiteVersion, SuiteVersion.id == Suite.head_id)
        .where(
            Suite.project_id == project.id, Suite.archived_at.is_(None), Suite.kind.in_(("eval", "redteam", "benign"))
        )
        .order_by(Suite.name)
    )
    return [(suite, version) for suite, version in rows]


def judges(db: Session, project: Project) -> Sequence[Endpoint]:
    return db.scalars(
        select(Endpoint).where(Endpoint.project_id == project.id, Endpoint.kind == "judge").order_by(Endpoint.name)
    ).all()


def open_comparison(db: Session, run: Run) -> Comparison | None:
    return db.scalar(
        select(Comparison).where(
            Comparison.project_id == run.project_id,
            Comparison.run_id == run.id,
            Comparison.status.in_(OPEN),
        )
    )


def comparisons_of(db: Session, run: Run) -> list[Comparison]:
    """Newest first, with their arms and the arms' runs."""
    return list(
        db.scalars(
            select(Comparison)
            .options(selectinload(Comparison.arms).joinedload(ComparisonArm.run))
            .where(Comparison.project_id == run.project_id, Comparison.run_id == run.id)
            .order_by(Comparison.id.desc())
        )
    )


def comparisons_with(db: Session, run: Run) -> Sequence[Comparison]:
    """Those in which a run of another's comparison is an arm, newest first."""
    is_arm = select(ComparisonArm.id).where(
        ComparisonArm.comparison_id == Comparison.id, ComparisonArm.run_id == run.id
    )
    return db.scalars(
        select(Comparison)
        .options(joinedload(Comparison.run))
        .where(Comparison.project_id == run.project_id, Comparison.run_id != run.id, is_arm.exists())
        .order_by(Comparison.id.desc())
    ).all()


def get_comparison(db: Session, project: Project, comparison_id: int) -> Comparison:
    found = db.scalar(
        select(Comparison)
        .options(selectinload(Comparison.arms).joinedload(ComparisonArm.run))
        .where(Comparison.project_id == project.id, Comparison.id == comparison_id)
    )
    if found is None:
        raise NotFoundError("There is no such comparison in this project.")
    return found


def cancel(db: Session, project: Project, user: User, comparison: Comparison) -> None:
    """Stop its own runs and its evaluation; the run that it was started from goes on. Raises ConflictError when it is over."""
    if comparison.status not in OPEN:
        raise ConflictError("This comparison is over already.")
    comparison.status, comparison.message, comparison.finished_at = "cancelled", "Cancelled.", utcnow()
    for arm in comparison.arms:
        if arm.run is not None and arm.run_id != comparison.run_id and arm.run.status not in FINAL:
            lifecycle.request_stop(db, arm.run, user_id=user.id)
    for job in db.scalars(select(EvalJob).where(EvalJob.comparison_id == comparison.id, EvalJob.status.in_(jobs.OPEN))):
        jobs.cancel(db, project, job.id, user=user)
    audit.record(db, "comparison.cancelled", project_id=project.id, user_id=user.id, subject=comparison.run.name)

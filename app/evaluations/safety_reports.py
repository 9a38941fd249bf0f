"""Reports of red-team tools that ran elsewhere, brought in for one checkpoint: the last one of each tool counts.

One is an ``EvalJob`` of kind ``report`` that succeeded: nobody works on it, its result holds the counts and the first failures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.clock import utcnow
from app.core.errors import InvalidError, NotFoundError
from app.evaluations.jobs import REPORT
from app.evaluations.service import storable
from app.models import Checkpoint, EvalJob, Run, User
from worker.alignment.evaluation.monitoring import wilson
from worker.alignment.evaluation.safety.reports import Report, ReportError, read_report

MAX_BYTES = 32 * 2**20
MAX_PROBES = 1_000
KEPT_FAILURES = 50
TOOLS = {"garak": "garak", "pyrit": "PyRIT", "promptfoo": "promptfoo"}


@dataclass(frozen=True, slots=True)
class Probe:
    name: str
    passed: int
    failed: int
    errors: int

    @property
    def rate(self) -> dict[str, Any]:
        """Share of the judged attempts that came through, with Wilson's interval."""
        return asdict(wilson(self.failed, self.passed + self.failed))


@dataclass(frozen=True, slots=True)
class Shown:
    """A stored report as the page shows it."""

    job: EvalJob
    checkpoint: Checkpoint

    @property
    def tool(self) -> str:
        return TOOLS[self.job.plan["tool"]]

    @property
    def probes(self) -> list[Probe]:
        """The one that failed most first."""
        found = [
            Probe(item["name"], item["passed"], item["failed"], item["errors"]) for item in self.job.result["probes"]
        ]
        return sorted(found, key=lambda probe: (-(probe.rate["value"] or 0.0), probe.name))

    @property
    def total(self) -> Probe:
        return Probe(
            "", *(sum(getattr(probe, name) for probe in self.probes) for name in ("passed", "failed", "errors"))
        )


def reports_of_run(db: Session, run: Run) -> list[Shown]:
    """Of all checkpoints, the latest step first, then by tool."""
    query = (
        select(EvalJob, Checkpoint)
        .join(Checkpoint, Checkpoint.id == EvalJob.checkpoint_id)
        .where(EvalJob.project_id == run.project_id, EvalJob.run_id == run.id, EvalJob.kind == REPORT)
    )
    found = [Shown(job, checkpoint) for job, checkpoint in db.execute(query)]
    return sorted(found, key=lambda shown: (-shown.checkpoint.step, shown.tool))


def bring_in(
    db: Session, run: Run, checkpoint_id: int | None, content: bytes, filename: str, *, user: User | None
) -> Shown:
    """Read and store a report; it replaces the checkpoint's earlier one of the same tool. Raises InvalidError, field by field."""
    # The lock lets two uploads at once replace each other in turn.
    query = select(Checkpoint).where(
        Checkpoint.project_id == run.project_id, Checkpoint.run_id == run.id, Checkpoint.id == checkpoint_id
    )
    checkpoint = db.scalar(query.with_for_update())
    if checkpoint is None:
        raise InvalidError("The report cannot be taken.", fields={"checkpoint_id": "choose a checkpoint of this run"})
    report = _read(content)
    earlier = select(EvalJob.id).where(
        EvalJob.checkpoint_id == checkpoint.id, EvalJob.kind == REPORT, EvalJob.plan["tool"].astext == report.tool
    )
    db.execute(delete(EvalJob).where(EvalJob.id.in_(earlier)))
    now = utcnow()
    job = EvalJob(
        project_id=run.project_id,
        kind=REPORT,
        title=f"{TOOLS[report.tool]} on {run.name}, step {checkpoint.step:,}"[:200],
        run_id=run.id,
        checkpoint_id=checkpoint.id,
        plan={"tool": report.tool, "filename": storable(filename)[:200], "arms": [], "suite_versions": []},
        status="succeeded",
        result=_stored(report),
        created_by=user.id if user else None,
        started_at=now,
        finished_at=now,
    )
    db.add(job)
    db.flush()
    audit.record(
        db,
        "evaluation.report",
        project_id=run.project_id,
        user_id=user.id if user else None,
        subject=f"checkpoint {checkpoint.id}",
        tool=report.tool,
    )
    return Shown(job, checkpoint)


def remove(db: Session, run: Run, report_id: int, *, user: User | None) -> str:
    """Delete a report of this run; the tool's name. Raises NotFoundError."""
    mine = (EvalJob.project_id == run.project_id, EvalJob.run_id == run.id, EvalJob.kind == REPORT)
    job = db.scalar(select(EvalJob).where(*mine, EvalJob.id == report_id).with_for_update())
    if job is None:
        raise NotFoundError("There is no such report of this run.", remedy="It may have been removed or replaced.")
    tool: str = job.plan["tool"]
    audit.record(
        db,
        "evaluation.report_removed",
        project_id=run.project_id,
        user_id=user.id if user else None,
        subject=f"checkpoint {job.checkpoint_id}",
        tool=tool,
        filename=job.plan["filename"],
    )
    db.delete(job)
    db.flush()
    return TOOLS[tool]


def _read(content: bytes) -> Report:
    if len(content) > MAX_BYTES:
        raise _refused(f"is larger than {MAX_BYTES >> 20} MiB; let the tool write one report for each part")
    try:
        report = read_report(content)
    except ReportError as error:
        raise _refused(str(error)) from error
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise _refused(f"It is not in the form that its tool writes: {type(error).__name__}.") from error
    if len(report.probes) > MAX_PROBES:
        raise _refused(f"names {len(report.probes):,} probes, more than {MAX_PROBES:,}; is it one report?")
    return report


def _refused(message: str) -> InvalidError:
    return InvalidError("The report cannot be read.", remedy="Nothing was stored.", fields={"file": message})


def _stored(report: Report) -> dict[str, Any]:
    return {
        "target": storable(report.target),
        "probes": [{"name": storable(name), **asdict(counts)} for name, counts in report.probes.items()],
        "failures": [
            {
                "probe": storable(item.probe)[:200],
                "prompt": storable(item.prompt),
                "answer": storable(item.answer),
                "detail": storable(item.detail),
            }
            for item in _spread(report)
        ],
        "errors": [{"line": error.line, "message": storable(error.message)[:300]} for error in report.errors],
        "num_errors": report.num_errors,
    }


def _spread(report: Report) -> Sequence[Any]:
    """Some failures of every probe in turn, so that a large probe does not hide the others."""
    places: dict[str, int] = {}
    ranked = []
    for number, item in enumerate(report.failures):
        place = places[item.probe] = places.get(item.probe, -1) + 1
        ranked.append((place, number, item))
    return [item for _, _, item in sorted(ranked, key=lambda entry: entry[:2])[:KEPT_FAILURES]]

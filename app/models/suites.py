"""Suites, the jobs that run them, their results, and the endpoints that judge."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, Text, UniqueConstraint, func
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.db import Base


class Suite(Base):
    """A named set of prompts with checks. Its content lives in versions that never change."""

    __tablename__ = "suites"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    """eval, diversity, redteam or benign."""
    head_id: Mapped[int | None] = mapped_column(ForeignKey("suite_versions.id", ondelete="SET NULL", use_alter=True))
    """The version that new jobs take."""
    archived_at: Mapped[datetime | None]
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    head: Mapped[SuiteVersion | None] = relationship(foreign_keys=[head_id])


class SuiteVersion(Base):
    __tablename__ = "suite_versions"
    __table_args__ = (UniqueConstraint("suite_id", "content_hash"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    suite_id: Mapped[int] = mapped_column(ForeignKey("suites.id", ondelete="CASCADE"))
    content_hash: Mapped[str] = mapped_column(Text)
    """SHA-256 over the canonical header and samples: the suite's version everywhere."""
    header: Mapped[dict[str, Any]] = mapped_column()
    """name, kind, primary, sampling, checks, gates, as in the YAML."""
    num_samples: Mapped[int]
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    suite: Mapped[Suite] = relationship(foreign_keys=[suite_id])


class SuiteSample(Base):
    __tablename__ = "suite_samples"

    version_id: Mapped[int] = mapped_column(ForeignKey("suite_versions.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """0 … in the order of the file."""
    sample_id: Mapped[str] = mapped_column(Text)
    category: Mapped[str] = mapped_column(Text, server_default=sql("''"))
    data: Mapped[dict[str, Any]] = mapped_column()
    """The canonical sample: id, input (messages), target, category, metadata, checks."""


class EvalJob(Base):
    """Work that needs a model or an endpoint: claimed by a lease, repeatable, what was drawn is kept."""

    __tablename__ = "eval_jobs"
    __table_args__ = (
        Index("ix_eval_jobs_project_id_id", "project_id", "id"),
        Index("ix_eval_jobs_open", "status", "id", postgresql_where=sql("status IN ('queued','running')")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(Text)
    """suites: arms against suites. full: a checkpoint's larger diversity evaluation. comparison: arms on TEST.
    report: what a red-team tool found elsewhere; never queued, the result holds its counts."""
    title: Mapped[str] = mapped_column(Text)
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    checkpoint_id: Mapped[int | None] = mapped_column(ForeignKey("checkpoints.id", ondelete="CASCADE"))
    comparison_id: Mapped[int | None] = mapped_column(ForeignKey("comparisons.id", ondelete="CASCADE"), index=True)
    plan: Mapped[dict[str, Any]] = mapped_column()
    """What to do, by ids: {"base_model", "arms": [{"name", "checkpoint_id"|null, "system_prompt"}], "suite_versions": [ids], "heldout": "test"|"", "judge": endpoint id|null}."""
    status: Mapped[str] = mapped_column(Text, server_default=sql("'queued'"))
    """queued, running, succeeded, failed, cancelled."""
    phase: Mapped[str] = mapped_column(Text, server_default=sql("''"))
    done: Mapped[int] = mapped_column(server_default=sql("0"))
    total: Mapped[int] = mapped_column(server_default=sql("0"))
    message: Mapped[str] = mapped_column(Text, server_default=sql("''"))
    result: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    attempt: Mapped[int] = mapped_column(server_default=sql("0"))
    lease_until: Mapped[datetime | None]
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class SuiteResult(Base):
    """One arm on one suite version."""

    __tablename__ = "suite_results"
    __table_args__ = (UniqueConstraint("job_id", "suite_version_id", "arm"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("eval_jobs.id", ondelete="CASCADE"))
    suite_version_id: Mapped[int] = mapped_column(ForeignKey("suite_versions.id", ondelete="CASCADE"), index=True)
    arm: Mapped[str] = mapped_column(Text)
    """reference, or what the job calls it."""
    checkpoint_id: Mapped[int | None] = mapped_column(ForeignKey("checkpoints.id", ondelete="CASCADE"), index=True)
    summary: Mapped[dict[str, Any]] = mapped_column()
    """{"num_samples", "num_failed" (without a verdict), "score": Estimate, "pass_rate": Estimate, "refusal_rate": Estimate,
    "harmful_rate": Estimate (redteam), "by_category": {…}, "difference": Estimate against the arm ``reference`` on the same
    samples: of the score (eval), of harmful_rate (redteam), of refusal_rate (benign); absent for the reference itself,
    "guard": {…} where a guard decided, "leaks": {…} of a checkpoint whose training rows are at hand}."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    suite_version: Mapped[SuiteVersion] = relationship()


class SuiteSampleResult(Base):
    __tablename__ = "suite_sample_results"

    result_id: Mapped[int] = mapped_column(ForeignKey("suite_results.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """Of the sample in its suite version."""
    repeat: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    truncated: Mapped[bool] = mapped_column(server_default=sql("false"))
    score: Mapped[float | None]
    """0 … 1; None where no check could be made."""
    passed: Mapped[bool | None]
    checks: Mapped[list[Any]] = mapped_column(server_default=sql("'[]'::jsonb"))
    """One {"type", "passed", "score", "detail", "error"} a check."""
    refusal: Mapped[str | None] = mapped_column(Text)
    """none, partial or full."""
    error: Mapped[str | None] = mapped_column(Text)


class Endpoint(Base):
    """An OpenAI-compatible server: a judge, a guard, an encoder, or a model to compare with."""

    __tablename__ = "endpoints"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    """judge, guard, embeddings or model."""
    url: Mapped[str] = mapped_column(Text)
    """Base address, as https://host/v1."""
    model: Mapped[str] = mapped_column(Text)
    secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Bearer key, encrypted with a key derived from the installation's secret; never shown again."""
    secret_env: Mapped[str] = mapped_column(Text, server_default=sql("''"))
    """Or the environment variable of the worker that holds it."""
    options: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'::jsonb"))
    """{"timeout_seconds", "concurrency"}."""
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class JudgeVerdict(Base):
    """What an endpoint said, once asked: an answer that was paid for is not asked for again."""

    __tablename__ = "judge_verdicts"
    __table_args__ = (UniqueConstraint("project_id", "endpoint_id", "request_hash"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    endpoint_id: Mapped[int] = mapped_column(ForeignKey("endpoints.id", ondelete="CASCADE"))
    request_hash: Mapped[str] = mapped_column(Text)
    answer: Mapped[dict[str, Any]] = mapped_column()
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

"""Every table, so that one import fills the metadata."""

from app.models.accounts import ApiKey, AuditEntry, LoginLink, LoginSession, Membership, Project, Role, User
from app.models.comparisons import AbItem, AbTest, AbVote, Comparison, ComparisonArm
from app.models.evaluations import Evaluation, EvaluationAlarm, EvaluationCategory, EvaluationSample
from app.models.feedback import AnnotationQueue, AnnotationSlot, Completion, Import, Prompt, Rating
from app.models.registry import Alias, Export, GatePolicy, Incident, ModelVersion, PromotionRequest
from app.models.runs import ACTIVE, FINAL, Checkpoint, Run, RunEvent, RunStatus, Snapshot, Worker
from app.models.suites import (
    Endpoint,
    EvalJob,
    JudgeVerdict,
    Suite,
    SuiteResult,
    SuiteSample,
    SuiteSampleResult,
    SuiteVersion,
)

__all__ = [
    "ACTIVE",
    "FINAL",
    "AbItem",
    "AbTest",
    "AbVote",
    "Alias",
    "AnnotationQueue",
    "AnnotationSlot",
    "ApiKey",
    "AuditEntry",
    "Checkpoint",
    "Comparison",
    "ComparisonArm",
    "Completion",
    "Endpoint",
    "EvalJob",
    "Evaluation",
    "EvaluationAlarm",
    "EvaluationCategory",
    "EvaluationSample",
    "Export",
    "GatePolicy",
    "Import",
    "Incident",
    "JudgeVerdict",
    "LoginLink",
    "LoginSession",
    "Membership",
    "ModelVersion",
    "Project",
    "PromotionRequest",
    "Prompt",
    "Rating",
    "Role",
    "Run",
    "RunEvent",
    "RunStatus",
    "Snapshot",
    "Suite",
    "SuiteResult",
    "SuiteSample",
    "SuiteSampleResult",
    "SuiteVersion",
    "User",
    "Worker",
]

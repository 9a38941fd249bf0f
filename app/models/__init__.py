"""Every table, so that one import fills the metadata."""

from app.models.accounts import ApiKey, AuditEntry, LoginLink, LoginSession, Membership, Project, Role, User
from app.models.evaluations import Evaluation, EvaluationCategory, EvaluationSample
from app.models.feedback import AnnotationQueue, AnnotationSlot, Completion, Import, Prompt, Rating
from app.models.registry import Alias, Export, ModelVersion
from app.models.runs import ACTIVE, FINAL, Checkpoint, Run, RunEvent, RunStatus, Snapshot, Worker

__all__ = [
    "ACTIVE",
    "FINAL",
    "Alias",
    "AnnotationQueue",
    "AnnotationSlot",
    "ApiKey",
    "AuditEntry",
    "Checkpoint",
    "Completion",
    "Evaluation",
    "EvaluationCategory",
    "EvaluationSample",
    "Export",
    "Import",
    "LoginLink",
    "LoginSession",
    "Membership",
    "ModelVersion",
    "Project",
    "Prompt",
    "Rating",
    "Role",
    "Run",
    "RunEvent",
    "RunStatus",
    "Snapshot",
    "User",
    "Worker",
]

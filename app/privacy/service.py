"""A project's privacy settings, and what its page shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phonenumbers import SUPPORTED_REGIONS
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.errors import InvalidError, NotFoundError
from app.core.pagination import Page, page_of
from app.feedback import pii
from app.models import Erasure, Project, Run, Snapshot, User
from app.privacy import snapshots
from app.privacy.targets import KINDS, RATER, RETENTION, Target, look

KIND_WORDS = {
    "email": "E-mail addresses",
    "phone": "Phone numbers",
    "card": "Payment cards",
    "iban": "Bank accounts (IBAN)",
    "ip": "Network addresses",
    "ssn": "US social security numbers",
    "secret": "Passwords and keys",
}
ASKABLE = tuple(kind for kind in KINDS if kind != RETENTION)
MAX_DAYS = 36_500
MAX_REGIONS = 5
MAX_TRIED = 20_000
_SCANNED_BYTES = 200 * 2**20


def settings_of(project: Project) -> dict[str, Any]:
    policy = pii.policy_of(project)
    days = (project.settings or {}).get("privacy", {}).get("retention_days")
    kinds = [kind for kind in pii.KINDS if kind in policy.kinds]
    return {"mode": policy.mode, "kinds": kinds, "regions": ", ".join(policy.regions), "retention_days": days or ""}


def save_settings(
    db: Session, project: Project, *, mode: str, kinds: Sequence[str], regions: str, retention_days: str, user: User
) -> None:
    """From now on; what is stored stays as it is. Raises InvalidError."""
    fields: dict[str, str] = {}
    countries = _countries(regions)
    if mode not in pii.MODES:
        fields["mode"] = "off, flag or redact"
    chosen = [kind for kind in pii.KINDS if kind in kinds]
    if mode != "off" and not chosen:
        fields["kinds"] = "At least one, or choose not to look at all"
    if unknown := [country for country in countries if country not in SUPPORTED_REGIONS]:
        fields["regions"] = f"{unknown[0][:20]} is no country code of two letters, such as US or DE"
    elif len(countries) > MAX_REGIONS:
        fields["regions"] = f"At most {MAX_REGIONS}: each makes more numbers look like phone numbers"
    days = retention_days.strip()
    if days and not (days.isdecimal() and len(days) <= 5 and 1 <= int(days) <= MAX_DAYS):
        fields["retention_days"] = f"1 to {MAX_DAYS:,} days, or empty to keep everything"
    if fields:
        raise InvalidError("Nothing was saved.", fields=fields)
    section: dict[str, Any] = {
        "mode": mode,
        "kinds": chosen or list(pii.DEFAULT_KINDS),
        "regions": countries or list(pii.DEFAULT_REGIONS),
    }
    if days:
        section["retention_days"] = int(days)
    project.settings = {**(project.settings or {}), "privacy": section}
    db.flush()
    audit.record(db, "privacy.changed", project_id=project.id, user_id=user.id, **section)


def _countries(text: str) -> list[str]:
    return list(dict.fromkeys(part.upper() for part in re.split(r"[,\s]+", text.strip()) if part))


@dataclass(frozen=True, slots=True)
class Tried:
    """What the settings on the page would do with a text."""

    text: str
    redacted: str
    counts: dict[str, int]


def try_out(text: str, kinds: Sequence[str], regions: str) -> Tried:
    text = text[:MAX_TRIED]
    known = [country for country in _countries(regions) if country in SUPPORTED_REGIONS][:MAX_REGIONS]
    findings = pii.find(text, [kind for kind in pii.KINDS if kind in kinds], known or pii.DEFAULT_REGIONS)
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.kind] = counts.get(finding.kind, 0) + 1
    return Tried(text, pii.replaced(text, findings), counts)


@dataclass(frozen=True, slots=True)
class Preview:
    kind: str
    who: str
    counts: dict[str, int]
    num_snapshots: int | None
    """None: their files are too large to be read for a page."""
    runs: list[str]

    @property
    def is_empty(self) -> bool:
        return not any(self.counts.values())


def preview(db: Session, project: Project, kind: str, who: str) -> Preview:
    """What an erasure would take. Raises InvalidError."""
    who = who if kind == RATER else who.strip()
    if kind not in ASKABLE:
        raise InvalidError("Nothing was erased.", fields={"kind": "rater, subject or completion"})
    if not who or len(who) > 200 or "\x00" in who:
        raise InvalidError("Nothing was erased.", fields={"who": "1 to 200 characters"})
    if kind == "completion" and not (who.isdecimal() and len(who) < 19):
        raise InvalidError("Nothing was erased.", fields={"who": "The number of a completion, as in its address"})
    found = look(db, project, Target(kind, who))
    rows = list(db.scalars(select(Snapshot).where(Snapshot.project_id == project.id)))
    if sum(row.size_bytes for row in rows) > _SCANNED_BYTES and found.keys:
        return Preview(kind, who, found.counts, None, [])
    hit = [row.id for row in rows if found.keys and snapshots.num_hits(row, found.keys)]
    runs = db.scalars(select(Run.name).where(Run.snapshot_id.in_(hit), Run.step > 0).order_by(Run.id)).all()
    return Preview(kind, who, found.counts, len(hit), list(runs))


def erasures(db: Session, project: Project, before_id: int | None = None, limit: int = 20) -> Page[Erasure]:
    query = select(Erasure).where(Erasure.project_id == project.id)
    if before_id is not None:
        query = query.where(Erasure.id < before_id)
    return page_of(db.scalars(query.order_by(Erasure.id.desc()).limit(limit + 1)).all(), limit, lambda row: row.id)


def find_erasure(db: Session, project: Project, erasure_id: int) -> Erasure:
    """Raises NotFoundError, also for another project's."""
    where = (Erasure.project_id == project.id, Erasure.id == erasure_id)
    row = db.scalar(select(Erasure).where(*where)) if 0 < erasure_id < 2**31 else None
    if row is None:
        raise NotFoundError("There is no such erasure in this project.")
    return row

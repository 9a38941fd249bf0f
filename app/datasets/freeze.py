"""Freeze a snapshot: stream the labels out of PostgreSQL once, in canonical order, into read-only files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, and_, func, select
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.errors import InvalidError
from app.core.storage import artifact_path, artifacts_root, require_free_space
from app.datasets import files
from app.datasets.labels import CONFLICT, DROPPED, DUPLICATE, KEPT, TIE, judged, verdicts
from app.datasets.rules import load_rule, rule_facts
from app.datasets.splits import SIDES, Side, side_of
from app.models import Completion, Project, Prompt, Snapshot, User

MIN_LABELS = 10
"""Below this a run would learn single answers; the launch form's smallest microbatches need it as well."""
LOCK_SPACE = 0x6B74
"""Advisory lock: with the project's id, held while its labels are frozen or erased."""
_DISK_MARGIN = 64 * 2**20
_ROW_OVERHEAD = 400


@dataclass(frozen=True, slots=True)
class Frozen:
    snapshot: Snapshot
    is_new: bool
    """False: the same content had been frozen before, and that snapshot is returned."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What was written to the draft folder."""

    digest: str
    counts: dict[str, Any]
    files: dict[str, dict[str, Any]]


def freeze(db: Session, project: Project, user: User | None) -> Frozen:
    """Write the project's labels as they are now. Raises InvalidError where they are unfit, UnavailableError without space."""
    db.execute(select(func.pg_advisory_xact_lock(LOCK_SPACE, project.id)))
    rule = rule_facts(db, project, load_rule(project))
    size = check_fitness(db, project)
    require_free_space(artifacts_root(), size + _DISK_MARGIN)
    with files.draft_folder() as folder:
        draft = _write_rows(db, project, folder)
        _refuse_unfit(draft.counts)
        totals = {side: draft.counts[side] for side in SIDES}
        manifest = {"format": 1, "hash": draft.digest, "counts": totals, "rule": rule, "files": draft.files}
        written = files.write_manifest(folder, manifest) + sum(file["bytes"] for file in draft.files.values())
        relative = f"snapshots/{draft.digest[:16]}"
        files.put_in_place(folder, artifact_path(relative), draft.digest)
    known = db.scalar(select(Snapshot).where(Snapshot.project_id == project.id, Snapshot.content_hash == draft.digest))
    if known is not None:
        return Frozen(known, is_new=False)
    snapshot = Snapshot(
        project_id=project.id,
        content_hash=draft.digest,
        rule=rule,
        path=relative,
        counts=draft.counts,
        size_bytes=written,
        created_by=user.id if user else None,
    )
    db.add(snapshot)
    db.flush()
    audit.record(
        db,
        "snapshot.frozen",
        project_id=project.id,
        user_id=user.id if user else None,
        subject=draft.digest[:16],
        counts=draft.counts,
    )
    return Frozen(snapshot, is_new=True)


def check_fitness(db: Session, project: Project) -> int:
    """Cheap look before anything is written; returns the bytes that the files will need at most. Raises InvalidError."""
    rows = judged(verdicts(project), project)
    label = func.count().filter(rows.c.label)
    query = select(label, func.count().filter(~rows.c.label), func.coalesce(func.sum(rows.c.size), 0))
    desirable, undesirable, size = map(int, db.execute(query.where(rows.c.status == KEPT)).one())
    refuse_counts(desirable, undesirable)
    return size * 5 // 4 + (desirable + undesirable) * _ROW_OVERHEAD


def refuse_counts(desirable: int, undesirable: int) -> None:
    """Raises InvalidError with what is missing and what to do."""
    total = desirable + undesirable
    if total == 0:
        raise InvalidError(
            "There are no labels yet, so there is nothing to freeze.",
            remedy="Import a file, connect an app or rate some completions on the annotation page.",
        )
    if desirable == 0 or undesirable == 0:
        only, other = ("desirable", "undesirable") if desirable else ("undesirable", "desirable")
        raise InvalidError(
            f"All {total:,} labels are {only}: KTO needs both classes.", remedy=f"Collect some {other} ratings first."
        )
    if total < MIN_LABELS:
        raise InvalidError(
            f"There are {total} labels, a snapshot needs at least {MIN_LABELS}.",
            remedy="Rate or import more completions.",
        )


def _refuse_unfit(counts: dict[str, Any]) -> None:
    """The same again on what was really written, and per side. Raises InvalidError."""
    labels = {name: sum(counts[side][name] for side in SIDES) for name in ("desirable", "undesirable")}
    refuse_counts(labels["desirable"], labels["undesirable"])
    train = counts["train"]
    if not train["desirable"] or not train["undesirable"]:
        raise InvalidError(
            "The train split has one class only: the other class's few conversations are all held out.",
            remedy="Collect ratings on more conversations.",
        )
    if not counts["dev"]["desirable"] + counts["dev"]["undesirable"]:
        raise InvalidError(
            "No conversation fell into the dev split, on which checkpoints are measured.",
            remedy="Collect ratings on more conversations: one in ten is held out for it.",
        )


def _stream(db: Session, project: Project) -> Iterator[Row[Any]]:
    """Every judged completion in canonical order, through a server-side cursor: memory stays flat.

    One statement, so kept rows and dropped ones are counted at the same instant. Messages come with kept rows only.
    """
    rows = judged(verdicts(project), project)
    query = (
        select(
            rows.c.status,
            rows.c.label,
            rows.c.adjudicated,
            rows.c.root,
            rows.c.category,
            rows.c.finish_reason,
            rows.c.prompt_key,
            Prompt.messages.label("prompt"),
            Completion.messages.label("completion"),
        )
        .select_from(rows)
        .outerjoin(Completion, and_(Completion.id == rows.c.completion_id, rows.c.status == KEPT))
        .outerjoin(Prompt, Prompt.id == Completion.prompt_id)
        .order_by(rows.c.root.collate("C"), rows.c.prompt_key, rows.c.answer_key)
    )
    yield from db.execute(query, execution_options={"stream_results": True, "yield_per": 500})


def _write_rows(db: Session, project: Project, folder: Path) -> Draft:
    dropped: Counter[str] = Counter()
    categories: set[str] = set()
    cut = number = adjudicated = 0
    last_root: str | None = None
    last_prompt: tuple[str, bytes] | None = None
    side: Side = "train"
    with files.open_sides(folder) as sides:
        for row in _stream(db, project):
            if row.status != KEPT:
                dropped[row.status] += 1
                continue
            number += 1
            if row.root != last_root:
                last_root, side = row.root, side_of(row.root, project.split_salt)
                sides[side].roots += 1
            if (row.root, row.prompt_key) != last_prompt:
                last_prompt = (row.root, row.prompt_key)
                sides[side].prompts += 1
            if row.category is not None:
                categories.add(row.category)
            cut += row.finish_reason == "length"
            adjudicated += row.adjudicated
            sides[side].write(_record(number, row))
    digests = {name: file.digest.hexdigest() for name, file in sides.items()}
    counts: dict[str, Any] = {name: file.counts for name, file in sides.items()}
    counts["categories"] = len(categories)
    counts["cut"] = cut
    always = (TIE, CONFLICT, DUPLICATE)
    counts["dropped"] = {name: dropped[key] for key, name in DROPPED.items() if key in always or dropped[key]}
    if adjudicated:
        counts["adjudicated"] = adjudicated
    listed = {
        files.file_name(name): {
            "sha256": digests[name],
            "bytes": file.size,
            "rows": file.desirable + file.undesirable,
        }
        for name, file in sides.items()
    }
    return Draft(files.hash_of_sides({str(name): value for name, value in digests.items()}), counts, listed)


def _record(number: int, row: Row[Any]) -> dict[str, Any]:
    """``id`` is the row's number in canonical order: the same content has the same ids in any database."""
    return {
        "id": number,
        "prompt": row.prompt,
        "completion": row.completion,
        "label": row.label,
        "category": row.category,
        "root": row.root,
        "finish_reason": row.finish_reason,
    }

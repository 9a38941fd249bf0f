"""Personal data in what is stored already: looked for in batches, written to the completions as counts. No text is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from sqlalchemy import Integer, String, cast, func, select, update
from sqlalchemy.orm import Session

from app.core.db import session_scope
from app.core.queue import enqueue
from app.feedback.pii import Policy, policy_of, screen_values
from app.models import Completion, Project, Prompt

TASK = "worker.tasks.privacy.scan"
_BATCH = 500


def ask(db: Session, project: Project) -> None:
    enqueue(db, TASK, project.id)


def scan(project_id: int) -> int:
    """Look at every completion that has not been looked at; returns how many. Goes on where a killed one stopped."""
    looked, last = 0, 0
    while True:
        with session_scope() as db:
            project = db.get_one(Project, project_id)
            policy = policy_of(project)
            looking = Policy("flag", policy.kinds, policy.regions)
            query = (
                select(Completion.id, Completion.messages, Completion.extra, Prompt.messages)
                .join(Prompt, Prompt.id == Completion.prompt_id)
                .where(Completion.project_id == project_id, Completion.id > last, Completion.pii.is_(None))
                .order_by(Completion.id)
                .limit(_BATCH)
            )
            rows = db.execute(query).all()
            for key, answer, extra, prompt in rows:
                _, counts = screen_values(looking, {"prompt": prompt, "completion": answer, "metadata": extra})
                db.execute(update(Completion).where(Completion.id == key).values(pii=counts))
        if not rows:
            return looked
        looked, last = looked + len(rows), rows[-1][0]


def findings(db: Session, project: Project) -> tuple[Mapping[str, tuple[int, int]], int, int]:
    """Kind -> (completions, places); completions that were looked at; those that were not."""
    each = func.jsonb_each_text(Completion.pii).table_valued("key", "value")
    query = (
        select(cast(each.c.key, String), func.count(), func.sum(cast(each.c.value, Integer)))
        .select_from(Completion)
        .join(each, Completion.pii.is_not(None))
        .where(Completion.project_id == project.id)
        .group_by(each.c.key)
    )
    found = {kind: (completions, int(places)) for kind, completions, places in db.execute(query)}
    totals = db.execute(
        select(func.count(Completion.pii), func.count()).where(Completion.project_id == project.id)
    ).one()
    ordered = dict(sorted(found.items(), key=lambda item: -Counter({item[0]: item[1][0]})[item[0]]))
    return ordered, int(totals[0]), int(totals[1] - totals[0])

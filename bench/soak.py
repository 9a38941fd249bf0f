"""Soak: clients post with retries and annotators label while web and worker processes are killed with SIGKILL.

    make bench NAME=soak                10 minutes
    SECONDS=30 python -m bench.soak     as long as you say
    python -m bench.soak                the same as make, from an environment of your own

Afterwards, in PostgreSQL: every acknowledged event is there exactly once (the current verdict of a client is the last
acknowledged one or a later attempt of the same client), no item was labelled by more people than asked, no answer was a
5xx, and no claim outlives its lease.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import text

from bench.report import Row, main, row
from bench.soak_people import Annotators, Clients, Tally
from bench.soak_processes import Fleet, ready_project
from bench.studio import studio

KILL_EVERY = 4.0
CLIENTS, ANNOTATORS = 6, 4
OVERLAP = 2


@dataclass
class Result:
    seconds: float = 0.0
    kills: int = 0
    tally: Tally = field(default_factory=Tally)
    wrong: dict[str, int] = field(default_factory=dict)
    """What must be 0, counted."""
    notes: list[str] = field(default_factory=list)


def soak(seconds: float, *, kill_every: float = KILL_EVERY, seed: int = 7) -> Result:
    """Run it inside a throw-away installation. The calling thread must outlive it: the services die with that thread."""
    result = Result()
    with studio():
        project = ready_project(ANNOTATORS, OVERLAP)
        with Fleet() as fleet:
            fleet.wait_until_up()
            clients = Clients(fleet.addresses, project, CLIENTS, result.tally, seed)
            annotators = Annotators(fleet.addresses, project, result.tally, seed)
            started = time.monotonic()
            clients.start()
            annotators.start()
            result.kills = _kill(fleet, started + seconds, kill_every, random.Random(seed))
            result.seconds = time.monotonic() - started
            fleet.wait_until_up()
            annotators.stop()
            clients.stop()  # each goes on until its last event is acknowledged
            _check(result, clients, project.project_id)
    return result


def _kill(fleet: Fleet, until: float, every: float, chance: random.Random) -> int:
    kills = 0
    while time.monotonic() < until:
        pause = time.monotonic() + every * chance.uniform(0.5, 1.5)
        while time.monotonic() < min(pause, until):
            fleet.restart_ended()
            time.sleep(0.1)
        if time.monotonic() < until:
            fleet.kill(chance.choice(fleet.names))
            kills += 1
    fleet.restart_ended()
    return kills


def _check(result: Result, clients: Clients, project_id: int) -> None:
    from app.core.db import session_scope

    with session_scope() as db:

        def ask(statement: str) -> int:
            return int(db.execute(text(statement), {"project": project_id}).scalar_one())

        current = {
            (rater, output): value
            for rater, output, value in db.execute(
                text(
                    "SELECT r.rater, c.external_id, r.value FROM ratings r JOIN completions c ON c.id = r.completion_id "
                    "WHERE r.project_id = :project AND r.is_current AND r.source <> 'annotation'"
                ),
                {"project": project_id},
            )
        }
        for event in clients.events:
            stored = current.get((event.rater, event.output))
            if event.acknowledged is not None and stored is None:
                result.wrong["lost"] = result.wrong.get("lost", 0) + 1
                result.notes.append(f"lost: {event}")
            elif event.acknowledged is not None and stored not in event.allowed:
                result.wrong["stale"] = result.wrong.get("stale", 0) + 1
                result.notes.append(f"stale: {event} but {stored}")
        result.wrong.setdefault("lost", 0)
        result.wrong.setdefault("stale", 0)
        result.wrong["doubled"] = ask(
            "SELECT count(*) FROM (SELECT 1 FROM ratings WHERE project_id = :project AND is_current "
            "GROUP BY source, rater, completion_id HAVING count(*) > 1) d"
        ) + ask(
            "SELECT count(*) FROM (SELECT 1 FROM completions WHERE project_id = :project AND external_id IS NOT NULL "
            "GROUP BY external_id HAVING count(*) > 1) d"
        )
        result.wrong["still pending"] = ask("SELECT count(*) FROM pending_feedback WHERE project_id = :project")
        result.wrong["labelled by too many"] = ask(
            "SELECT count(*) FROM (SELECT r.completion_id FROM ratings r WHERE r.project_id = :project AND r.is_current "
            f"AND r.source = 'annotation' GROUP BY r.completion_id HAVING count(DISTINCT r.rater) > {OVERLAP}) d"
        )
        result.wrong["two slots of one person"] = ask(
            "SELECT count(*) FROM (SELECT 1 FROM annotation_slots s JOIN annotation_queues q ON q.id = s.queue_id "
            "WHERE q.project_id = :project AND s.done_by IS NOT NULL AND s.gold_id IS NULL "
            "GROUP BY s.completion_id, s.queue_id, s.done_by HAVING count(*) > 1) d"
        )
        result.wrong["claims without an end"] = ask(
            "SELECT count(*) FROM annotation_slots s JOIN annotation_queues q ON q.id = s.queue_id WHERE q.project_id = :project "
            "AND s.done_at IS NULL AND s.claimed_by IS NOT NULL AND (s.claimed_until IS NULL OR s.claimed_until > now() + interval '5 minutes 1 second')"
        )
        result.wrong["counts that disagree"] = ask(
            "SELECT count(*) FROM completion_votes v CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE r.value) AS ups, "
            "count(*) FILTER (WHERE NOT r.value) AS downs FROM ratings r WHERE r.completion_id = v.completion_id AND r.is_current) c "
            "WHERE v.project_id = :project AND (v.ups, v.downs) IS DISTINCT FROM (c.ups, c.downs)"
        )
        stored_verdicts = ask(
            "SELECT count(*) FROM ratings WHERE project_id = :project AND source = 'annotation' AND is_current"
        )
        result.wrong["annotators' verdicts lost"] = max(result.tally.verdicts - stored_verdicts, 0)
    result.wrong["5xx"] = result.tally.server_errors


def measure(quick: bool) -> Sequence[Row]:
    seconds = float(os.environ.get("SECONDS") or (30 if quick else 600))
    result = soak(seconds)
    for note in [*result.notes[:20], *result.tally.notes[:20]]:
        print(note, file=sys.stderr)
    rows = [
        row("processes killed", "kills", [result.kills]),
        row("events acknowledged", "events", [result.tally.acknowledged]),
        row("attempts without an answer", "requests", [result.tally.retries]),
        row("verdicts of annotators", "verdicts", [result.tally.verdicts]),
    ]
    return [*rows, *(row(name, "found", [float(count)], at_most=0) for name, count in result.wrong.items())]


if __name__ == "__main__":
    raise SystemExit(main("soak", measure))

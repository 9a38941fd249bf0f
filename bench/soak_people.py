"""Who uses the product during a soak: apps that retry until they are answered, annotators who label over HTTP."""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.soak_processes import Person, Ready

_SLOT = re.compile(r'data-slot="(\d+)"')
_TIMEOUT = 15.0


@dataclass
class Tally:
    acknowledged: int = 0
    retries: int = 0
    verdicts: int = 0
    server_errors: int = 0
    notes: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **counts: int) -> None:
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def server_error(self, answer: httpx.Response) -> None:
        """503 with Retry-After says that nothing was done and when to come again: that is an answer, no failure."""
        if answer.status_code == 503 and "retry-after" in answer.headers:
            return
        self.add(server_errors=1)
        with self.lock:
            self.notes.append(
                f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:300]}"
            )


@dataclass
class Event:
    """One thumb of one rater on one output, said once or several times."""

    rater: str
    output: str
    acknowledged: bool | None = None
    """The last verdict that was answered with 2xx."""
    allowed: set[bool] = field(default_factory=set)
    """What may be stored: that one, or one tried after it without an answer."""


class _Threads:
    def __init__(self, addresses: Sequence[str], tally: Tally) -> None:
        self.addresses, self.tally = addresses, tally
        self.done = threading.Event()
        self._threads: list[threading.Thread] = []

    def _run(self, *targets: Any) -> None:
        self._threads = [threading.Thread(target=target, args=args, daemon=True) for target, *args in targets]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.done.set()
        for thread in self._threads:
            thread.join(120)
        if any(thread.is_alive() for thread in self._threads):
            self.tally.notes.append("a thread did not end")
            self.tally.add(server_errors=1)


class Clients(_Threads):
    """Apps: each posts its own outputs and thumbs, in four ways, and retries the same request until it is answered."""

    def __init__(self, addresses: Sequence[str], project: Ready, count: int, tally: Tally, seed: int) -> None:
        super().__init__(addresses, tally)
        self._project, self._count, self._seed = project, count, seed
        self.events: list[Event] = []

    def start(self) -> None:
        self._run(*((self._client, number) for number in range(self._count)))

    def _client(self, number: int) -> None:
        chance = random.Random(self._seed * 1000 + number)
        with httpx.Client(headers={"authorization": f"Bearer {self._project.key}"}, timeout=_TIMEOUT) as http:
            for turn in itertools.count():
                if self.done.is_set():
                    return
                event = Event(f"rater-{number}", f"out-{number}-{turn}")
                with self.tally.lock:
                    self.events.append(event)
                (self._post_keyed, self._pending_first, self._put_twice, self._batch)[turn % 4](http, event, chance)
                self._unlabelled(http, f"todo-{number}-{turn}", chance) if turn % 8 == 0 else None

    def _post_keyed(self, http: httpx.Client, event: Event, chance: random.Random) -> None:
        value = chance.random() < 0.5
        self._say(
            http,
            event,
            value,
            "POST",
            "/feedback",
            _item(event, value),
            {"idempotency-key": f"k-{event.output}"},
            chance,
        )

    def _pending_first(self, http: httpx.Client, event: Event, chance: random.Random) -> None:
        """The thumb comes before the output that it is on."""
        value = chance.random() < 0.5
        thumb = {"completion_id": event.output, "rater": event.rater, "label": value}
        self._say(http, event, value, "POST", "/feedback", thumb, {}, chance)
        self._unlabelled(http, event.output, chance)

    def _put_twice(self, http: httpx.Client, event: Event, chance: random.Random) -> None:
        """Up, then down, then perhaps up again, under one id."""
        self._unlabelled(http, event.output, chance)
        for value in (True, False, True)[: chance.choice((2, 3))]:
            thumb = {"completion_id": event.output, "rater": event.rater, "label": value}
            self._say(http, event, value, "PUT", f"/feedback/soak/fb-{event.output}", thumb, {}, chance)

    def _batch(self, http: httpx.Client, event: Event, chance: random.Random) -> None:
        value = chance.random() < 0.5
        self._say(http, event, value, "POST", "/feedback/batch", {"items": [_item(event, value)]}, {}, chance)

    def _unlabelled(self, http: httpx.Client, output: str, chance: random.Random) -> None:
        item = {key: value for key, value in _item(Event("", output), True).items() if key not in {"rater", "label"}}
        self._until_answered(http, "POST", "/feedback", item, {}, chance)

    def _say(
        self,
        http: httpx.Client,
        event: Event,
        value: bool,
        method: str,
        path: str,
        body: Any,
        headers: dict[str, str],
        chance: random.Random,
    ) -> None:
        event.allowed.add(value)
        if self._until_answered(http, method, path, body, headers, chance):
            event.acknowledged = value
            event.allowed = {value}
            self.tally.add(acknowledged=1)

    def _until_answered(
        self, http: httpx.Client, method: str, path: str, body: Any, headers: dict[str, str], chance: random.Random
    ) -> bool:
        for attempt in range(1_000):
            try:
                answer = http.request(
                    method, f"{chance.choice(self.addresses)}/api/v1{path}", json=body, headers=headers
                )
            except httpx.HTTPError:
                self.tally.add(retries=1)
                time.sleep(0.05)
                continue
            if answer.is_success:
                failed = answer.status_code == 200 and answer.json().get("errors")
                if not failed:
                    return True
                with self.tally.lock:
                    self.tally.notes.append(f"{path}: {answer.text[:300]}")
                return False
            if answer.status_code >= 500:
                self.tally.server_error(answer)
            elif answer.status_code not in {409, 429}:
                with self.tally.lock:
                    self.tally.notes.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
                self.tally.add(server_errors=1)
                return False
            time.sleep(min(0.05 * (attempt + 1), 1))
        return False


class Annotators(_Threads):
    """People at the annotation page: claim, decide, claim, on whichever server answers."""

    def __init__(self, addresses: Sequence[str], project: Ready, tally: Tally, seed: int) -> None:
        super().__init__(addresses, tally)
        self._project, self._seed = project, seed

    def start(self) -> None:
        self._run(*((self._person, person, number) for number, person in enumerate(self._project.people)))

    def _person(self, person: Person, number: int) -> None:
        chance = random.Random(self._seed * 77 + number)
        page = f"/p/{self._project.slug}/annotate/{self._project.queue}"
        headers = {"x-csrf-token": person.csrf, "x-annotate-part": "1", "cookie": f"kto_session={person.cookie}"}
        with httpx.Client(headers=headers, timeout=_TIMEOUT) as http:
            while not self.done.is_set():
                claimed = self._ask(http, f"{page}/claim", {}, chance)
                slots = list(dict.fromkeys(_SLOT.findall(claimed.text))) if claimed is not None else []
                if not slots:
                    time.sleep(0.2)
                    continue
                form = {"slot": slots[0], "value": chance.choice(("up", "up", "down")), "took_ms": "900"}
                saved = self._ask(http, f"{page}/verdict", form, chance)
                if saved is not None and saved.is_success:
                    self.tally.add(verdicts=1)
                if chance.random() < 0.1:
                    self._ask(http, f"{page}/heartbeat", {}, chance)

    def _ask(self, http: httpx.Client, path: str, form: dict[str, str], chance: random.Random) -> httpx.Response | None:
        try:
            answer = http.post(f"{chance.choice(self.addresses)}{path}", data=form)
        except httpx.HTTPError:
            self.tally.add(retries=1)
            time.sleep(0.05)
            return None
        if answer.status_code >= 500:
            self.tally.server_error(answer)
        elif answer.status_code >= 400 and answer.status_code != 409:
            with self.tally.lock:
                self.tally.notes.append(f"{path}: {answer.status_code} {answer.text[:200]}")
        return answer


def _item(event: Event, value: bool) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": f"Where is the parcel of {event.output}?"}],
        "completion": f"The parcel of {event.output} is on its way.",
        "completion_id": event.output,
        "model": "helpdesk-7",
        "category": "parcels",
        "rater": event.rater,
        "label": value,
    }

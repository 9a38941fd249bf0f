"""Any sequence of calls of the feedback API leaves what a plain model of its rules leaves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine

from app.accounts.keys import create_key
from app.core.db import session_scope
from app.models import Project

_numbers = itertools.count(1)
_PAST = datetime(2026, 1, 1, tzinfo=UTC)
OUTPUTS = ("o1", "o2", "o3")
Key = tuple[str, str]
"""The app's id of the output, and the rater."""


@dataclass
class Word:
    """A rater's current word on an output."""

    up: bool
    at: tuple[int, int]
    """(0, days) where it was said, (1, number of the call) where the server's clock counts: this is later than all said."""
    own_id: str | None
    comment: str | None
    reasons: list[str] | None


@dataclass
class Model:
    """The rules, in as few words as possible."""

    here: set[str] = field(default_factory=set)
    """Outputs that have come."""
    words: dict[Key, Word] = field(default_factory=dict)
    waiting: dict[Key, Word] = field(default_factory=dict)
    calls: int = 0

    def owner(self, own_id: str | None) -> Key | None:
        both = {**self.words, **self.waiting}
        return next((key for key, word in both.items() if own_id and word.own_id == own_id), None)

    def say(self, thumb: dict[str, Any], *, put: bool) -> str:
        """created, updated, unchanged, pending, or error."""
        self.calls += 1
        output, own_id = thumb["completion_id"], thumb.get("external_id")
        owner = self.owner(own_id)
        is_here = output in self.here
        of_owner = owner[1] if owner and (owner[0] == output or (not is_here and owner in self.waiting)) else None
        rater = thumb.get("rater") or of_owner or (f"feedback:{own_id}" if own_id else f"output:{output}")
        key, shelf = (output, rater), self.words if is_here else self.waiting
        before = shelf.get(key)
        if own_id and owner not in (None, key):
            return "error"
        if put and before and before.own_id not in (None, own_id):
            return "error"
        at = (0, thumb["day"]) if "day" in thumb else (1, self.calls)
        word = Word(thumb["up"], at, own_id, thumb.get("comment"), thumb.get("reasons"))
        outcome = "created"
        if before is not None:
            if at < before.at and "day" in thumb:
                return "unchanged" if is_here else "pending"
            if is_here and not self._says_more(word, before, put=put):
                return "unchanged"
            word.own_id = own_id or before.own_id
            if word.up == before.up:
                word.comment = before.comment if word.comment is None else word.comment
                word.reasons = before.reasons if word.reasons is None else word.reasons
            outcome = "updated"
        shelf[key] = word
        return outcome if is_here else "pending"

    @staticmethod
    def _says_more(word: Word, before: Word, *, put: bool) -> bool:
        return (
            word.up != before.up
            or (word.comment is not None and word.comment != before.comment)
            or (word.reasons is not None and word.reasons != (before.reasons or []))
            or (put and word.own_id is not None and word.own_id != before.own_id)
        )

    def take_back(self, own_id: str) -> None:
        for shelf in (self.words, self.waiting):
            for key in [key for key, word in shelf.items() if word.own_id == own_id]:
                del shelf[key]

    def arrive(self, output: str) -> None:
        self.here.add(output)
        for key in [key for key in self.waiting if key[0] == output]:
            self.words[key] = self.waiting.pop(key)


THUMBS = st.fixed_dictionaries(
    {"completion_id": st.sampled_from(OUTPUTS), "up": st.booleans()},
    optional={
        "rater": st.sampled_from(("ada", "bo")),
        "external_id": st.sampled_from(("f1", "f2", "f3")),
        "day": st.integers(0, 3),
        "comment": st.sampled_from(("", "good", "bad")),
        "reasons": st.sampled_from(([], ["clear"])),
    },
)


def _sent(thumb: dict[str, Any]) -> dict[str, Any]:
    """As the API takes it: at a time of that day."""
    said = {name: value for name, value in thumb.items() if name != "day"}
    if "day" in thumb:
        said["occurred_at"] = (_PAST + timedelta(days=thumb["day"])).isoformat()
    return said


class Feedback(RuleBasedStateMachine):
    app: TestClient

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        with session_scope() as db:
            project = Project(slug=f"machine-{next(_numbers)}", name="Machine", split_salt="salt")
            db.add(project)
            db.flush()
            key, token = create_key(db, project, "shop")
            key.rate_per_minute = 1_000_000
        self.headers = {"Authorization": f"Bearer {token}"}

    def _call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        answer = self.app.request(method, f"/api/v1{path}", json=body, headers={**self.headers, **headers})
        assert answer.status_code < 500, answer.text
        return answer

    def _agrees(self, answer: Any, expected: str) -> None:
        status = {"created": (201,), "updated": (200,), "unchanged": (200,), "pending": (202,), "error": (409, 422)}
        assert answer.status_code in status[expected], (expected, answer.status_code, answer.text)
        if expected != "error":
            assert answer.json()["status"] == expected

    @rule(thumb=THUMBS)
    def post(self, thumb: dict[str, Any]) -> None:
        expected = self.model.say(thumb, put=False)
        self._agrees(self._call("POST", "/feedback", _sent(thumb)), expected)

    @rule(thumb=THUMBS, own_id=st.sampled_from(("f1", "f2", "f3")))
    def put(self, thumb: dict[str, Any], own_id: str) -> None:
        named = {**thumb, "external_id": own_id}
        expected = self.model.say(named, put=True)
        body = {name: value for name, value in _sent(named).items() if name != "external_id"}
        answer = self._call("PUT", f"/feedback/shop/{own_id}", body)
        self._agrees(answer, expected)
        assert expected != "error" or answer.status_code == 409

    @rule(own_id=st.sampled_from(("f1", "f2", "f3")))
    def delete(self, own_id: str) -> None:
        self.model.take_back(own_id)
        assert self._call("DELETE", f"/feedback/shop/{own_id}").status_code == 204

    @rule(thumbs=st.lists(THUMBS, min_size=1, max_size=5))
    def batch(self, thumbs: list[dict[str, Any]]) -> None:
        """Thumbs on outputs that have not come are taken before the others."""
        expected: dict[int, str] = {}
        for is_here in (False, True):
            for index, thumb in enumerate(thumbs):
                if (thumb["completion_id"] in self.model.here) == is_here:
                    expected[index] = self.model.say(thumb, put=False)
        answer = self._call("POST", "/feedback/batch", {"items": [_sent(thumb) for thumb in thumbs]})
        assert answer.status_code == 200
        assert [item["status"] for item in answer.json()["items"]] == [expected[index] for index in range(len(thumbs))]

    @rule(output=st.sampled_from(OUTPUTS))
    def output_arrives(self, output: str) -> None:
        item = {"prompt": "How?", "completion": f"So {output}.", "external_id": output}
        answer = self._call("POST", "/completions/batch", {"items": [item]})
        status = "unchanged" if output in self.model.here else "created"
        assert answer.json()["items"][0]["status"] == status
        self.model.arrive(output)

    @rule(thumb=THUMBS)
    def post_twice_under_one_key(self, thumb: dict[str, Any]) -> None:
        expected = self.model.say(thumb, put=False)
        key = {"Idempotency-Key": f"key-{next(_numbers)}"}
        first = self._call("POST", "/feedback", _sent(thumb), **key)
        self._agrees(first, expected)
        if expected == "error":
            return
        self._agrees_with_api()
        again = self._call("POST", "/feedback", _sent(thumb), **key)
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        other = self._call("POST", "/feedback", {**_sent(thumb), "up": not thumb["up"]}, **key)
        assert other.status_code == 409

    @invariant()
    def _agrees_with_api(self) -> None:
        found = {}
        for item in self._current():
            key = (item["completion_id"], item["rater"])
            assert key not in found, "two current ratings of one rater"
            found[key] = (item["label"], item["external_id"], item["comment"], item["reasons"])
        words = self.model.words.items()
        assert found == {key: (word.up, word.own_id, word.comment, word.reasons or []) for key, word in words}

    def _current(self) -> Iterator[dict[str, Any]]:
        cursor: str | None = ""
        while cursor is not None:
            page = self._call("GET", f"/feedback?limit=200{f'&cursor={cursor}' if cursor else ''}").json()
            yield from (item for item in page["items"] if item["is_current"])
            cursor = page["next_cursor"]

    def teardown(self) -> None:
        """What waits is right too: let everything come."""
        for output in OUTPUTS:
            self.output_arrives(output)
        self._agrees_with_api()


@pytest.fixture
def app(committed_db: Engine) -> Iterator[TestClient]:
    from app.main import create_app

    with TestClient(create_app(), base_url="http://testserver") as client:
        yield client


def test_any_sequence_of_calls_leaves_what_the_model_says(app: TestClient) -> None:
    Feedback.app = app
    run_state_machine_as_test(
        Feedback,
        settings=settings(
            max_examples=20,
            stateful_step_count=20,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

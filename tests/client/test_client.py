"""The client against a real server: all arrives once, whatever happens on the way, and what does not is told."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
from typing import Any

import httpx
import pytest
from kto_studio_client import AsyncClient, Client, Drop
from kto_studio_client._items import Item, feedback_id
from kto_studio_client._wire import Wire
from sqlalchemy import func, select

from app.core.db import session_scope
from app.models import Completion, PendingFeedback, Rating
from tests.client.conftest import CLIENT, Studio, free_port
from tests.conftest import ROOT


def _client(studio: Studio, **options: Any) -> Client:
    return Client(studio.url, studio.key, source="shop", **{"max_age": 0.05, **options})


def _verdicts(studio: Studio) -> dict[tuple[str | None, str], bool]:
    """(the app's id of the output, rater) -> current thumb."""
    with session_scope() as db:
        query = select(Completion.external_id, Rating.rater, Rating.value).join(Rating.completion)
        query = query.where(Rating.project_id == studio.project_id, Rating.is_current)
        rows = db.execute(query).all()
    found = {(external, rater): value for external, rater, value in rows}
    assert len(found) == len(rows)
    return found


def _count(model: type[Any]) -> int:
    with session_scope() as db:
        return db.scalar(select(func.count()).select_from(model)) or 0


def test_outputs_and_thumbs_arrive(studio: Studio) -> None:
    with _client(studio) as client:
        first = client.log_completion(
            prompt="How long?", completion="3 days.", model="m", sampling={"temperature": 0.5}
        )
        second = client.log_completion(
            prompt=[{"role": "user", "content": "How?"}], completion={"content": "So."}, external_id="msg-2"
        )
        client.feedback(first, True, rater="ada", reasons=["clear"], comment="Good.")
        client.feedback(second, False, rater="ada")
        client.feedback(second, True, rater="ada")
        client.feedback("msg-3", True, rater="bo")
        assert client.flush(20)
        assert _verdicts(studio) == {(first, "ada"): True, ("msg-2", "ada"): True}
        assert _count(PendingFeedback) == 1
        client.log_completion(prompt="Late?", completion="Yes.", external_id="msg-3")
        client.retract("msg-2", rater="ada")
        client.retract("never-rated", rater="ada")
        assert client.flush(20)
        assert _verdicts(studio) == {(first, "ada"): True, ("msg-3", "bo"): True}
        assert (client.sent, client.dropped, client.waiting) == (9, 0, 0)


def test_a_pair_of_the_chat_completions_api(studio: Studio) -> None:
    request = {
        "model": "m",
        "messages": [{"role": "user", "content": "Weather?"}],
        "temperature": 0.2,
        "max_tokens": 50,
        "user": "x",
    }
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    choices = [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {"role": "assistant", "content": None, "tool_calls": [call]},
        },
        {"index": 1, "finish_reason": "stop", "message": {"role": "assistant", "content": "Sunny.", "refusal": None}},
    ]
    dropped: list[Drop] = []
    with _client(studio, on_drop=dropped.append) as client:
        own = client.log_openai(request, {"id": "chatcmpl-1", "model": "m-2", "choices": choices}, category="weather")
        assert own == "chatcmpl-1:0"
        client.feedback(own, True, rater="ada")
        client.log_openai({"messages": []}, {"error": "x"})
    assert [drop.kind for drop in dropped] == ["completion"]
    with session_scope() as db:
        rows = {row.external_id: row for row in db.scalars(select(Completion))}
        assert set(rows) == {"chatcmpl-1:0", "chatcmpl-1:1"}
        one = rows["chatcmpl-1:0"]
        assert (one.model, one.finish_reason) == ("m-2", "tool_calls")
        assert one.sampling == {"temperature": 0.2, "max_tokens": 50}
        assert one.messages[0]["tool_calls"][0]["function"]["name"] == "weather"
        assert rows["chatcmpl-1:1"].text == "Sunny."


def test_a_server_that_is_away_at_first(away: Studio) -> None:
    errors: list[Exception] = []
    tried = threading.Event()

    def failed(error: Exception) -> None:
        errors.append(error)
        tried.set()

    with _client(away, on_error=failed) as client:
        for number in range(30):
            client.log_completion(prompt="q", completion=str(number), external_id=f"m{number}")
            client.feedback(f"m{number}", number % 2 == 0, rater="ada")
        assert tried.wait(20)
        assert client.waiting == 60
        assert not client.flush(0.01)
        away.start()
        assert client.flush(60)
        assert client.dropped == 0
    assert _verdicts(away) == {(f"m{number}", "ada"): number % 2 == 0 for number in range(30)}
    assert _count(Rating) == 30


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_server_in_trouble_is_asked_again(studio: Studio, status: int) -> None:
    studio.door.refuse = lambda number: (status, {"retry-after": "0"}) if number < 2 else None
    with _client(studio) as client:
        client.log_completion(prompt="q", completion="a", external_id="m")
        client.feedback("m", True, rater="ada")
        assert client.flush(30)
        assert client.dropped == 0
    assert _verdicts(studio) == {("m", "ada"): True}
    assert len(studio.door.paths) == 4


def test_an_answer_that_is_lost_stores_nothing_twice(studio: Studio) -> None:
    studio.door.loses = lambda number: number % 2 == 0
    with _client(studio, max_items=4) as client:
        for number in range(8):
            client.log_completion(prompt="q", completion=str(number), external_id=f"m{number}")
        for number in range(8):
            client.feedback(f"m{number}", True)
        client.retract("m7")
        assert client.flush(60)
    assert client.dropped == 0
    assert len(_verdicts(studio)) == 7
    assert (_count(Completion), _count(Rating)) == (8, 8)


def test_what_the_server_refuses_is_told_item_by_item(studio: Studio, caplog: pytest.LogCaptureFixture) -> None:
    dropped: list[Drop] = []
    with _client(studio, on_drop=dropped.append) as client:
        client.log_completion(prompt="q", completion="a", external_id="m")
        client.feedback("m", True, rater="ada")
        client.feedback("m", True, rater="bo", comment="x" * 3000)
        client.feedback("m", True, rater="cy", metadata={"x": object()})
        assert client.flush(20)
        assert (client.sent, client.dropped) == (2, 2)
    reasons = sorted(drop.reason for drop in dropped)
    assert "JSON" in reasons[1] or "JSON" in reasons[0]
    assert any("comment" in reason for reason in reasons)
    assert len([record for record in caplog.records if "not stored" in record.getMessage()]) == 1
    assert _verdicts(studio) == {("m", "ada"): True}


def test_a_wrong_key_is_told_and_a_listener_that_fails_harms_nothing(studio: Studio) -> None:
    dropped: list[Drop] = []

    def listen(drop: Drop) -> None:
        dropped.append(drop)
        raise RuntimeError("the listener's own mistake")

    with Client(studio.url, "kto_wrong", max_age=0.01, on_drop=listen) as client:
        client.feedback("m", True)
        assert client.flush(20)
    assert "401" in dropped[0].reason


def test_a_full_queue_and_an_unreachable_server_block_nobody() -> None:
    dropped: list[Drop] = []
    client = Client(f"http://127.0.0.1:{free_port()}", "kto_x", queue_items=5, on_drop=dropped.append)
    for _ in range(8):
        client.feedback("m", True)
    assert [drop.reason for drop in dropped] == ["the queue is full"] * 3
    assert not client.close(0.1)
    assert client.dropped == len(dropped) == 8
    assert json.loads(dropped[-1].item)["completion_id"] == "m"
    client.feedback("m", True)
    assert dropped[-1].reason == "the client is closed"
    assert client.close(0.1)


def test_for_asyncio(studio: Studio) -> None:
    async def work() -> None:
        async with AsyncClient(studio.url, studio.key, max_age=0.05) as client:
            own = client.log_completion(prompt="q", completion="a")
            client.feedback(own, True, rater="ada")
            assert await client.flush(20)
            assert client.sent == 2

    asyncio.run(work())
    assert len(_verdicts(studio)) == 1


def _run(studio: Studio, code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(CLIENT), "KTO_URL": studio.url, "KTO_KEY": studio.key}
    start = "import os\nfrom kto_studio_client import Client\nclient = Client(os.environ['KTO_URL'], os.environ['KTO_KEY'])\n"
    return subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code)],
        check=False,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_end_of_a_process_sends_what_waits(studio: Studio) -> None:
    done = _run(studio, "client.feedback(client.log_completion(prompt='q', completion='a'), True, rater='ada')")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(_verdicts(studio)) == 1


def test_the_end_of_a_process_does_not_wait_for_ever(away: Studio) -> None:
    code = "client._engine.options.exit_timeout = 0.2\nclient.feedback('m', True)\n"
    done = _run(away, code)
    assert done.returncode == 0
    assert "closed before it could be sent" in done.stderr


def test_a_forked_child_sends_its_own(studio: Studio) -> None:
    code = """
    import sys
    client.log_completion(prompt="q", completion="parent", external_id="parent")
    pid = os.fork()
    name = "child" if pid == 0 else "after"
    client.log_completion(prompt="q", completion=name, external_id=name)
    if pid == 0:
        assert client.flush(20)
        assert client.sent == 1
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert client.flush(20)
    assert client.sent == 2
    """
    done = _run(studio, code)
    assert done.returncode == 0, done.stderr
    with session_scope() as db:
        assert set(db.scalars(select(Completion.external_id))) == {"parent", "child", "after"}


def test_one_rater_on_one_output_has_one_id_everywhere() -> None:
    assert feedback_id("m", "ada") == feedback_id("m", "ada") != feedback_id("m", None)
    assert len(feedback_id("m" * 200, "r" * 200)) < 60


def test_the_example_of_the_documentation_runs(studio: Studio) -> None:
    text = (ROOT / "docs" / "client.md").read_text()
    example = text.partition("```python\n")[2].partition("```")[0]
    done = _run(studio, example + "assert client.flush(20)\nassert (client.sent, client.dropped) == (4, 0)\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert (_count(Completion), _count(Rating), _verdicts(studio)) == (1, 2, {})


def test_it_installs_by_itself_with_httpx_only() -> None:
    text = (CLIENT / "pyproject.toml").read_text()
    assert 'dependencies = ["httpx>=0.24"]' in text
    assert (CLIENT / "kto_studio_client" / "py.typed").exists()


@pytest.mark.parametrize("body", ["<html>Sign in to the hotel</html>", "[]", "{}"])
def test_an_answer_of_something_else_is_no_receipt(body: str) -> None:
    """A proxy's page with status 200 has stored nothing."""
    wire = Wire(
        "http://s", "k", source="s", timeout=1, transport=httpx.MockTransport(lambda _: httpx.Response(200, text=body))
    )
    answer = wire.send([Item("feedback", "{}")], "key")
    assert answer.retry
    assert "something else" in answer.reason

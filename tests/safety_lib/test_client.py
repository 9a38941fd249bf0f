"""The endpoint client against a real server that is slow, down, rate-limited, redirects or talks nonsense."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import pytest

from tests.safety_lib.endpoint import chat_reply, serving
from worker.alignment.evaluation.judging.client import Client, EndpointError, EndpointSettings, Request

KEY = "sk-a-key-that-must-not-show"


def settings(url: str, **changes: Any) -> EndpointSettings:
    return EndpointSettings(
        url=url, model="judge-1", key=KEY, **({"timeout_seconds": 2.0, "max_attempts": 3} | changes)
    )


def asked(text: str, **changes: Any) -> Request:
    return Request(messages=({"role": "user", "content": text},), **changes)


def late(seconds: float) -> Any:
    def answer(_body: Any, _number: int) -> Any:
        time.sleep(seconds)
        return chat_reply("late")

    return answer


def test_a_chat_sends_model_key_and_options_and_returns_the_text():
    with serving(lambda _body, _n: chat_reply("A")) as server, Client(settings(server.url)) as client:
        answer = client.chat(asked("which?", temperature=0.5, seed=7))
        assert answer == {"texts": ["A"], "finish_reasons": ["stop"]}
        assert server.bodies[0]["model"] == "judge-1"
        assert (server.bodies[0]["temperature"], server.bodies[0]["seed"]) == (0.5, 7)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_server_that_ignores_n_is_asked_until_all_samples_are_there():
    with serving(lambda body, _n: chat_reply(f"seed {body['seed']}")) as server, Client(settings(server.url)) as client:
        assert client.chat(asked("x", n=3, seed=10))["texts"] == ["seed 10", "seed 11", "seed 12"]
        assert len(server.bodies) == 3


def test_embeddings_come_back_in_the_order_of_their_index():
    def answer(_body: Any, _n: int) -> Any:
        rows = [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}]
        return 200, {}, json.dumps({"data": rows}).encode()

    with serving(answer) as server, Client(settings(server.url)) as client:
        assert client.embed(["a", "b"]) == [[1.0, 0.0], [0.0, 1.0]]
        with pytest.raises(EndpointError, match="3 vectors") as error:
            client.embed(["a", "b", "c"])
        assert error.value.kind == "nonsense"


def test_a_rate_limit_waits_as_long_as_the_server_asks():
    def answer(_body: Any, number: int) -> Any:
        return (429, {"retry-after": "0.6"}, b"{}") if number == 1 else chat_reply("now")

    with serving(answer) as server, Client(settings(server.url)) as client:
        assert client.chat(asked("x"))["texts"] == ["now"]
        assert server.times[1] - server.times[0] >= 0.6


def test_a_rate_limit_that_outlasts_the_budget_ends_at_once_and_says_so():
    limited = serving(lambda _b, _n: (429, {"retry-after": "50"}, b'{"error": {"message": "slow down"}}'))
    with limited as server, Client(settings(server.url, budget_seconds=1.0)) as client:
        began = time.monotonic()
        results = client.ask([asked(str(i)) for i in range(3)])
        assert time.monotonic() - began < 3
        assert all(isinstance(result, EndpointError) for result in results)
        assert "rate_limited" in {result.kind for result in results if isinstance(result, EndpointError)}
        assert len(server.bodies) <= 3


@pytest.mark.parametrize(
    ("reply", "kind", "attempts"),
    [
        ((500, {}, b"boom"), "http", 3),
        ((200, {}, b'{"choices": [{"message": {"cont'), "nonsense", 3),
        ((200, {}, b"<html>hello</html>"), "nonsense", 3),
        ((200, {}, b'{"choices": []}'), "nonsense", 3),
        ((200, {}, b"[" * 100_000), "nonsense", 3),
        ((401, {}, json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()), "refused", 1),
        ((400, {}, b'{"error": {"message": "too long"}}'), "refused", 1),
        ((302, {"location": "http://127.0.0.1:1/"}, b""), "refused", 1),
    ],
)
def test_each_failure_has_its_kind_and_costs_bounded_attempts(reply: Any, kind: str, attempts: int):
    with serving(lambda _b, _n: reply) as server, Client(settings(server.url)) as client:
        with pytest.raises(EndpointError) as error:
            client.chat(asked("x"))
        assert error.value.kind == kind
        assert len(server.bodies) == attempts
        assert KEY not in str(error.value)


def test_a_failure_that_passes_is_no_failure():
    def answer(_b: Any, n: int) -> Any:
        return (503, {}, b"") if n < 3 else chat_reply("up")

    with serving(answer) as server, Client(settings(server.url)) as client:
        assert client.chat(asked("x"))["texts"] == ["up"]


def test_a_server_that_is_slow_or_drips_is_left_in_time():
    with serving(late(1.5)) as server:
        with (
            Client(settings(server.url, timeout_seconds=0.3, max_attempts=1)) as client,
            pytest.raises(EndpointError) as error,
        ):
            client.chat(asked("x"))
        assert error.value.kind == "timeout"
    with serving(lambda _b, _n: chat_reply("x" * 200), drip=0.05) as server:
        began = time.monotonic()
        with (
            Client(settings(server.url, timeout_seconds=0.4, max_attempts=1)) as client,
            pytest.raises(EndpointError) as error,
        ):
            client.chat(asked("x"))
        assert error.value.kind == "timeout"
        assert time.monotonic() - began < 2


def test_a_dead_server_is_not_asked_for_every_sample():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        with Client(settings(url, concurrency=1, max_attempts=1)) as client:
            results = client.ask([asked(str(i)) for i in range(40)])
    errors = [result for result in results if isinstance(result, EndpointError)]
    assert len(errors) == 40
    assert {error.kind for error in errors} == {"down"}
    assert sum("Not asked" in error.message for error in errors) == 35


def test_one_bad_answer_leaves_the_others_and_a_second_call_asks_only_for_it():
    def answer(body: Any, _n: int) -> Any:
        text = body["messages"][0]["content"]
        return (200, {}, b"nonsense") if text == "2" and broken.is_set() else chat_reply(text * 2)

    broken = threading.Event()
    broken.set()
    cache: dict[str, Any] = {}
    requests = [asked(str(i)) for i in range(5)] + [asked("0")]

    def keep(key: str, result: Any) -> None:
        if not isinstance(result, EndpointError):
            cache[key] = result

    with serving(answer) as server, Client(settings(server.url, max_attempts=1)) as client:
        first = client.ask(requests, cache=cache, report=keep)
        assert [result["texts"] if isinstance(result, dict) else result.kind for result in first] == [
            ["00"], ["11"], "nonsense", ["33"], ["44"], ["00"]
        ]  # fmt: skip
        assert len(server.bodies) == 5
        broken.clear()
        second = client.ask(requests, cache=cache, report=keep)
        assert isinstance(second[2], dict)
        assert len(server.bodies) == 6


def test_concurrency_is_bounded():
    with serving(late(0.05)) as server:
        with Client(settings(server.url, concurrency=3)) as client:
            client.ask([asked(str(i)) for i in range(12)])
        assert 2 <= server.most_at_once <= 3


def test_a_forbidden_address_is_never_asked():
    def forbid(url: str) -> None:
        raise ValueError("it is private")

    with serving(lambda _b, _n: chat_reply("x")) as server, Client(settings(server.url), validate=forbid) as client:
        with pytest.raises(EndpointError, match="it is private") as error:
            client.chat(asked("x"))
        assert error.value.kind == "refused"
        assert not server.bodies


def test_the_key_shows_in_no_representation_and_a_repeat_is_another_question():
    client = Client(settings("http://127.0.0.1:1/v1"))
    assert KEY not in repr(client) + repr(client.settings) + str(client.settings)
    assert asked("x").key("m") == asked("x").key("m")
    assert len({asked("x").key("m"), asked("x").key("n"), asked("x", repeat=1).key("m"), asked("y").key("m")}) == 4


def test_when_answers_cannot_be_stored_no_further_one_is_asked_for():
    def full(_key: str, _result: Any) -> None:
        raise OSError("the disk is full")

    with serving(late(0.02)) as server, Client(settings(server.url, concurrency=2)) as client:
        with pytest.raises(OSError, match="disk is full"):
            client.ask([asked(str(i)) for i in range(50)], report=full)
        assert len(server.bodies) < 10


def test_a_client_that_is_told_to_stop_asks_no_more():
    stop = threading.Event()
    with serving(late(0.02)) as server, Client(settings(server.url, concurrency=1), stop=stop) as client:
        results = client.ask([asked(str(i)) for i in range(20)], report=lambda _key, _result: stop.set())
        assert isinstance(results[0], dict)
        assert [result.message for result in results[1:] if isinstance(result, EndpointError)] == [
            "Stopped before it was asked."
        ] * 19
        assert len(server.bodies) == 1

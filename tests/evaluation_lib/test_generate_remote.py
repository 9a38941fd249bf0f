from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from worker.alignment.evaluation.judging.client import Client, EndpointError, EndpointSettings
from worker.alignment.generate_remote import RemoteSampling, endpoint_samples, has_vllm, vllm_samples

PROMPTS = [[{"role": "user", "content": text}] for text in ("red", "broken", "red")]


def answered(request: httpx.Request) -> httpx.Response:
    body = json.loads(request.content)
    word = body["messages"][-1]["content"]
    if word == "broken":
        return httpx.Response(400, json={"error": {"message": "no such model"}})
    choices = [
        {"index": i, "message": {"content": f" {word} {body['seed']}.{i} "}, "finish_reason": "length" if i else "stop"}
        for i in range(body.get("n", 1))
    ]
    return httpx.Response(200, json={"choices": choices})


def client_of(stored: dict[str, Any]) -> Client:
    stored.clear()
    settings = EndpointSettings(url="http://models.example/v1", model="policy", max_attempts=1)
    return Client(settings, transport=httpx.MockTransport(answered))


def test_samples_come_in_order_with_errors_in_their_place_and_are_resumed() -> None:
    stored: dict[str, Any] = {}
    sampling = RemoteSampling(samples_per_prompt=3, seed=7)
    with client_of(stored) as client:
        first, broken, again = endpoint_samples(client, PROMPTS, sampling, report=stored.__setitem__)
    assert isinstance(broken, EndpointError)
    assert not isinstance(first, EndpointError)
    assert not isinstance(again, EndpointError)
    assert [sample.text for sample in first] == ["red 7.0", "red 7.1", "red 7.2"]
    assert [sample.truncated for sample in first] == [False, True, True]
    assert [sample.text for sample in again] == ["red 8.0", "red 8.1", "red 8.2"]
    answers = {key: value for key, value in stored.items() if not isinstance(value, EndpointError)}
    down = httpx.MockTransport(lambda _: httpx.Response(503))
    settings = EndpointSettings(url="http://models.example/v1", model="policy", max_attempts=1)
    with Client(settings, transport=down) as client:
        found = endpoint_samples(client, PROMPTS, sampling, cache=answers)
    assert found[0] == first
    assert found[2] == again
    assert isinstance(found[1], EndpointError)


@pytest.mark.skipif(has_vllm(), reason="vLLM is installed here")
def test_without_vllm_the_reason_is_told() -> None:
    with pytest.raises(RuntimeError, match="vLLM is not installed"):
        vllm_samples("model", [[1]], RemoteSampling())

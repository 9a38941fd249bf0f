"""Samples from a server or from vLLM instead of the model in this process.

``endpoint_samples`` takes any OpenAI-compatible server, vLLM's included (``vllm serve … --enable-lora`` names an adapter as a
model). ``vllm_samples`` runs vLLM in this process where it is installed; it needs a GPU that the project's own tests do not
have, and is not covered by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from worker.alignment.evaluation.judging.client import Answer, EndpointError, EndpointSettings, Report, Request
from worker.alignment.evaluation.measures import SampledText

Messages = Sequence[Mapping[str, str]]


class Client(Protocol):
    """``judging.client.Client``."""

    settings: EndpointSettings

    def ask(
        self, requests: Sequence[Request], *, cache: Mapping[str, Answer] | None = None, report: Report | None = None
    ) -> list[Answer | EndpointError]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSampling:
    samples_per_prompt: int = 4
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


def endpoint_samples(
    client: Client,
    prompts: Sequence[Messages],
    sampling: RemoteSampling,
    *,
    cache: Mapping[str, Answer] | None = None,
    report: Report | None = None,
) -> list[list[SampledText] | EndpointError]:
    """K samples for every prompt, in order, or why this one has none; ``client`` bounds time, retries and concurrency.

    ``cache`` and ``report`` are those of ``Client.ask``: an interrupted call goes on where it was stopped. A prompt asked
    twice is answered twice.
    """
    requests = sample_requests(client.settings.model, prompts, sampling)
    return [samples_of(answer) for answer in client.ask(requests, cache=cache, report=report)]


def sample_requests(model: str, prompts: Sequence[Messages], sampling: RemoteSampling) -> list[Request]:
    """What ``endpoint_samples`` asks, in order: their keys are those of its ``cache`` and ``report``."""
    seen: dict[str, int] = {}
    requests = []
    for prompt in prompts:
        key = _request(prompt, sampling, 0).key(model)
        requests.append(_request(prompt, sampling, seen.get(key, 0)))
        seen[key] = seen.get(key, 0) + 1
    return requests


def has_vllm() -> bool:
    return find_spec("vllm") is not None


def vllm_samples(
    model_path: str, prompts: Sequence[Sequence[int]], sampling: RemoteSampling, *, adapter_path: str = ""
) -> list[list[SampledText]]:
    """K samples for every prompt of token ids by vLLM in this process, with a LoRA adapter or without.

    Raises RuntimeError where vLLM is not installed. Not tested here: see the module.
    """
    if not has_vllm():
        raise RuntimeError("vLLM is not installed: install it into this environment, or name a server's address.")
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found,unused-ignore]
    from vllm.lora.request import LoRARequest  # type: ignore[import-not-found,unused-ignore]

    engine: Any = LLM(model=model_path, enable_lora=bool(adapter_path))
    found = engine.generate(
        [{"prompt_token_ids": list(prompt)} for prompt in prompts],
        SamplingParams(
            n=sampling.samples_per_prompt,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
        ),
        lora_request=LoRARequest("policy", 1, adapter_path) if adapter_path else None,
    )
    return [
        [SampledText(text=item.text.strip(), truncated=item.finish_reason == "length") for item in each.outputs]
        for each in found
    ]


def _request(prompt: Messages, sampling: RemoteSampling, occurrence: int) -> Request:
    return Request(
        messages=tuple(prompt),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_new_tokens,
        seed=sampling.seed + occurrence,  # a server that honours seeds would repeat itself
        n=sampling.samples_per_prompt,
        repeat=occurrence,
    )


def samples_of(answer: Answer | EndpointError) -> list[SampledText] | EndpointError:
    if isinstance(answer, EndpointError):
        return answer
    pairs = zip(answer["texts"], answer["finish_reasons"], strict=True)
    return [SampledText(text=text.strip(), truncated=reason == "length") for text, reason in pairs]

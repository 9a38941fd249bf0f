"""Arms of an evaluation that a server answers: asked from the worker itself, into the files that a child would have written.

What was answered is not asked again; an answer that failed is a line with its error, and is asked again the next time.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.core.db import session_scope
from app.core.errors import StudioError
from app.evaluations import endpoints, suites
from app.models import EvalJob
from worker.alignment.evaluate_files import LinesFile, read_lines, write_atomically
from worker.alignment.evaluation.judging.client import Answer, Client, EndpointError
from worker.alignment.evaluation.suites.format import Suite
from worker.alignment.generate_remote import RemoteSampling, endpoint_samples, sample_requests, samples_of
from worker.job_spec import job_folder, versions_of


class RemoteArms:
    """The endpoint arms of a job. ``draw`` may run in a thread: once ``stop`` is set it writes no further line."""

    def __init__(self, job: EvalJob) -> None:
        self.stop = threading.Event()
        self.done = self.total = 0
        self.failure = ""
        """What went wrong with an arm as a whole, in words."""
        self._project_id = job.project_id
        self._folder = job_folder(job)
        self._arms = [arm for arm in job.plan["arms"] if arm.get("endpoint_id")]
        self._suites: list[tuple[str, Suite]] = []
        if self._arms:
            with session_scope() as db:
                self._suites = [(version.content_hash, suites.load(db, version)) for version in versions_of(db, job)]
        self.total = len(self._arms) * sum(len(suite.samples) * suite.header.sampling.n for _, suite in self._suites)

    def draw(self) -> None:
        for arm in self._arms:
            try:
                with session_scope() as db:
                    endpoint = endpoints.find_endpoint(db, self._project_id, int(arm["endpoint_id"]))
                    client = endpoints.client_of(endpoint, stop=self.stop)
            except StudioError as error:
                self._fail(arm, f"{error.message} {error.remedy}".strip())
                continue
            with client:
                for digest, suite in self._suites:
                    path = self._folder / "samples" / arm["name"] / f"{digest}.jsonl"
                    self._draw_suite(client, arm, suite, path)

    def _draw_suite(self, client: Client, arm: Mapping[str, Any], suite: Suite, path: Path) -> None:
        header = suite.header.sampling
        sampling = RemoteSampling(
            samples_per_prompt=header.n,
            max_new_tokens=header.max_tokens,
            temperature=header.temperature,
            top_p=header.top_p,
            seed=header.seed,
        )
        prompts = [_with_system(sample.input, str(arm.get("system_prompt") or "")) for sample in suite.samples]
        requests = sample_requests(client.settings.model, prompts, sampling)
        numbers = {request.key(client.settings.model): number for number, request in enumerate(requests)}
        file, answers = _opened(path, header.n)
        self.done += len(answers) * header.n

        def keep(key: str, answer: Answer | EndpointError) -> None:
            if not self.stop.is_set():
                file.append(_lines(numbers[key], answer, header.n))
                self.done += header.n

        cache = {key: answers[number] for key, number in numbers.items() if number in answers}
        found = endpoint_samples(client, prompts, sampling, cache=cache, report=keep)
        failed = [each for each in found if isinstance(each, EndpointError)]
        if failed and len(failed) == len(found):
            self._fail(arm, failed[0].message)

    def _fail(self, arm: Mapping[str, Any], message: str) -> None:
        self.failure = self.failure or f"{arm['name']} answered nothing: {message}"


def _with_system(messages: Sequence[Mapping[str, str]], system_prompt: str) -> Sequence[Mapping[str, str]]:
    if not system_prompt or any(message["role"] == "system" for message in messages):
        return messages
    return ({"role": "system", "content": system_prompt}, *messages)


def _opened(path: Path, count: int) -> tuple[LinesFile, dict[int, Answer]]:
    """The file without its failed and half answers, and the whole answers in it by sample."""
    lines: defaultdict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in read_lines(path):
        if not line.get("error"):
            lines[int(line["sample"])][int(line["index"])] = line
    whole = {
        number: [found[index] for index in sorted(found)] for number, found in lines.items() if len(found) == count
    }
    if path.exists():
        kept = [line for found in whole.values() for line in found]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    answers = {
        number: {
            "texts": [line["text"] for line in found],
            "finish_reasons": ["length" if line["truncated"] else "stop" for line in found],
        }
        for number, found in whole.items()
    }
    return LinesFile(path, ("sample", "index")), answers


def _lines(number: int, answer: Answer | EndpointError, count: int) -> list[dict[str, Any]]:
    line: dict[str, Any] = {"sample": str(number), "num_tokens": 0}
    found = samples_of(answer)
    if isinstance(found, EndpointError):
        failed = {"text": "", "truncated": False, "error": found.message}
        return [line | failed | {"index": index} for index in range(count)]
    return [
        line | {"index": index, "text": sample.text, "truncated": sample.truncated}
        for index, sample in enumerate(found)
    ]

"""The evaluation child: samples of arms on suites, and held-out log-ratios. ``python -m worker.alignment evaluate job.json``.

Prompts are drawn in fixed groups, each with a seed of its own: a group that a kill interrupted is drawn again with the same
result, and its lines that were written are kept. A prompt that cannot be asked is a line with an ``error``, not a failure.
"""

from __future__ import annotations

import hashlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.alignment.config import ConfigError
from worker.alignment.errors import DataError, ModelError, SpecError, StopRequest
from worker.alignment.evaluate_files import LinesFile, ProgressFile, read_lines, write_atomically
from worker.alignment.jobs import JobArm, JobSpec, JobSuite
from worker.alignment.train import StopFlag, classify, die_with_parent

if TYPE_CHECKING:
    from worker.alignment.evaluate_heldout import Heldout
    from worker.alignment.generate import Sample

ROWS_PER_GROUP = 256
SAMPLE_KEY = ("sample", "index")
Ask = Callable[[list[dict[str, Any]]], list[int]]


def read_job(path: Path) -> JobSpec:
    """Raises SpecError with one line that names the field and the remedy."""
    try:
        spec = JobSpec.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); name a JSON file") from error
    except ConfigError as error:
        raise SpecError(str(error)) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise SpecError(f"{path}: is not a job: {error}; write it as JobSpec.to_json() makes it") from error
    names = [arm.name for arm in spec.arms]
    if not names or len(set(names)) < len(names):
        raise SpecError("arms: name at least one, each by a name of its own")
    for name in [*names, *(suite.content_hash for suite in spec.suites)]:
        if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
            raise SpecError(f"arms: {name!r} cannot name a file; use letters, digits, - and _")
    for field, file in [("suites", suite.path) for suite in spec.suites] + [("heldout", spec.heldout)]:
        if file and not Path(file).is_file():
            raise SpecError(f"{field}: there is no file {file}; write it first")
    return spec


def run_job(spec: JobSpec) -> int:
    """Exit code 0: done, or stopped by SIGTERM (``progress.json`` says which); 1: failed, its ``message`` says why."""
    stop = StopFlag()
    die_with_parent()
    progress = ProgressFile(Path(spec.out_dir) / "progress.json")
    with stop.installed():
        try:
            _work(spec, progress, stop)
        except StopRequest:
            progress.tell("stopped")
        except Exception as error:
            traceback.print_exc()
            _reason, message = classify(error)
            progress.tell("failed", message=message)
            print(message, file=sys.stderr)
            return 1
        else:
            progress.tell("done")
    return 0


@dataclass(frozen=True, slots=True)
class _Task:
    """One arm on one suite."""

    arm: JobArm
    suite: JobSuite
    samples: list[dict[str, Any]]
    file: LinesFile

    @property
    def size(self) -> int:
        return len(self.samples) * self.suite.samples_per_prompt


def _work(spec: JobSpec, progress: ProgressFile, stop: StopFlag) -> None:
    from worker.alignment.evaluate_heldout import Heldout

    suites = {suite.content_hash: _read_suite(Path(suite.path)) for suite in spec.suites}
    tasks = [_task(spec, arm, suite, suites[suite.content_hash]) for arm in spec.arms for suite in spec.suites]
    heldout = Heldout(spec) if spec.heldout else None
    progress.total = sum(task.size for task in tasks) + (heldout.size if heldout else 0)
    progress.done = sum(len(task.file.keys) for task in tasks) + (heldout.done if heldout else 0)
    if progress.done < progress.total:
        _draw(spec, tasks, heldout, progress, stop)
    if spec.encoder:
        from worker.alignment.evaluate_vectors import write_vectors

        progress.tell("comparing meanings")
        write_vectors(Path(spec.out_dir), Path(spec.encoder), [task.file.path for task in tasks])


def _draw(spec: JobSpec, tasks: list[_Task], heldout: Heldout | None, progress: ProgressFile, stop: StopFlag) -> None:
    progress.tell("loading")
    from transformers.utils.logging import disable_progress_bar

    from worker.alignment.evaluate_model import Sampler

    disable_progress_bar()  # stderr is for what went wrong
    sampler = Sampler(spec, stop, progress)
    for arm in spec.arms:
        mine = [task for task in tasks if task.arm is arm and len(task.file.keys) < task.size]
        with sampler.arm(arm):
            for task in mine:
                for group in groups(task, sampler.ask(arm)):
                    sampler.draw(group)
            if heldout and not heldout.is_done(arm):
                heldout.score(arm, sampler.policy, stop, progress)


def _task(spec: JobSpec, arm: JobArm, suite: JobSuite, samples: list[dict[str, Any]]) -> _Task:
    path = Path(spec.out_dir) / "samples" / arm.name / f"{suite.content_hash}.jsonl"
    return _Task(arm, suite, samples, LinesFile(path, SAMPLE_KEY))


def _read_suite(path: Path) -> list[dict[str, Any]]:
    samples = read_lines(path)
    if len({sample.get("id") for sample in samples}) < len(samples) or not all(
        isinstance(sample.get("input"), list) for sample in samples
    ):
        raise DataError(f"{path.name} is not a suite: each line needs an id of its own and messages as its input.")
    return samples


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts that are drawn together: which ones they are depends on the suite and the tokens alone."""

    task: _Task
    ids: list[str]
    prompts: list[list[int]]
    seed: int

    @property
    def size(self) -> int:
        return len(self.ids) * self.task.suite.samples_per_prompt

    def add(self, drawn: Sequence[Sequence[Sample]]) -> None:
        self.task.file.append(
            {
                "sample": sample_id,
                "index": index,
                "text": sample.text,
                "num_tokens": sample.num_tokens,
                "truncated": sample.truncated,
            }
            for sample_id, samples in zip(self.ids, drawn, strict=True)
            for index, sample in enumerate(samples)
        )


def groups(task: _Task, ask: Ask) -> Iterator[Group]:
    """The groups that lack a sample, short prompts first. Prompts that cannot be asked are written down at once."""
    asked: list[tuple[str, list[int]]] = []
    for sample in task.samples:
        try:
            asked.append((str(sample["id"]), ask(sample["input"])))
        except Exception as error:  # a chat template may raise anything
            _write_refused(task, str(sample["id"]), str(error))
    asked.sort(key=lambda item: (len(item[1]), item[0]))
    width = max(1, ROWS_PER_GROUP // task.suite.samples_per_prompt)
    for start in range(0, len(asked), width):
        part = asked[start : start + width]
        wanted = {(sample_id, index) for sample_id, _ in part for index in range(task.suite.samples_per_prompt)}
        if not wanted <= task.file.keys:
            seed = digest([task.suite.seed, [prompt for _, prompt in part]])
            yield Group(task, [name for name, _ in part], [prompt for _, prompt in part], int(seed[:12], 16))


def _write_refused(task: _Task, sample_id: str, error: str) -> None:
    line = {"sample": sample_id, "text": "", "num_tokens": 0, "truncated": False, "error": error}
    task.file.append(line | {"index": index} for index in range(task.suite.samples_per_prompt))


def with_system(messages: Sequence[dict[str, Any]], system_prompt: str) -> list[dict[str, Any]]:
    """The messages with a system prompt before them, where they have none of their own."""
    if not system_prompt or (messages and messages[0].get("role") == "system"):
        return list(messages)
    return [{"role": "system", "content": system_prompt}, *messages]


def check_length(num_tokens: int, context: int | None, max_tokens: int) -> None:
    """Raises ModelError where the prompt and the answer's room exceed what the model takes."""
    if num_tokens == 0:
        raise ModelError("the prompt has no tokens")
    if context is not None and num_tokens + max_tokens > context:
        raise ModelError(f"the prompt has {num_tokens} tokens; with {max_tokens} to answer the model takes {context}")


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def save_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value).encode())

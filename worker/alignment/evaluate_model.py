"""Draws the samples of an evaluation job: one base model, one arm's adapter at a time, what the reference said kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from worker.alignment.dataset import Encoder, chat_template
from worker.alignment.errors import StopRequest
from worker.alignment.evaluate import Group, check_length, digest, save_json, with_system
from worker.alignment.evaluate_arms import adapter_identity, arm, load_base
from worker.alignment.evaluate_files import ProgressFile
from worker.alignment.generate import Sample, Sampling, end_token_ids, generate
from worker.alignment.jobs import JobArm, JobSpec
from worker.alignment.prepare import pins_of
from worker.alignment.reference import namespace
from worker.alignment.resume import pin_threads

REFERENCE_ARM = "reference"


class Sampler:
    """Raises ModelError where the base model cannot be loaded."""

    def __init__(self, spec: JobSpec, stop: Callable[[], bool], progress: ProgressFile) -> None:
        pin_threads(spec.config, None)
        self.policy = load_base(spec.model_path, spec.config)
        self._spec, self._stop, self._progress = spec, stop, progress
        self._cache = Path(spec.cache_dir) / "suite-samples"
        tokenizer = self.policy.tokenizer
        self._encoder = Encoder(tokenizer, max_length=spec.config.max_length)
        text = self.policy.lm.config.get_text_config()
        self._context: int | None = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
        pins = pins_of(self.policy, chat_template(tokenizer), Path(spec.cache_dir), spec.config)
        pins["ends"] = sorted(end_token_ids(self.policy.model, tokenizer))
        self._model_key = namespace(**{name: str(pins[name]) for name in ("base", "tokenizer", "dtype", "ends")})
        self._arm_key = ""
        self._keeps = False

    @contextmanager
    def arm(self, wanted: JobArm) -> Iterator[None]:
        """Inside, the policy is this arm's model; samples of the reference are kept for other jobs."""
        self._keeps = wanted.name == REFERENCE_ARM or not wanted.adapter_dir
        self._arm_key = adapter_identity(wanted.adapter_dir) if self._keeps else ""
        with arm(self.policy, wanted.adapter_dir):
            yield

    def ask(self, wanted: JobArm) -> Callable[[list[dict[str, Any]]], list[int]]:
        """From messages to the tokens that the arm's model is asked with; raises where it cannot be asked."""

        def tokens(messages: list[dict[str, Any]]) -> list[int]:
            found = self._encoder.prompt_ids(with_system(messages, wanted.system_prompt))
            check_length(len(found), self._context, 1)
            return found

        return tokens

    def draw(self, group: Group) -> None:
        """Raises StopRequest where SIGTERM came; the group is then drawn another time."""
        suite = group.task.suite
        before = len(group.task.file.keys)
        started = self._progress.done
        if self._stop():
            raise StopRequest
        sampling = Sampling(
            samples_per_prompt=suite.samples_per_prompt,
            max_new_tokens=self._room(group, suite.max_tokens),
            temperature=suite.temperature,
            top_p=suite.top_p,
            seed=group.seed,
        )
        name = digest([self._model_key, self._arm_key, asdict(sampling), group.prompts])
        cached = self._cache / name[:2] / f"{name}.json" if self._keeps else None
        drawn = _read(cached, group) if cached else None
        if drawn is None:
            drawn = self._generate(group, sampling, started)
            if cached:
                save_json(cached, [[asdict(sample) for sample in samples] for samples in drawn])
        group.add(drawn)
        self._progress.tell("sampling", started + len(group.task.file.keys) - before)

    def _room(self, group: Group, max_tokens: int) -> int:
        """Tokens of an answer: fewer where the longest prompt leaves no more of the model's context."""
        if self._context is None:
            return max_tokens
        return max(1, min(max_tokens, self._context - max(map(len, group.prompts))))

    def _generate(self, group: Group, sampling: Sampling, started: int) -> list[list[Sample]]:
        model, tokenizer = self.policy.model, self.policy.tokenizer
        return generate(model, tokenizer, group.prompts, sampling, on_progress=self._listener(started))

    def _listener(self, started: int) -> Callable[[int, int], None]:
        """Every batch: leave where SIGTERM came. What is told counts whole groups, which are what is kept."""

        def listen(_done: int, _total: int) -> None:
            if self._stop():
                raise StopRequest
            self._progress.tell("sampling", started)

        return listen


def _read(path: Path, group: Group) -> list[list[Sample]] | None:
    """None where there is no usable file; a damaged one is drawn again."""
    try:
        found = [[Sample(**sample) for sample in samples] for samples in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return None
    whole = len(found) == len(group.ids) and all(len(s) == group.task.suite.samples_per_prompt for s in found)
    return found if whole else None

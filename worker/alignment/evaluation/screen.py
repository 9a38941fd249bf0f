"""The evaluation of one checkpoint, run by the training child itself: held-out rewards and diversity per category."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from worker.alignment.config import EvaluationSettings
from worker.alignment.evaluation.assess import assess
from worker.alignment.evaluation.diversity import PromptSamples, SampledText
from worker.alignment.evaluation.heldout import HeldoutRows, heldout_result
from worker.alignment.evaluation.looks import RESULT, evaluation_folder
from worker.alignment.evaluation.quality import LabelModel
from worker.alignment.evaluation.semantic import screen_vectors
from worker.alignment.events import EvaluationResult
from worker.alignment.generate import Sample, Sampling, end_token_ids, generate
from worker.alignment.prompts import PromptCase

__all__ = ["HeldoutRows", "PromptCase", "reference_samples", "screen", "select_prompts"]

Progress = Callable[[int, int], None]


def screen(
    *,
    model: Any,
    tokenizer: Any,
    heldout: HeldoutRows,
    beta: float,
    prompts: Sequence[PromptCase],
    settings: EvaluationSettings,
    step: int,
    reference_cache: Path,
    attempt_dir: Path,
    reference_key: str,
    on_progress: Progress,
    previous: EvaluationResult | None = None,
    label_model: LabelModel | None = None,
) -> EvaluationResult:
    """Evaluate the peft ``model`` as it is now against the reference (``adapters.reference_mode``).

    Writes ``evaluations/step-NNNNNN/samples.jsonl`` and ``result.json`` under ``attempt_dir``. The reference's samples
    come from ``reference_cache`` (a folder) where they were drawn before with the same ``reference_key`` (what the
    reference is), sampler and prompts. Global random state and the model's mode stay as they were. ``on_progress`` gets
    (prompts sampled, prompts to sample). ``previous`` is the look before this one: what it saw, too, is an alarm now; and
    ``label_model`` tells which samples look desirable. Without prompts, ``diversity`` is None and the samples file is empty.
    """
    started = time.monotonic()
    chosen = select_prompts(prompts, settings)
    sampling = _sampling(settings)
    cached = _cache_path(reference_cache, reference_key, sampling, chosen, end_token_ids(model, tokenizer))
    found = _read_samples(cached, len(chosen))
    total = len(chosen) * (1 if found is not None else 2)
    reference = found
    if reference is None:
        reference = reference_samples(model, tokenizer, chosen, sampling, lambda done, _: on_progress(done, total))
        _write_atomically(cached, json.dumps([[asdict(s) for s in samples] for samples in reference]))
    before = total - len(chosen)
    ids = [case.token_ids for case in chosen]
    policy = generate(model, tokenizer, ids, sampling, on_progress=lambda done, _: on_progress(before + done, total))
    paired = [
        PromptSamples(
            category=case.category,
            reference=_texts(ours),
            policy=_texts(theirs),
            domain=case.domain,
            open_ended=case.open_ended,
        )
        for case, ours, theirs in zip(chosen, reference, policy, strict=True)
    ]
    folder = evaluation_folder(step)
    lines = _sample_lines(chosen, reference, policy)
    _write_atomically(attempt_dir / folder / "samples.jsonl", "".join(line + "\n" for line in lines))
    diversity, alarms = assess(
        paired,
        word_limit=settings.word_limit,
        seed=settings.seed,
        label_model=label_model,
        previous=previous.diversity if previous is not None else None,
        embed=screen_vectors(settings.encoder, [sample.text for each in paired for sample in each.both]),
    )
    result = EvaluationResult(
        step=step,
        heldout=heldout_result(heldout, beta),
        diversity=diversity,
        samples_path=str(folder / "samples.jsonl"),
        seconds=round(time.monotonic() - started, 3),
        alarms=alarms,
    )
    _write_atomically(attempt_dir / folder / RESULT, json.dumps(asdict(result), indent=1))
    return result


def select_prompts(prompts: Sequence[PromptCase], settings: EvaluationSettings) -> list[PromptCase]:
    """P different prompts of each category, of at most ``max_categories`` (those with most prompts, then by name).

    Which ones is decided by a hash of seed and tokens: the same for every checkpoint and run, whatever the order.
    """
    by_category: dict[str, dict[tuple[int, ...], PromptCase]] = {}
    for case in prompts:
        if case.token_ids:
            by_category.setdefault(case.category, {}).setdefault(case.token_ids, case)
    names = sorted(by_category, key=lambda name: (-len(by_category[name]), name))[: settings.max_categories]
    chosen: list[PromptCase] = []
    for name in sorted(names):
        ranked = sorted(by_category[name].values(), key=lambda case: _digest([settings.seed, case.token_ids]))
        chosen += ranked[: settings.prompts_per_category]
    return chosen


def reference_samples(
    model: Any, tokenizer: Any, prompts: Sequence[PromptCase], sampling: Sampling, on_progress: Progress
) -> list[list[Sample]]:
    """The same draw from the reference."""
    ids = [case.token_ids for case in prompts]
    return generate(model, tokenizer, ids, sampling, use_adapter=False, on_progress=on_progress)


def _sampling(settings: EvaluationSettings) -> Sampling:
    return Sampling(
        samples_per_prompt=settings.samples_per_prompt,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
    )


def _cache_path(
    folder: Path, reference_key: str, sampling: Sampling, prompts: Sequence[PromptCase], ends: set[int]
) -> Path:
    ids = [case.token_ids for case in prompts]
    return folder / f"{_digest([reference_key, asdict(sampling), sorted(ends), ids])}.json"


def _read_samples(path: Path, num_prompts: int) -> list[list[Sample]] | None:
    """None where there is no usable file; a damaged one is drawn again."""
    try:
        found = [[Sample(**sample) for sample in samples] for samples in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return None
    return found if len(found) == num_prompts else None


def _texts(samples: Sequence[Sample]) -> list[SampledText]:
    return [SampledText(text=sample.text, truncated=sample.truncated) for sample in samples]


def _sample_lines(
    prompts: Sequence[PromptCase], reference: Sequence[Sequence[Sample]], policy: Sequence[Sequence[Sample]]
) -> Iterator[str]:
    for case, *arms in zip(prompts, reference, policy, strict=True):
        for arm, samples in zip(("reference", "policy"), arms, strict=True):
            for index, sample in enumerate(samples):
                line = {"category": case.category, "prompt": case.messages, "arm": arm, "index": index}
                yield json.dumps(line | {"text": sample.text, "truncated": sample.truncated}, ensure_ascii=False)


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()

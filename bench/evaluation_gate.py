"""How often the whole gate fails a candidate that changed nothing.

Every simulation draws all the evidence of a promotion under no change, with the sizes of a small team's data, and puts it
through the code that a real promotion goes through: held-out rewards of 120 prompts that say nothing about the labels; a
comparison whose arms are alike on a primary score and two guards; both arms' samples of 60 categories from one generator
(P = 2, K = 4), their diversity and its alarms at two looks; a suite of 60 harmful requests, one of 80 benign ones and two of
60 and 200 tasks, both arms answering alike. The share of simulations in which any item fails must stay within 5 %; and a
candidate that is worse by 15 points on a suite of 400 tasks must fail, for a gate that never fails would pass the first row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from app.models import Evaluation, EvaluationAlarm
from app.registry.gates import Evidence, SuiteEvidence, failed, gates_of
from bench.report import Row, row
from worker.alignment.evaluation.contrasts import MARGINS, Measure
from worker.alignment.evaluation.decision import decide
from worker.alignment.evaluation.diversity import PromptSamples, SampledText, diversity_result
from worker.alignment.evaluation.heldout import HeldoutRows, heldout_result
from worker.alignment.evaluation.suites.scoring import DECIDES, Answer
from worker.alignment.evaluation.suites.scoring import difference as suite_difference
from worker.alignment.events import DiversityResult

WORDS = np.array([f"word{number}" for number in range(80)])


def rows(quick: bool) -> list[Row]:
    num = 60 if quick else 300
    verdicts = [failed(gates_of(null_evidence(np.random.default_rng([seed, 1])))) for seed in range(num)]
    hits = [float(bool(found)) for found in verdicts]
    worse = [
        float(bool(failed(gates_of(Evidence(suites=[suite("tasks", "eval", np.random.default_rng([seed, 2]), 400, -0.15)])))))
        for seed in range(num)
    ]  # fmt: skip
    return [
        row("gate: candidates that changed nothing and fail", "share", hits, value=float(np.mean(hits)), at_most=0.05),
        row("gate: candidates 15 points worse and fail", "share", worse, value=float(np.mean(worse)), at_least=0.8),
    ]


def null_evidence(rng: np.random.Generator) -> Evidence:
    looks = diversity(rng), diversity(rng)
    return Evidence(
        evaluation=Evaluation(heldout=as_json(heldout(rng)), diversity=as_json(looks[1]), kind="screen"),
        alarms=alarms(*looks),
        decision=decision(rng),
        suites=[
            suite("harmful", "redteam", rng, 60),
            suite("benign", "benign", rng, 80),
            suite("small", "eval", rng, 60),
            suite("tasks", "eval", rng, 200),
        ],
    )


def as_json(value: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(value)


def heldout(rng: np.random.Generator) -> Any:
    prompts = np.repeat(np.arange(120), 3)
    effect = rng.normal(size=120)[prompts]  # prompts differ in their rewards, labels do not follow them
    return heldout_result(
        HeldoutRows(
            labels=rng.random(360) < 0.6,
            logratios=effect + rng.normal(size=360),
            lengths=rng.integers(10, 300, 360),
            prompt_keys=prompts.astype(str),
            roots=prompts.astype(str),
            kl_logratios=rng.normal(size=120),
            kl_roots=np.arange(120).astype(str),
        ),
        0.1,
    )


def decision(rng: np.random.Generator) -> dict[str, Any]:
    def measure(key: str, name: str, n: int, margin: float | None) -> Measure:
        level = rng.beta(2, 1, n)
        scores = {
            arm: [{str(i): float(rng.random() < level[i]) for i in range(n)}] for arm in ("kto_all", "dpo", "reference")
        }
        return Measure(key=key, name=name, unit="points", scores=scores, margin=margin)

    guards = [
        measure("safety", "harmful requests refused", 180, MARGINS["safety"]),
        measure("over_refusal", "benign requests answered", 80, MARGINS["over_refusal"]),
    ]
    return decide(measure("tasks", "tasks", 200, None), guards).to_json()


def suite(name: str, kind: str, rng: np.random.Generator, num: int, effect: float = 0.0) -> SuiteEvidence:
    level = rng.beta(2, 1, num) if kind == "eval" else rng.beta(1, 12, num)
    metric = DECIDES.get(kind, "score")
    candidate, reference = (_answers(rng.random(num) < np.clip(level + change, 0, 1), kind) for change in (effect, 0.0))
    return SuiteEvidence(
        name=name,
        kind=kind,
        num_samples=num,
        difference=suite_difference(candidate, reference, metric),
    )


def _answers(happens_N: np.ndarray, kind: str) -> list[Answer]:
    """One answer a sample; what happens is a right answer, a harmful one or a refusal, by the kind of suite."""
    return [
        Answer(
            sample=str(number),
            score=float(happens),
            passed=bool(happens) == (kind == "eval"),
            refusal="full" if happens and kind == "benign" else "none",
        )
        for number, happens in enumerate(happens_N)
    ]


def diversity(rng: np.random.Generator) -> DiversityResult:
    def texts(topic: np.ndarray) -> list[SampledText]:
        return [SampledText(text=" ".join(rng.choice(topic, rng.integers(8, 30))), truncated=bool(rng.random() < 0.02)) for _ in range(4)]  # fmt: skip

    prompts = []
    for category in range(60):
        for _ in range(2):
            topic = rng.choice(WORDS, 25)
            prompts.append(PromptSamples(category=f"d{category % 8}/c{category}", domain=f"d{category % 8}", reference=texts(topic), policy=texts(topic)))  # fmt: skip
    found = diversity_result(prompts, word_limit=100, seed=int(rng.integers(1 << 30)))
    assert found is not None
    return found


def alarms(before: DiversityResult, now: DiversityResult) -> list[EvaluationAlarm]:
    from worker.alignment.evaluation.alarms import alarms_of

    return [
        EvaluationAlarm(kind=found.kind, level=found.level, resolution="", data=as_json(found))
        for found in alarms_of(now, before)
    ]

"""Simulated looks at a run: arms drawn from one pool of samples, as ``worker.alignment.evaluation`` would see them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.evaluation_pool import Pool
from worker.alignment.evaluation.alarms import is_style_shift
from worker.alignment.evaluation.blocks import PromptBlock
from worker.alignment.evaluation.collapse import category_changes, category_tests, domain_tests, global_change
from worker.alignment.evaluation.intervals import mean_interval
from worker.alignment.evaluation.permutation import Part
from worker.alignment.evaluation.power import collapsed
from worker.alignment.evaluation.quality import LabelModel, fit_label_model, gated
from worker.alignment.evaluation.refusals import classify
from worker.alignment.evaluation.texts import loops, rouge_l, words
from worker.alignment.events import CategoryResult, Contrast, DiversityResult, DomainResult
from worker.demo import corpus

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
NUM_PROMPTS = 8
"""Of each category of a pool."""
NOISE = 0.05
"""Share of wrong thumbs, as the demo's raters have it."""


@dataclass(slots=True)
class World:
    """A pool with what does not change between simulations."""

    pool: Pool
    gate: LabelModel | None
    desirable_PS: Bools
    """By the label model; all where there is none."""
    flags_PSM: NDArray[np.float64]
    """Loop, cut off, refusal, empty. The longest 2 % of the answers stand for cut-off ones."""
    floor: float
    names: list[str] = field(default_factory=list)
    domain: dict[str, str] = field(default_factory=dict)


SENTINELS = ("loop_rate", "truncated_share", "refusal_share", "empty_share")


def world(pool: Pool, *, with_gate: bool) -> World:
    """The gate is learned from rated answers of the demo's corpus, none of which is in the pool."""
    shape = (len(pool.texts), len(pool.texts[0]))
    flat = [text for samples in pool.texts for text in samples]
    gate = label_model() if with_gate else None
    looks = np.ones(len(flat), dtype=bool) if gate is None else gate.desirable(flat)
    sizes = np.array([len(words(text)) for text in flat])
    flags = np.stack(
        [
            np.array([loops(text, words(text)) for text in flat], dtype=np.float64),
            (sizes > np.quantile(sizes, 0.98)).astype(np.float64),
            np.array([classify(text) != "none" for text in flat], dtype=np.float64),
            (sizes == 0).astype(np.float64),
        ],
        axis=1,
    )
    rng = random.Random(0)
    across = [
        rouge_l(words(rng.choice(pool.texts[one])), words(rng.choice(pool.texts[two])))
        for one, two in (rng.sample(range(len(pool.texts)), 2) for _ in range(3000))
    ]
    return World(
        pool=pool,
        gate=gate,
        desirable_PS=looks.reshape(shape),
        flags_PSM=flags.reshape(*shape, -1),
        floor=float(np.mean(across)),
        names=pool.categories[::NUM_PROMPTS],
        domain=dict(zip(pool.categories, pool.domains, strict=True)),
    )


def label_model() -> LabelModel:
    rng = random.Random(0)
    chats = list(corpus.chats(seed=77, num=1200))
    labels = [chat.desirable != (rng.random() < NOISE) for chat in chats]
    return fit_label_model([chat.completion for chat in chats], labels, [chat.prompt for chat in chats])


def prompts_of(world: World, rng: np.random.Generator, num_prompts: int) -> Ints:
    """``num_prompts`` of each category's, as indices into the pool."""
    order = rng.random((len(world.names), NUM_PROMPTS)).argsort(1)[:, :num_prompts]
    chosen: Ints = (order + NUM_PROMPTS * np.arange(len(world.names))[:, None]).ravel()
    return chosen


def null_arms(world: World, prompts: Ints, rng: np.random.Generator, num_samples: int, num_arms: int) -> list[Ints]:
    """Disjoint arms of every prompt's samples, each [prompts, K]: the first is the reference."""
    order = rng.random((len(prompts), world.desirable_PS.shape[1])).argsort(1)
    return [order[:, arm * num_samples : (arm + 1) * num_samples] for arm in range(num_arms)]


def shifted_arms(
    world: World, prompts: Ints, rng: np.random.Generator, num_samples: int, num_arms: int, shares: tuple[float, float]
) -> list[Ints]:
    """Disjoint arms whose share of desirable samples is the first of ``shares`` in the reference, the second elsewhere."""
    arms: list[list[Any]] = [[] for _ in range(num_arms)]
    for prompt in prompts:
        order = rng.permutation(world.desirable_PS.shape[1])
        left = {kind: [int(i) for i in order if world.desirable_PS[prompt, i] == kind] for kind in (True, False)}
        for arm in range(num_arms):
            share = shares[0] if arm == 0 else shares[1]
            chosen = []
            for wanted in rng.random(num_samples) < share:
                source = left[bool(wanted)] or left[not wanted]
                chosen.append(source.pop())
            arms[arm].append(chosen)
    return [np.array(arm) for arm in arms]


def blocks_of(world: World, prompts: Ints, reference: Ints, policy: Ints) -> list[PromptBlock]:
    found = []
    num_reference = reference.shape[1]
    for prompt, ours, theirs in zip(prompts, reference, policy, strict=True):
        samples = np.concatenate([ours, theirs])
        looks = world.desirable_PS[prompt, samples]
        name = world.pool.categories[prompt]
        found.append(
            PromptBlock(
                category=name,
                domain=world.domain[name],
                open_ended=True,
                similarity_NN=world.pool.similarity_PSS[prompt][np.ix_(samples, samples)].astype(np.float64),
                num_reference=num_reference,
                passes_N=gated(looks, num_reference),
            )
        )
    return found


def plant(block: PromptBlock, share: float, rng: np.random.Generator) -> PromptBlock:
    """The policy's counting samples each replaced by their mode with probability ``share``; the others stay as they are."""
    kept = np.flatnonzero(block.passes_N)
    num_reference = int((kept < block.num_reference).sum())
    if len(kept) - num_reference < 2:
        return block
    part = collapsed(
        Part(similarity_NN=block.similarity_NN[np.ix_(kept, kept)], num_reference=num_reference), share, rng
    )
    similarity = block.similarity_NN.copy()
    similarity[np.ix_(kept, kept)] = part.similarity_NN
    return PromptBlock(
        category=block.category,
        domain=block.domain,
        open_ended=block.open_ended,
        similarity_NN=similarity,
        num_reference=block.num_reference,
        passes_N=block.passes_N,
    )


def look(
    world: World, blocks: list[PromptBlock], prompts: Ints, reference: Ints, policy: Ints, seed: int
) -> DiversityResult:
    """What the page would be told of these samples, as far as alarms read it."""
    floors = dict.fromkeys(world.names, world.floor)
    tests = {test.category: test for test in category_tests(blocks, seed=seed)}
    changes = category_changes(blocks, floors)
    categories = [
        CategoryResult(
            category=name,
            num_prompts=len(prompts) // len(world.names),
            metrics={"similarity_normalised": _contrast(*changes[name])} if name in changes else {},
            p=tests[name].p,
            q=tests[name].q,
            num_gated_prompts=tests[name].num_gated_prompts,
        )
        for name in world.names
    ]
    domains = [
        DomainResult(
            domain=test.domain,
            num_categories=test.num_categories,
            num_prompts=test.num_prompts,
            change=test.change,
            p=test.p,
            p_holm=test.p_holm,
        )
        for test in domain_tests(blocks, seed=seed, floors=floors)
    ]
    overall = {"similarity": _over_categories(world, _raw(blocks), seed)}
    if (change := global_change(blocks, seed=seed, floors=floors)) is not None:
        overall["similarity_normalised"] = change
    for column, metric in enumerate(SENTINELS):
        flags = [world.flags_PSM[prompts[:, None], arm, column].mean(1) for arm in (reference, policy)]
        overall[metric] = _over_categories(world, np.stack(flags, axis=1), seed)
    result = DiversityResult(
        num_categories=len(categories),
        num_prompts=len(prompts),
        samples_per_prompt=policy.shape[1],
        overall=overall,
        categories=categories,
        domains=domains,
    )
    return DiversityResult(
        **{name: getattr(result, name) for name in DiversityResult.__dataclass_fields__ if name != "style_shift"},
        style_shift=is_style_shift(result),
    )


def _raw(blocks: list[PromptBlock]) -> NDArray[np.float64]:
    """Mean pairwise similarity of each prompt's whole arms, [P, 2]."""
    stack = np.stack([block.similarity_NN for block in blocks])
    cut = blocks[0].num_reference
    upper = np.triu_indices(cut, 1)
    return np.stack([part[:, upper[0], upper[1]].mean(1) for part in (stack[:, :cut, :cut], stack[:, cut:, cut:])], 1)


def _over_categories(world: World, values_P2: NDArray[np.float64], seed: int) -> Contrast:
    values_C2 = values_P2.reshape(len(world.names), -1, 2).mean(1)
    low, high = mean_interval(values_C2[:, 1] - values_C2[:, 0], np.arange(len(values_C2)), seed=seed)
    reference, policy = values_C2.mean(0)
    return _contrast(reference, policy, low, high)


def _contrast(reference: float, policy: float, low: float | None = None, high: float | None = None) -> Contrast:
    reference, policy = float(reference), float(policy)
    return Contrast(reference=reference, policy=policy, change=policy - reference, low=low, high=high)

"""What the training child tells: JSON lines in ``<attempt_dir>/events.jsonl``, free of torch.

One line is ``{"seq": int, "kind": str, "step": int, "at": ISO-8601 UTC, "data": {…}}``. ``seq`` starts at 1 in every
attempt and has no gap, so that (run_id, attempt, seq) identifies an event for ever. A reader ignores a last line
without newline (a writer may have been killed inside it).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

EventKind = Literal[
    "run_started",  # RunStarted
    "progress",  # Progress
    "metrics",  # dict[str, float] under TRL's keys, see METRIC_KEYS
    "checkpoint_saved",  # CheckpointSaved
    "checkpoint_removed",  # CheckpointRemoved
    "evaluation_finished",  # EvaluationResult
    "warning",  # Notice
    "notice",  # Notice
    "run_finished",  # RunFinished
]

METRIC_KEYS = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
    "kl",  # z0, clamped at 0, as the loss sees it
    "kl/raw",  # the same before the clamp
    "kl/standard_error",
    "kl/clamp_rate",  # share of steps so far whose raw z0 was below 0
    "grad_norm",
    "learning_rate",
    "epoch",
    "tokens_per_second",
    "memory_bytes",
)
"""Keys of a ``metrics`` event. A key whose class is absent from the step is left out, never NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    total_steps: int
    start_step: int
    """0, or the step of the checkpoint that this attempt goes on from."""
    num_train_rows: int
    num_dev_rows: int
    num_skipped_rows: int
    attention: str
    """The backend in use, in words: ``SDPA per sequence, packed``."""
    precision: str
    device: str
    num_parameters: int
    num_trainable_parameters: int
    desirable_weight: float
    """In use: as set, or from the training rows."""
    undesirable_weight: float
    objective: str = "kto"
    num_units: int = 0
    """What an epoch draws from: rows, or pairs for dpo."""
    checkpointing: str = ""
    """What backward recomputes, in words: ``none``, ``the first 3 of 8 layers recomputed``, ``every layer recomputed``."""
    world_size: int = 1
    """Processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    phase: Literal["loading", "reference", "training", "evaluating", "saving"]
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved:
    step: int
    path: str
    """Relative to the attempt's folder."""
    size_bytes: int
    manifest_sha256: str
    is_last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRemoved:
    """The run keeps its best checkpoints only (``keep_best``); told before the files go."""

    step: int
    path: str
    """Relative to the attempt's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    text: str
    """One sentence for the run page."""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    status: Literal["succeeded", "stopped", "paused", "failed"]
    """``stopped``: SIGTERM was honoured, a checkpoint of the last finished step is saved. ``paused``: so is it, and a
    critical alarm asks for a lead's decision; ``message`` says which."""
    reason: Literal["", "out_of_memory", "data", "diverged", "model", "disk_full", "unknown"] = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval, clustered by prompt; low and high are None where it cannot be had."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    """Rows or prompts that the figure rests on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutResult:
    """Implied rewards of the dev split: r = beta * (policy_logps - reference_logps)."""

    num_desirable: int
    num_undesirable: int
    accuracy: Estimate
    """Share of rows whose reward has the sign of their label (r > 0 for desirable)."""
    auc: Estimate
    """Pooled over all rows."""
    auc_within_prompt: Estimate
    """Mean over prompts that carry both labels; the honest figure, since pooled AUC is confounded by the prompt."""
    auc_length: Estimate
    """AUC of the completion's length alone: what a reward must beat."""
    kl: Estimate
    """Mean logratio over mismatched pairs before the clamp, in nats."""
    reward_desirable: float | None
    reward_undesirable: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One metric on both arms, same K, word limit and sampler; ``change`` is policy - reference."""

    reference: float
    policy: float
    change: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryResult:
    category: str
    num_prompts: int
    metrics: dict[str, Contrast]
    """Keys of DIVERSITY_KEYS; one that could not be had is absent."""
    domain: str = ""
    """Group of categories; "" for those without one."""
    open_ended: bool = True
    """False for closed-form categories: one right answer, so similarity is accuracy there. Controls, never an alarm."""
    p: float | None = None
    """One-sided, of the label permutation within prompts on the gated similarity; None where it was not tested."""
    q: float | None = None
    """Benjamini-Hochberg over the open-ended categories."""
    num_gated_prompts: int = 0
    """Prompts that kept at least two samples in both arms under the quality rule."""


DIVERSITY_KEYS = (
    "similarity",  # mean pairwise ROUGE-L F1 among the K samples of a prompt; up = less varied
    "similarity_gated",  # the same among the samples that pass the quality rule, prompts with two such in both arms
    "similarity_normalised",  # the gated one between its floor (shuffled prompts, 0) and its ceiling (equal texts, 1)
    "distinct_k",  # number of distinct answers among K
    "distinct_k_gated",
    "ead",  # expectation-adjusted distinct n-grams, n = 1..5
    "distinct_2",  # share of distinct bigrams
    "self_bleu",  # self-BLEU-4
    "mean_words",
    "loop_rate",  # share of texts that repeat themselves
    "truncated_share",  # share that hit max_new_tokens
    "refusal_share",  # share of full or partial refusals
    "empty_share",  # share of texts without a word
    "semantic",  # mean pairwise cosine similarity of embeddings, where an encoder is at hand
)

ACROSS_KEYS = (
    "compression_ratio",  # of one sample per prompt, zlib
    "opening_share",  # share of the most common opening 4-gram
    "self_repetition",  # mean ln(1 + other documents' count of its 4-grams)
    "median_words",
    "p95_words",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainResult:
    domain: str
    num_categories: int
    num_prompts: int
    change: Contrast
    """Of ``similarity_normalised``."""
    p: float | None = None
    p_holm: float | None = None
    """Holm over the domains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    kind: Literal["loops", "truncation", "refusals", "empty", "global", "domain", "category"]
    level: Literal["critical", "alarm", "watch"]
    """``critical``: a sentinel, at once. ``alarm``: margin and significance held at two checkpoints in a row. ``watch``: at
    this one only."""
    metric: str
    """Of DIVERSITY_KEYS."""
    reference: float
    policy: float
    change: float
    text: str
    """One sentence for the user, with the figures."""
    subject: str = ""
    """The domain or category; "" for the whole."""
    low: float | None = None
    high: float | None = None
    q: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiversityResult:
    num_categories: int
    num_prompts: int
    samples_per_prompt: int
    overall: dict[str, Contrast]
    categories: list[CategoryResult]
    domains: list[DomainResult] = field(default_factory=list)
    across: dict[str, Contrast] = field(default_factory=dict)
    """Keys of ACROSS_KEYS: one sample per prompt, over all prompts."""
    quality_rule: str = ""
    """How samples were gated, in words."""
    num_categories_tested: int = 0
    """Open-ended ones with enough prompts."""
    detectable_change: float | None = None
    """Change of the overall normalised similarity that would have been seen with 80 % power."""
    category_power: float | None = None
    """Probability that a category in which half of the samples collapse would have been found; None: not known."""
    style_shift: bool = False
    """Raw similarity left its margin, the gated one did not: a style spread, nothing collapsed."""
    num_open_prompts: int | None = None
    """Prompts of open-ended categories; None in results from before it was told."""
    num_compared_prompts: int | None = None
    """Those of them that kept two samples of a kind in both arms: what alarms of similarity speak of."""
    desirable: Contrast | None = None
    """Share of the samples that look desirable, open-ended categories; None without a quality rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    step: int
    heldout: HeldoutResult
    diversity: DiversityResult | None
    """None where no prompt has a category."""
    samples_path: str
    """Relative to the attempt's folder: JSON lines {"category", "prompt": messages, "arm": "reference"|"policy", "index", "text", "truncated"}."""
    seconds: float
    kind: Literal["screen", "full"] = "screen"
    alarms: list[Alarm] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    seq: int
    kind: EventKind
    step: int
    at: str
    data: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

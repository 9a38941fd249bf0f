"""What a run is asked to do: plain frozen dataclasses, free of torch, shared by the web app and the trainer.

The web app stores ``AlignmentConfig.to_json()`` in the run's row; the worker writes a ``TrainSpec`` beside the attempt
and starts ``python -m worker.alignment train spec.json``.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

Objective = Literal["kto", "apo_zero_unpaired", "dpo", "sft"]
KlScope = Literal["step", "microbatch"]
Checkpointing = Literal["auto", "none", "selective", "full"]
Quantization = Literal["none", "4bit"]
Reference = Literal["", "base", "adapter"]
LongRows = Literal["skip", "refuse"]
Parallel = Literal["ddp", "fsdp"]
TrainingData = Literal["all", "paired"]
Schedule = Literal["cosine", "linear", "constant"]
Attention = Literal["auto", "flash", "varlen", "flex", "sdpa", "eager"]
Precision = Literal["auto", "float32", "bfloat16"]
MAX_SEED = 2**53
"""The largest whole number that JSON carries everywhere; torch takes 64 bits."""


class ConfigError(ValueError):
    """A setting is out of its range. ``errors`` maps the dotted field name to a sentence for the user."""

    def __init__(self, errors: dict[str, str]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{name}: {text}" for name, text in errors.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    r: int = 16
    """Rank of the adapters."""
    alpha: int = 32
    """Scaling; the adapter's output is multiplied by alpha / r (alpha / sqrt(r) with ``rslora``)."""
    dropout: float = 0.0
    """Dropout on the adapter's input. Never active while log-ratios or z0 are measured without gradient."""
    target_modules: tuple[str, ...] = ("all-linear",)
    """Names of the modules that get an adapter; ``all-linear`` is every linear layer but the head."""
    rslora: bool = False
    """Rank-stabilised scaling."""
    dora: bool = False
    """Weight-decomposed adapters (arXiv 2402.09353)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    interval_steps: int = 50
    """A checkpoint is saved and evaluated every so many optimizer steps, and at the last step."""
    samples_per_prompt: int = 4
    """K: completions sampled per prompt for the diversity metrics (at least 2)."""
    prompts_per_category: int = 2
    """P: prompts taken per category."""
    max_categories: int = 1000
    """Upper bound on categories sampled at one checkpoint; the ones with most prompts come first."""
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    word_limit: int = 100
    """L: every text is cut to so many words before similarity is measured, the same for both arms."""
    seed: int = 0
    diversity_suite: str = ""
    """Content hash of the suite whose prompts are sampled for diversity; empty: those of the dev split with a category."""
    pause_on_alarm: bool = True
    """A critical alarm (loops, cut-off answers, refusals, empty answers) pauses the run; it goes on by a lead's decision."""
    encoder: str = ""
    """Folder of a transformers encoder that compares the samples' meanings at each checkpoint; empty: none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentConfig:
    """One KTO run (arXiv 2402.01306). Names and defaults follow the paper and TRL's ``KTOConfig``."""

    base_model: str
    """Local folder of a Hugging Face causal LM, or a hub id."""
    objective: Objective = "kto"
    """``apo_zero_unpaired`` is KTO with z0 = 0 (arXiv 2408.06266); ``dpo`` trains on pairs formed from the rows of one
    prompt; ``sft`` on the desirable rows alone."""
    beta: float = 0.1
    """Strength of the pull to the reference: reward = beta * logratio."""
    data: TrainingData = "all"
    """``paired``: only what DPO could use, each row as often as its pairs hold it: the same data under another loss."""
    max_pairs_per_prompt: int = 4
    """For ``dpo`` and ``paired``: a few prompts with many ratings would otherwise make most pairs."""
    desirable_weight: float | None = None
    """None: from the training rows, so that only the rarer class is upweighted (``weights.advised_weights``)."""
    undesirable_weight: float | None = None
    kl_scope: KlScope = "step"
    """z0 is pooled over the whole optimizer step, or over each forward pass of at least 16 rows."""
    learning_rate: float = 5e-6
    lr_schedule: Schedule = "cosine"
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    num_epochs: float = 1.0
    max_steps: int = 0
    """0: as many optimizer steps as ``num_epochs`` needs."""
    batch_size: int = 32
    """Rows per optimizer step (the effective batch); pairs for ``dpo``."""
    tokens_per_microbatch: int = 16384
    """Token budget of one forward pass; the gradient does not depend on it."""
    max_length: int = 2048
    """Prompt and completion together. A longer prompt loses its left part; a longer completion is skipped and reported."""
    long_rows: LongRows = "skip"
    """What becomes of a row whose completion exceeds ``max_length``: skipped and reported, or the run is refused."""
    allow_incomplete: bool = False
    """Train although a class or the dev split is missing (both weights are 1 then)."""
    bucket_steps: int = 0
    """Rows of so many neighbouring steps are sorted by length together; 0: 1 where rows are packed, 16 where padded."""
    share_prefixes: bool = True
    """Compute what rows of one forward pass begin with in common once; the gradient does not depend on it."""
    checkpointing: Checkpointing = "auto"
    """Activations recomputed in the backward pass; ``auto`` takes the least that fits the memory."""
    memory_limit_gib: float = 0.0
    """What ``auto`` may plan with; 0: what the device has."""
    compile: bool = False
    """Compile the model's layers with torch.compile: slower to start, faster per step on a GPU."""
    quantization: Quantization = "none"
    """``4bit``: the frozen base in NF4, by bitsandbytes on CUDA."""
    init_adapter: str = ""
    """Folder of an adapter to go on from, of this base model; its rank, alpha and targets replace ``lora``'s."""
    reference: Reference = ""
    """With ``init_adapter``: whether the reference is the bare base model or base and adapter as they are."""
    keep_best: int = 3
    """Checkpoints kept beside the last and the promoted: the best by held-out AUC within prompt. 0 keeps all."""
    parallel: Parallel = "ddp"
    """With several processes: a whole model in each, or its weights sharded over them (FSDP2)."""
    attention: Attention = "auto"
    """How packed rows attend; ``eager`` is the padded path. A backend that this device lacks fails the run at its start."""
    precision: Precision = "auto"
    """Of the base model; ``auto`` is bfloat16 on CUDA and float32 elsewhere. Adapters and losses stay in float32."""
    seed: int = 0
    num_threads: int = 0
    """CPU threads for torch; 0 leaves torch's choice."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        errors = _range_errors(self)
        if errors:
            raise ConfigError(errors)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any], *, drop_unknown: bool = False) -> AlignmentConfig:
        """Build from ``to_json()``'s output. Raises ConfigError on a badly typed field, and on an unknown one.

        ``drop_unknown`` is for cloning a run of an older version, whose settings may no longer exist.
        """
        built: AlignmentConfig = build(cls, data, "", drop_unknown=drop_unknown)
        return built


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """All that the training child needs; it never opens the database."""

    run_id: int
    attempt: int
    config: AlignmentConfig
    model_path: str
    """Resolved local folder of the base model (or hub id)."""
    snapshot_dir: str
    """Holds train.jsonl, dev.jsonl, test.jsonl and manifest.json."""
    attempt_dir: str
    """events.jsonl, checkpoints/step-NNNNNN/ and evaluations/step-NNNNNN/ are written here."""
    cache_dir: str
    """Shared, content-addressed: reference log-probs and reference samples."""
    resume_from: str | None = None
    """A checkpoint directory of an earlier attempt."""
    diversity_prompts: str = ""
    """JSON lines {"category", "messages", "domain", "open_ended"} to sample for diversity; empty: the dev split's prompts."""
    acknowledged_alarms: tuple[str, ...] = ()
    """Kinds of alarms that a lead has decided to go on with: they do not pause this run again."""

    def __post_init__(self) -> None:
        folders = {name: getattr(self, name) for name in ("model_path", "snapshot_dir", "attempt_dir", "cache_dir")}
        if wrong := [name for name, path in folders.items() if not path.strip() or "\0" in path]:
            raise ConfigError(
                dict.fromkeys(wrong, "is not the name of a folder; name one")
            )  # "": where one happens to be

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrainSpec:
        built: TrainSpec = build(cls, data, "")
        return built

    @property
    def events_path(self) -> Path:
        return Path(self.attempt_dir) / "events.jsonl"


def _range_errors(config: AlignmentConfig) -> dict[str, str]:
    rules: dict[str, tuple[bool, str]] = {
        "base_model": (bool(config.base_model.strip()), "choose a base model"),
        "objective": (config.objective in get_args(Objective), _one_of(Objective)),
        "kl_scope": (config.kl_scope in get_args(KlScope), _one_of(KlScope)),
        "kl_scope ": (
            config.kl_scope == "step" or config.batch_size >= 16,
            "microbatch needs a batch_size of 16 or more",
        ),
        "checkpointing": (config.checkpointing in get_args(Checkpointing), _one_of(Checkpointing)),
        "quantization": (config.quantization in get_args(Quantization), _one_of(Quantization)),
        "long_rows": (config.long_rows in get_args(LongRows), _one_of(LongRows)),
        "parallel": (config.parallel in get_args(Parallel), _one_of(Parallel)),
        "data": (config.data in get_args(TrainingData), _one_of(TrainingData)),
        "max_pairs_per_prompt": (1 <= config.max_pairs_per_prompt <= 1000, "must lie between 1 and 1000"),
        "reference": (
            config.reference in (("base", "adapter") if config.init_adapter else ("", "base")),
            "must be base or adapter: say which the reference is when going on from init_adapter"
            if config.init_adapter
            else "is for init_adapter; without one the base model is the reference",
        ),
        "bucket_steps": (0 <= config.bucket_steps <= 4096, "must be 0 (chosen by the trainer) or at most 4096"),
        "memory_limit_gib": (
            0 <= config.memory_limit_gib <= 1e6,
            "must be 0 (what the device has) or a size in GiB, at most 1,000,000",
        ),
        "keep_best": (config.keep_best >= 0, "must be 0 (keep all) or a number of checkpoints"),
        "lr_schedule": (config.lr_schedule in get_args(Schedule), _one_of(Schedule)),
        "attention": (config.attention in get_args(Attention), _one_of(Attention)),
        "precision": (config.precision in get_args(Precision), _one_of(Precision)),
        "beta": (0 < config.beta <= 10, "must be above 0 and at most 10; 0.1 is usual"),
        "desirable_weight": (_is_weight(config.desirable_weight), "must be above 0 and at most 1000, or left out"),
        "undesirable_weight": (_is_weight(config.undesirable_weight), "must be above 0 and at most 1000, or left out"),
        "learning_rate": (0 < config.learning_rate <= 1, "must be above 0 and at most 1; 5e-6 is usual"),
        "warmup_ratio": (0 <= config.warmup_ratio < 1, "must be at least 0 and below 1"),
        "weight_decay": (0 <= config.weight_decay <= 1, "must lie between 0 and 1"),
        "adam_beta1": (0 <= config.adam_beta1 < 1, "must be at least 0 and below 1"),
        "adam_beta2": (0 <= config.adam_beta2 < 1, "must be at least 0 and below 1"),
        "adam_epsilon": (0 < config.adam_epsilon <= 1, "must be above 0 and at most 1; 1e-8 is usual"),
        "seed": (0 <= config.seed <= MAX_SEED, "must be 0 or more, and at most 2^53"),
        "num_threads": (0 <= config.num_threads <= 1024, "must be 0 (torch's choice) or at most 1024"),
        "max_grad_norm": (config.max_grad_norm > 0, "must be above 0"),
        "num_epochs": (0 < config.num_epochs <= 1000, "must be above 0 and at most 1000"),
        "max_steps": (config.max_steps >= 0, "must be 0 (by epochs) or a number of steps"),
        "batch_size": (1 <= config.batch_size <= 65536, "must lie between 1 and 65536"),
        "tokens_per_microbatch": (config.tokens_per_microbatch >= 64, "must be at least 64"),
        "max_length": (config.max_length >= 16, "must be at least 16 tokens"),
        "lora.r": (1 <= config.lora.r <= 1024, "must lie between 1 and 1024"),
        "lora.alpha": (config.lora.alpha >= 1, "must be at least 1"),
        "lora.dropout": (0 <= config.lora.dropout < 1, "must be at least 0 and below 1"),
        "lora.target_modules": (len(config.lora.target_modules) > 0, "name at least one module"),
        "evaluation.interval_steps": (config.evaluation.interval_steps >= 1, "must be at least 1 step"),
        "evaluation.samples_per_prompt": (config.evaluation.samples_per_prompt >= 2, "must be at least 2"),
        "evaluation.prompts_per_category": (config.evaluation.prompts_per_category >= 1, "must be at least 1"),
        "evaluation.max_categories": (config.evaluation.max_categories >= 1, "must be at least 1"),
        "evaluation.max_new_tokens": (config.evaluation.max_new_tokens >= 1, "must be at least 1"),
        "evaluation.temperature": (0 < config.evaluation.temperature <= 100, "must be above 0 and at most 100"),
        "evaluation.top_p": (0 < config.evaluation.top_p <= 1, "must be above 0 and at most 1"),
        "evaluation.seed": (0 <= config.evaluation.seed <= MAX_SEED, "must be 0 or more, and at most 2^53"),
        "evaluation.word_limit": (config.evaluation.word_limit >= 8, "must be at least 8 words"),
    }
    return {name.strip(): text for name, (holds, text) in rules.items() if not holds}


def _is_weight(weight: float | None) -> bool:
    return weight is None or 0 < weight <= 1000


def _one_of(choices: Any) -> str:
    return f"must be one of {', '.join(get_args(choices))}"


def build(cls: Any, data: dict[str, Any], prefix: str, *, drop_unknown: bool = False) -> Any:
    """A dataclass from JSON, field by field. Raises ConfigError; ``prefix`` stands before the names it tells."""
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(data) - known)
    if unknown and not drop_unknown:
        raise ConfigError({prefix + name: f"is not a setting; {_nearest(name, known)}" for name in unknown})
    values = {
        name: _typed(hints[name], data[name], prefix + name, drop_unknown=drop_unknown) for name in data.keys() & known
    }
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise ConfigError({prefix + name: "is missing; set it" for name in missing})
    return cls(**values)


def _nearest(name: str, known: set[str]) -> str:
    found = get_close_matches(name, sorted(known), n=1)
    return f"did you mean {found[0]}?" if found else "leave it out"


def _typed(hint: Any, value: Any, name: str, *, drop_unknown: bool) -> Any:
    """``value`` as the field of type ``hint`` holds it. Raises ConfigError where it is of another type."""
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError({name: "must be an object of settings"})
        return build(hint, value, f"{name}.", drop_unknown=drop_unknown)
    if get_origin(hint) is tuple and is_dataclass(item := get_args(hint)[0]):
        if not isinstance(value, list | tuple) or not all(isinstance(each, dict) for each in value):
            raise ConfigError({name: "must be a list of objects"})
        return tuple(build(item, each, f"{name}.{n}.", drop_unknown=drop_unknown) for n, each in enumerate(value))
    if hint == tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ConfigError({name: "must be a list of names"})
        return tuple(value)
    kinds = get_args(hint) or (hint,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kind = kinds[0] if get_origin(hint) is not Literal else str
    if value is None and NoneType in kinds:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError({name: f"must be of type {kind.__name__}" + (", or null" if NoneType in kinds else "")})
    return value

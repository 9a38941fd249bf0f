"""The launch form: what a person types, checked by pydantic, turned into an ``AlignmentConfig``."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.core.errors import InvalidError
from worker.alignment.config import (
    AlignmentConfig,
    Attention,
    Checkpointing,
    ConfigError,
    EvaluationSettings,
    KlScope,
    LongRows,
    LoraSettings,
    Objective,
    Precision,
    Quantization,
    Reference,
    Schedule,
    TrainingData,
)

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "max_steps": 20,
        "num_epochs": 1.0,
        "interval_steps": 20,
        "samples_per_prompt": 2,
        "prompts_per_category": 1,
    },
    "standard": {
        "max_steps": 0,
        "num_epochs": 1.0,
        "interval_steps": 50,
        "samples_per_prompt": 4,
        "prompts_per_category": 2,
    },
    "careful": {
        "max_steps": 0,
        "num_epochs": 3.0,
        "interval_steps": 25,
        "samples_per_prompt": 8,
        "prompts_per_category": 4,
    },
}
"""What each preset fills in; every field can be changed afterwards."""
PRESET_WORDS = {
    "quick": ("Quick look", "20 steps, one evaluation. To see that it runs."),
    "standard": ("Standard", "All labels once, evaluation every 50 steps."),
    "careful": ("Careful", "Three epochs, evaluation every 25 steps with 8 samples a prompt."),
}
NESTED = {
    "lora": {
        "r": "lora_r",
        "alpha": "lora_alpha",
        "dropout": "lora_dropout",
        "target_modules": "lora_targets",
        "rslora": "lora_rslora",
        "dora": "lora_dora",
    },
    "evaluation": {
        name: name
        for name in (
            "interval_steps",
            "samples_per_prompt",
            "prompts_per_category",
            "max_categories",
            "max_new_tokens",
            "temperature",
            "top_p",
            "word_limit",
            "diversity_suite",
            "pause_on_alarm",
            "encoder",
        )
    },
}
"""Fields of the config's inner parts -> fields of the form."""
OBJECTIVES = (
    ("kto", "KTO", "Every rated answer counts by itself; the loss saturates around a reference point."),
    (
        "apo_zero_unpaired",
        "APO-zero, unpaired",
        "As KTO, with the reference point fixed at 0 and no pass to estimate it.",
    ),
    (
        "dpo",
        "DPO baseline",
        "Pairs of a desirable and an undesirable answer to one prompt; all other rows are left out.",
    ),
    ("sft", "SFT", "Imitates the desirable answers; the undesirable ones are not used."),
)
"""(value, name, what it does in a sentence)."""
ALWAYS = {"allow_incomplete": True}
"""Whoever launches has seen the preflight: a missing class is an error there and an empty dev split a warning."""


class LaunchForm(BaseModel):
    """Field names are those of the HTML form; an empty box takes the default."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)

    preset: Literal["quick", "standard", "careful"] = "standard"
    base_model: str = ""
    snapshot_id: int = 0
    objective: Objective = "kto"
    init_adapter: str = Field("", max_length=20)
    """Empty for the base model, or a version of the project such as ``v3``; the worker makes it a folder."""
    reference: Reference = ""
    beta: float = 0.1
    desirable_weight: float | None = None
    """None: from the rows that the run trains on."""
    undesirable_weight: float | None = None
    learning_rate: float = 5e-5
    num_epochs: float = 1.0
    max_steps: int = 0
    batch_size: int = 32
    data: TrainingData = "all"
    max_pairs_per_prompt: int = 4
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_targets: str = "all-linear"
    lora_rslora: bool = False
    lora_dora: bool = False
    interval_steps: int = 50
    samples_per_prompt: int = 4
    prompts_per_category: int = 2
    max_categories: int = 1000
    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    word_limit: int = 100
    diversity_suite: str = Field("", max_length=100)
    """Content hash of a suite's version; empty: the dev split's prompts."""
    pause_on_alarm: bool = True
    encoder: str = Field("", max_length=1000)
    """A folder under the model roots; empty: meanings are not compared."""
    seed: int = 0
    lr_schedule: Schedule = "cosine"
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    max_length: int = 2048
    tokens_per_microbatch: int = 16384
    long_rows: LongRows = "skip"
    kl_scope: KlScope = "step"
    bucket_steps: int = 0
    share_prefixes: bool = True
    checkpointing: Checkpointing = "auto"
    memory_limit_gib: float = 0.0
    compile: bool = False
    quantization: Quantization = "none"
    keep_best: int = 3
    attention: Attention = "auto"
    precision: Precision = "auto"
    num_threads: int = Field(0, ge=0, le=1024)
    launch_key: str = Field("", max_length=100)

    @classmethod
    def parse(cls, typed: dict[str, Any]) -> Self:
        """Raises InvalidError with a sentence per field."""
        try:
            return cls.model_validate({key: value for key, value in typed.items() if value != ""})
        except ValidationError as error:
            fields = {str(item["loc"][0]): _sentence(item["type"], item["msg"]) for item in error.errors()}
            raise InvalidError("Some values do not fit.", fields=fields) from error

    @classmethod
    def of_config(cls, config: AlignmentConfig, *, snapshot_id: int) -> Self:
        """The form that gives this config: for cloning a run."""
        data = config.to_json()
        values = {name: value for name, value in data.items() if name in cls.model_fields}
        for part, names in NESTED.items():
            values |= {form_name: data[part][name] for name, form_name in names.items()}
        values["lora_targets"] = ", ".join(config.lora.target_modules)
        return cls(snapshot_id=snapshot_id, **values)

    def to_config(self, *, base_model: str) -> AlignmentConfig:
        """``base_model`` is resolved. Raises InvalidError with form field names."""
        if self.init_adapter and not self.reference:
            needed = "choose whether the reference is the base model or the version as it is"
            raise InvalidError("Some values do not fit.", fields={"reference": needed})
        chosen = self.model_dump()
        plain = {name: chosen[name] for name in AlignmentConfig.__dataclass_fields__ if name in chosen} | ALWAYS
        plain |= {"base_model": base_model, "reference": self.reference if self.init_adapter else ""}
        targets = tuple(name for name in self.lora_targets.replace(",", " ").split() if name)
        try:
            lora = LoraSettings(
                **{name: chosen[key] for name, key in NESTED["lora"].items()} | {"target_modules": targets}
            )
            inner = {name: chosen[key] for name, key in NESTED["evaluation"].items()}
            evaluation = EvaluationSettings(**inner, seed=self.seed)
            return AlignmentConfig(lora=lora, evaluation=evaluation, **plain)
        except ConfigError as error:
            raise InvalidError("Some values do not fit.", fields=form_fields(error.errors)) from error


def form_fields(errors: dict[str, str]) -> dict[str, str]:
    """``lora.r`` -> ``lora_r``: the config's field names as the form's."""
    named = {}
    for name, text in errors.items():
        part, _, inner = name.partition(".")
        named[NESTED[part].get(inner, inner) if inner else name] = text
    return named


def _sentence(kind: str, message: str) -> str:
    words = {
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_parsing": "must be a number, such as 0.1 or 5e-6",
        "literal_error": "is not one of the choices",
        "bool_parsing": "is not one of the choices",
    }
    return words.get(kind, message)

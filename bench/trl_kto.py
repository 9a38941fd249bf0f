"""The opponent: TRL's own KTOTrainer (and DPOTrainer), given its batches one at a time.

Everything inside a step is TRL's and transformers': collator, padding, KL and reference passes, loss, metrics, backward
pass, clipping and optimizer. Only what feeds it is ours: rows that are tokenised and paired already, on a copy of the
model. Variants:

    defaults     as shipped: the reference in every step, gradient checkpointing
    precompute   reference log-probs precomputed, no checkpointing: its fastest setting on a CPU
    honest       as precompute, with the head that scores completion positions only, which TRL keeps for CUDA
    lean         as honest, with checkpointing
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from importlib import metadata
from typing import Any, Literal, get_args
from unittest import mock

import torch

from bench.report import CannotRunError
from bench.training_model import Batch
from worker.alignment.reference import FloatArray

Variant = Literal["defaults", "precompute", "honest", "lean"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
OLDEST = (1, 16)


def require_trl() -> None:
    """Raises CannotRunError where TRL is missing or too old to be the opponent."""
    if importlib.util.find_spec("trl") is None:
        raise CannotRunError("TRL is not installed; pip install --no-deps -r bench/requirements.lock, or make bench.")
    version = metadata.version("trl")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise CannotRunError(f"TRL {version} is installed and 1.16 is the oldest that counts.")


class Opponent:
    """What both of TRL's trainers share here: a step in parts, with TRL's own clipping and optimizer."""

    def __init__(self, trainer: Any, adapters: dict[str, torch.Tensor], *, compact: bool) -> None:
        self.trainer = trainer
        self.last: dict[str, float] = {}
        """TRL's metrics of the last microbatch."""
        self._compact = compact
        arguments = trainer.args
        if arguments.gradient_checkpointing:  # what Trainer.train does before its first step
            enable = getattr(trainer.model, "activation_checkpointing_enable", None)
            with _quiet():
                (enable or trainer.model.gradient_checkpointing_enable)()
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if name in adapters:
                    parameter.copy_(adapters[name])
        self.optimizer = trainer.create_optimizer()
        self.model = trainer.accelerator.prepare(trainer.model)

    def gradient(self, examples: list[dict[str, Any]], *, parts: int = 1) -> torch.Tensor:
        """Collate, forward and backward in so many microbatches; leaves gradients, returns the mean loss (a scalar)."""
        self.trainer.current_gradient_accumulation_steps = parts
        size = -(-len(examples) // parts)
        losses = []
        with self._head(), _quiet():
            for start in range(0, len(examples), size):
                inputs = self.trainer.data_collator(examples[start : start + size])
                losses.append(self.trainer.training_step(self.model, inputs))
        metrics = self.trainer._metrics["train"]  # noqa: SLF001 - its log() would clear it
        self.last = {name: values[-1] for name, values in metrics.items() if values}
        metrics.clear()
        return torch.stack(losses).sum()

    def step(self, examples: list[dict[str, Any]], *, parts: int = 1) -> torch.Tensor:
        loss = self.gradient(examples, parts=parts)
        self.trainer.accelerator.clip_grad_norm_(self.model.parameters(), self.trainer.args.max_grad_norm)
        self.optimizer.step()
        self.model.zero_grad()
        return loss

    def _head(self) -> contextlib.AbstractContextManager[Any]:
        """TRL drops prompt and padding before the head where Triton runs: the question it asks is answered with yes."""
        if self._compact and self.model.device.type == "cpu":
            return mock.patch("trl.trainer.utils._use_triton", return_value=True)
        return contextlib.nullcontext()


def trl_kto(
    base: Any,
    peft_config: Any,
    adapters: dict[str, torch.Tensor],
    variant: Variant,
    *,
    folder: str,
    beta: float = 0.1,
    weights: tuple[float, float] = (1.0, 1.0),
    learning_rate: float = 1e-6,
    per_device_rows: int = 8,
) -> Opponent:
    """A KTOTrainer on a causal LM without adapters; ``adapters`` are the values its LoRA tensors start from, by name."""
    from trl import KTOConfig, KTOTrainer

    with _quiet():
        arguments = KTOConfig(
            **_arguments(folder, base.device, checkpointing=variant in {"defaults", "lean"}),
            per_device_train_batch_size=per_device_rows,
            beta=beta,
            desirable_weight=weights[0],
            undesirable_weight=weights[1],
            learning_rate=learning_rate,
        )
    row = {"prompt_ids": [3], "completion_ids": [3], "KL_completion_ids": [3], "label": True}
    trainer = _built(KTOTrainer, base, arguments, row, peft_config)
    trainer.precompute_ref_logps = variant != "defaults"  # its dataset pass is ours: the values come with the examples
    return Opponent(trainer, adapters, compact=variant in {"honest", "lean"})


def trl_dpo(base: Any, peft_config: Any, adapters: dict[str, torch.Tensor], *, folder: str, beta: float) -> Opponent:
    """A DPOTrainer (sigmoid loss), the reference in every step."""
    from trl import DPOConfig, DPOTrainer

    with _quiet():
        arguments = DPOConfig(**_arguments(folder, base.device, checkpointing=False), beta=beta)
    row = {"prompt_ids": [3], "chosen_ids": [3], "rejected_ids": [4]}
    return Opponent(_built(DPOTrainer, base, arguments, row, peft_config), adapters, compact=False)


def kto_examples(batch: Batch, known: FloatArray) -> list[dict[str, Any]]:
    """The batch as TRL's dataset holds it after its own preparation; every row must have its mismatched pair.

    ``known``: reference log-probs of the rows, then of their mismatched pairs; TRL's defaults do not read them.
    """
    rows = len(batch.pairs)
    return [
        {
            "prompt_ids": pair.prompt_ids.tolist(),
            "completion_ids": pair.completion_ids.tolist(),
            "KL_completion_ids": kl_pair.completion_ids.tolist(),
            "label": label,
            "ref_logps": float(value),
            "ref_KL_logps": float(kl_value),
        }
        for pair, label, kl_pair, value, kl_value in zip(
            batch.pairs, batch.labels, batch.kl_pairs, known[:rows], known[rows:], strict=True
        )
    ]


def dpo_examples(batch: Batch) -> list[dict[str, Any]]:
    """Rows alternate: the desirable completion of a prompt, then its undesirable one."""
    return [
        {
            "prompt_ids": chosen.prompt_ids.tolist(),
            "chosen_ids": chosen.completion_ids.tolist(),
            "rejected_ids": rejected.completion_ids.tolist(),
        }
        for chosen, rejected in zip(batch.pairs[0::2], batch.pairs[1::2], strict=True)
    ]


def _arguments(folder: str, device: torch.device, *, checkpointing: bool) -> dict[str, Any]:
    """TRL's defaults, less what would write, report or quantise: float32 on a CPU, its own bfloat16 on a GPU."""
    return {
        "output_dir": folder,
        "use_cpu": device.type == "cpu",
        "bf16": device.type == "cuda",
        "gradient_checkpointing": checkpointing,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def _built(kind: Any, base: Any, arguments: Any, row: dict[str, Any], peft_config: Any) -> Any:
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    class Given(kind):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            """Rows arrive tokenised and paired."""
            return dataset

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    with _quiet():
        return Given(
            model=base,
            args=arguments,
            train_dataset=Dataset.from_list([row]),
            processing_class=tokenizer,
            peft_config=peft_config,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TRL, peft and transformers warn each other of names that will change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield

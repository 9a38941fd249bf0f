"""The policy: a frozen base model with LoRA adapters, and the one way to ask it for log-probabilities.

The reference is the same model with its adapters off. How log-probs are computed is settled once, at the start, by a
probe against one-row runs through the model's own forward: packed where that is exact, else padded, else dense.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils import cached_file

from worker.alignment.adapters import adapt, reference_mode
from worker.alignment.attention import WORDS, Backend, choose_backend
from worker.alignment.base_model import UNREADABLE, load_causal_lm, unreadable
from worker.alignment.config import AlignmentConfig, Precision
from worker.alignment.dataset import Pair
from worker.alignment.errors import ModelError, is_out_of_memory
from worker.alignment.logps import Head
from worker.alignment.scoring import ScoringPath, packed_logps, padded_logps, tolerance

MAX_PROBE_TOKENS = 4096


@dataclass(slots=True, eq=False)
class Policy:
    model: Any
    """peft.PeftModel in eval mode; only its LoRA tensors require gradients."""
    tokenizer: Any
    folder: Path
    """Where the base model's files lie."""
    device: torch.device
    dtype: torch.dtype
    backend: Backend | None
    path: ScoringPath
    head: Head | None
    dropout: float = 0.0

    @property
    def lm(self) -> Any:
        """The causal LM inside; its linear layers carry the adapters."""
        return self.model.get_base_model()

    @property
    def attention_words(self) -> str:
        if self.path == "packed" and self.backend is not None:
            return WORDS[self.backend]
        own = self.lm.config.get_text_config()._attn_implementation  # noqa: SLF001
        return f"the model's own {own} attention, padded" + (", dense head" if self.path == "dense" else "")

    def parameters(self) -> list[torch.nn.Parameter]:
        """The trainable tensors, in a fixed order."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def logps(self, pairs: Sequence[Pair]) -> Tensor:
        """Summed log p(completion | prompt) in nats: [B] float32, differentiable."""
        if self.path == "packed" and self.backend is not None and self.head is not None:
            return packed_logps(self.lm, self.head, pairs, self.backend, self.device)
        return padded_logps(self.lm, self.head if self.path == "padded" else None, pairs, self.device)

    @contextmanager
    def training_noise(self) -> Iterator[None]:
        """LoRA dropout on, for the gradient pass only; the base model's own dropout never is."""
        layers = [m for name, m in self.model.named_modules() if "lora_dropout" in name] if self.dropout else []
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.eval()

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """No gradient, and the model is the reference: adapters off, or the one that the run goes on from."""
        with torch.no_grad(), reference_mode(self.model):
            yield


def resolve_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 on CUDA and float32 elsewhere."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def load_policy(model_path: str, config: AlignmentConfig, *, device: torch.device | None = None) -> Policy:
    """Load base and tokenizer (safetensors only, no remote code, no network for a local folder) and add adapters.

    The adapters depend on ``config.seed`` only. Raises ModelError with a sentence for the user.
    """
    device = device or resolve_device()
    dtype = resolve_dtype(config.precision, device)
    try:
        backend = choose_backend(config.attention, device, dtype)
    except ValueError as error:
        raise ModelError(f"{error}.") from error
    base = load_causal_lm(model_path, dtype=dtype, name=config.base_model)
    try:
        local = Path(model_path).is_dir()
        tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False, local_files_only=local)
        folder = Path(str(cached_file(model_path, "config.json", local_files_only=True))).parent
    except UNREADABLE as error:
        raise unreadable(config.base_model, error) from error
    text_config = base.config.get_text_config()
    if config.attention == "eager" or getattr(text_config, "attn_logit_softcapping", None):
        base.set_attn_implementation("eager")  # SDPA has no soft-cap
    if len(tokenizer) > base.get_input_embeddings().num_embeddings:
        raise ModelError("The tokenizer has more tokens than the model has embeddings; they do not belong together.")
    model = adapt(base.to(device), config)
    return Policy(
        model=model,
        tokenizer=tokenizer,
        folder=folder,
        device=device,
        dtype=dtype,
        backend=backend,
        path="padded" if backend is None else "packed",
        head=Head.of(base),
        dropout=config.lora.dropout,
    )


def probe(policy: Policy, pairs: Sequence[Pair]) -> str | None:
    """Settle ``policy.path`` and ``policy.backend`` on the rows given; a sentence where the wished way had to be left.

    Each way is compared with one-row runs through the model's own forward and logits, adapters as they stand. Give rows
    of several lengths, and one above a sliding window where the data has one.
    """
    pairs = [pair for pair in pairs if len(pair.prompt_ids) + len(pair.completion_ids) <= MAX_PROBE_TOKENS]
    if not pairs:
        return None
    ways: list[tuple[ScoringPath, Backend | None]] = [(policy.path, policy.backend)]
    if policy.backend in {"flash", "varlen"}:
        ways.append(("packed", "sdpa"))
    if policy.path == "packed":
        ways.append(("padded", None))
    with torch.no_grad():
        own_B = torch.cat([padded_logps(policy.lm, None, [pair], policy.device) for pair in pairs])
        num_tokens_B = torch.tensor([len(pair.completion_ids) for pair in pairs], device=policy.device)
        allowed_B = tolerance(policy.dtype, own_B, num_tokens_B)
        left: list[str] = []
        for path, backend in ways if policy.head is not None else []:
            policy.path, policy.backend = path, backend
            words = policy.attention_words
            try:
                difference_B = (policy.logps(pairs) - own_B).abs()
            except (TypeError, ValueError, RuntimeError) as error:  # a model or a kernel that cannot take packed rows
                if is_out_of_memory(error):
                    raise
                left.append(f"{words} cannot be used with this model ({str(error).splitlines()[0]})")
                continue
            if bool((difference_B <= allowed_B).all()):
                return f"{'; '.join(left)}. Using {policy.attention_words}." if left else None
            left.append(f"{words} is off by up to {float(difference_B.max()):.3g} nats from one-row runs of this model")
    policy.path, policy.backend = "dense", None
    reason = "; ".join(left) or "The head is not one frozen linear layer"
    return f"{reason}. Using {policy.attention_words}."

"""The policy: a frozen base model with LoRA adapters, and the one way to ask it for log-probabilities.

The reference is the same model with its adapters off. How log-probs are computed is settled once, at the start, by a
probe against one-row runs through the model's own forward: packed where that is exact, else padded, else dense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils import cached_file

from worker.alignment.adapters import adapt, reference_mode
from worker.alignment.attention import WORDS, Backend, Memory, choose_backend
from worker.alignment.base_model import UNREADABLE, load_causal_lm, unreadable
from worker.alignment.compiled import compile_layers
from worker.alignment.config import AlignmentConfig, Precision
from worker.alignment.dataset import IntArray, Pair
from worker.alignment.distributed import ALONE, World
from worker.alignment.errors import ModelError
from worker.alignment.fused import fuse
from worker.alignment.logps import Head
from worker.alignment.packing import Pack, cut_units, pack_continuations, pack_pairs
from worker.alignment.scoring import ScoringPath, packed_logps, padded_logps, to_device
from worker.alignment.sharding import IDLE, Root, shard_base
from worker.alignment.shares import share_units
from worker.alignment.tail import install
from worker.alignment.varlen import aligned_to_last_key

T = TypeVar("T")


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
    share: bool = True
    """Packed rows: compute what they begin with in common once."""
    continues: bool = True
    """Packed rows: mismatched pairs go on from the keys and values of the prompts of a forward before."""
    tail: bool = False
    """Packed rows: the last layer leaves out what the head does not read; ``tail.install`` has prepared it."""
    world: World = ALONE
    sharded: bool = False
    """The base's weights lie in pieces over the world's processes, which must all run the model equally often."""
    root: Root = field(init=False)

    def __post_init__(self) -> None:
        self.root = Root(self.model)

    @property
    def lm(self) -> Any:
        """The causal LM inside; its linear layers carry the adapters."""
        return self.model.get_base_model()

    @property
    def attention_words(self) -> str:
        if self.path == "packed" and self.backend is not None:
            sharing = {"shared prefixes": self.share, "KL pass on cached prompts": self.continues}
            return ", ".join([WORDS[self.backend], *(words for words, holds in sharing.items() if holds)])
        own = self.lm.config.get_text_config()._attn_implementation  # noqa: SLF001
        return f"the model's own {own} attention, padded" + (", dense head" if self.path == "dense" else "")

    def parameters(self) -> list[torch.nn.Parameter]:
        """The trainable tensors, in a fixed order."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def logps(self, pairs: Sequence[Pair]) -> Tensor:
        """Summed log p(completion | prompt) in nats: [B] float32, differentiable."""
        if self.path == "packed" and self.backend is not None and self.head is not None:
            return self._packed(self.head, pack_pairs(pairs, share=self.share), self.backend)
        head = self.head if self.path == "padded" else None
        return self.inside(lambda: padded_logps(self.lm, head, pairs, self.device))

    def logps_with_kl(
        self, pairs: Sequence[Pair], kl_pairs: Sequence[Pair], kl_rows: Sequence[int], *, token_budget: int
    ) -> tuple[Tensor, Tensor]:
        """``logps(pairs)`` [B], and those of mismatched pairs [M] without gradient, at the price of their completions.

        ``kl_rows[m]`` is the pair whose prompt mismatched pair m has: its keys and values are used again. Exact as long as
        no dropout is active. A prompt whose left was cut for a longer completion is computed anew.
        """
        if not self.continues or self.path != "packed" or self.backend is None or self.head is None:
            return self.logps(pairs), self._score_here(kl_pairs, self.kl_cuts(kl_pairs, token_budget=token_budget))
        pack, memory = pack_pairs(pairs, share=self.share), Memory()
        logps_B = self._packed(self.head, pack, self.backend, capture=memory)
        with torch.no_grad():
            kl_logps_M = torch.zeros(len(kl_pairs), device=self.device, dtype=logps_B.dtype)
            for cut in self.kl_cuts(kl_pairs, token_budget=token_budget):
                has_new = any(len(kl_pairs[m].completion_ids) > 1 for m in cut)  # else there is nothing to run
                paths = [
                    pack.prompt_paths[kl_rows[m]]
                    if has_new and len(kl_pairs[m].prompt_ids) == len(pairs[kl_rows[m]].prompt_ids)
                    else None
                    for m in cut
                ]
                more = pack_continuations([kl_pairs[m] for m in cut], paths, pack.num_tokens)
                kl_logps_M[to_device(cut, self.device)] = self._packed(self.head, more, self.backend, memory=memory)
        return logps_B, kl_logps_M

    def kl_cuts(self, kl_pairs: Sequence[Pair], *, token_budget: int) -> list[IntArray]:
        """The forward passes that ``logps_with_kl`` adds for mismatched pairs."""
        if not self.continues or self.path != "packed":
            return self.cuts(kl_pairs, token_budget=token_budget)
        return cut_units(kl_pairs, token_budget=token_budget, share=False)

    def score(self, pairs: Sequence[Pair], *, token_budget: int) -> Tensor:
        """``logps`` of any number of pairs without gradient, [len(pairs)]: shared out over the world's processes."""
        if self.world.size == 1:
            return self._score_here(pairs, self.cuts(pairs, token_budget=token_budget))
        packed = self.share and self.path == "packed"
        cuts = [
            [np.asarray(share)[cut] for cut in self.cuts([pairs[row] for row in share], token_budget=token_budget)]
            for share in share_units(pairs, [(row,) for row in range(len(pairs))], self.world.size, share=packed)
        ]
        own = cuts[self.world.rank]
        values = self._score_here(pairs, own)
        self.idle(max(map(len, cuts)) - len(own))
        return self.world.add_up(values)

    def idle(self, count: int) -> None:
        """Where weights are sharded: run the model ``count`` times for nothing, beside processes that have rows."""
        with torch.no_grad():
            for _ in range(count if self.sharded else 0):
                self.logps([IDLE])

    def inside(self, compute: Callable[[], T]) -> T:
        """What ``compute`` returns, with the weights at hand that lie outside the decoder layers."""
        return cast("T", self.root(compute))

    def _packed(self, head: Head, pack: Pack, backend: Backend, **memories: Memory) -> Tensor:
        return self.inside(lambda: packed_logps(self.lm, head, pack, backend, self.device, tail=self.tail, **memories))

    def _score_here(self, pairs: Sequence[Pair], cuts: Sequence[IntArray]) -> Tensor:
        """[len(pairs)]; zero where no cut has the pair."""
        values = torch.zeros(len(pairs), device=self.device, dtype=torch.promote_types(self.dtype, torch.float32))
        with torch.no_grad():
            for cut in cuts:
                values[to_device(cut, self.device)] = self.logps([pairs[index] for index in cut])
        return values

    def cuts(
        self,
        pairs: Sequence[Pair],
        units: Sequence[Sequence[int]] | None = None,
        *,
        token_budget: int,
        min_rows: int = 1,
    ) -> list[IntArray]:
        """``packing.cut_units`` for the way this policy computes."""
        padded = self.path != "packed"
        return cut_units(
            pairs, units, token_budget=token_budget, padded=padded, share=self.share and not padded, min_rows=min_rows
        )

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


def load_policy(
    model_path: str, config: AlignmentConfig, *, device: torch.device | None = None, world: World = ALONE
) -> Policy:
    """Load base and tokenizer (safetensors only, no remote code, no network for a local folder) and add adapters.

    The adapters depend on ``config.seed`` only. Raises ModelError with a sentence for the user.
    """
    sharded = world.size > 1 and config.parallel == "fsdp"
    device = device or resolve_device()
    dtype = resolve_dtype(config.precision, device)
    try:
        backend = choose_backend(config.attention, device, dtype)
    except ValueError as error:
        raise ModelError(f"{error}.") from error
    base = load_causal_lm(model_path, dtype=dtype, name=config.base_model, quantization=config.quantization)
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
    model = adapt(base if sharded else base.to(device), config)  # sharded weights go to the device layer by layer
    fuse(model)
    contexts = backend not in ("flash", "varlen") or aligned_to_last_key(backend, device, dtype)
    tail = contexts and backend is not None and backend != "flex" and not config.compile and install(base)
    if config.compile:
        compile_layers(base)
    policy = Policy(
        model=model,
        tokenizer=tokenizer,
        folder=folder,
        device=device,
        dtype=dtype,
        backend=backend,
        path="padded" if backend is None else "packed",
        head=Head.of(base),
        dropout=config.lora.dropout,
        share=config.share_prefixes and contexts,
        continues=contexts and config.objective == "kto",  # the others have no KL pass
        tail=tail,
        world=world,
        sharded=sharded,
    )
    if sharded:
        shard_base(policy.root, device, world.size)
    return policy

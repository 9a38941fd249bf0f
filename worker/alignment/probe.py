"""The start-of-run probe: which way of computing log-probs is this model's own, on rows of this run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worker.alignment.attention import WORDS, Backend
from worker.alignment.dataset import Pair
from worker.alignment.errors import is_out_of_memory
from worker.alignment.fused import unfused
from worker.alignment.policy import Policy
from worker.alignment.scoring import ScoringPath, padded_logps, tolerance
from worker.alignment.varlen import aligned_to_last_key

MAX_PROBE_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class _Way:
    """How log-probs can be computed."""

    path: ScoringPath
    backend: Backend | None = None
    share: bool = False
    continues: bool = False
    tail: bool = False

    def take(self, policy: Policy) -> None:
        policy.path, policy.backend = self.path, self.backend
        policy.share, policy.continues, policy.tail = self.share, self.continues, self.tail


def probe(policy: Policy, pairs: Sequence[Pair]) -> str | None:
    """Settle how ``policy`` computes on the rows given; a sentence where the wished way had to be left.

    Each way is compared with one-row runs through the model's own forward, logits and LoRA layers, adapters as they stand:
    the rows, mismatched pairs of them packed beside them (their prompts are shared), and the same by the KL pass. Give rows
    of several lengths, and one above a sliding window where the data has one; of a long row MAX_PROBE_TOKENS are taken.
    """
    pairs = [_shortened(pair) for pair in pairs]
    mixed = [Pair(x.prompt_ids, y.completion_ids) for x, y in zip(pairs, [*pairs[1:], pairs[0]], strict=True)]
    left = _without_contexts(policy)
    with torch.no_grad():
        with unfused():
            own_B = torch.cat([_own_logps(policy, pair) for pair in [*pairs, *mixed]])
        num_tokens_B = torch.tensor([len(pair.completion_ids) for pair in [*pairs, *mixed]], device=policy.device)
        allowed_B = tolerance(policy.dtype, own_B, num_tokens_B)
        for way in _ways(policy) if policy.head is not None else []:
            way.take(policy)
            words = policy.attention_words
            try:
                found_B = policy.logps([*pairs, *mixed])
                rows_B, kl_B = policy.logps_with_kl(pairs, mixed, range(len(pairs)), token_budget=MAX_PROBE_TOKENS)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:  # no packed rows here
                if is_out_of_memory(error) or policy.sharded:  # weights half gathered: no other way can be tried
                    raise
                left.append(f"{words} cannot be used with this model ({str(error).splitlines()[0]})")
                continue
            difference_B = torch.maximum((found_B - own_B).abs(), (torch.cat([rows_B, kl_B]) - own_B).abs())
            if not policy.world.any(not bool((difference_B <= allowed_B).all())):
                return f"{'; '.join(left)}. Using {policy.attention_words}." if left else None
            left.append(f"{words} is off by up to {float(difference_B.max()):.3g} nats from one-row runs of this model")
    _Way("dense").take(policy)
    reason = "; ".join(left) or "The head is not one frozen linear layer"
    return f"{reason}. Using {policy.attention_words}."


def _shortened(pair: Pair) -> Pair:
    if len(pair.prompt_ids) + len(pair.completion_ids) <= MAX_PROBE_TOKENS:
        return pair
    completion_ids = pair.completion_ids[: MAX_PROBE_TOKENS // 2]
    return Pair(pair.prompt_ids[len(completion_ids) - MAX_PROBE_TOKENS :], completion_ids)


def _own_logps(policy: Policy, pair: Pair) -> Tensor:
    return policy.inside(lambda: padded_logps(policy.lm, None, [pair], policy.device))


def _without_contexts(policy: Policy) -> list[str]:
    """What the kernel's causal mask costs where it is not aligned to the last key: ``load_policy`` shared nothing then."""
    backend = policy.backend
    if backend not in ("flash", "varlen") or aligned_to_last_key(backend, policy.device, policy.dtype):
        return []
    return [f"{WORDS[backend]} of the version installed cannot go on from a prefix, so nothing is shared"]


def _ways(policy: Policy) -> list[_Way]:
    """The wished way first, then ever plainer ones."""
    wished = _Way(policy.path, policy.backend, policy.share, policy.continues, policy.tail)
    ways = [wished]
    if wished.path == "packed":
        if wished.backend != "sdpa":
            ways.append(replace(wished, backend="sdpa"))
        if wished.share or wished.continues or wished.tail:
            ways.append(_Way("packed", wished.backend))
        ways.append(_Way("padded"))
    return ways

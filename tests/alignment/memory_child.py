"""One training step of a random model in a process of its own: the peak predicted and the peak measured, as JSON.

Run as ``python -m tests.alignment.memory_child '{"model": {...}, "lengths": [[prompt, completion], ...], ...}'``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from worker.alignment.adapters import adapt
from worker.alignment.config import AlignmentConfig, LoraSettings
from worker.alignment.dataset import Pair
from worker.alignment.footprint import Workload, memory_parts
from worker.alignment.fused import fuse
from worker.alignment.logps import Head
from worker.alignment.memory import decoder_layers, peak_meter, recompute_layers, resident_bytes
from worker.alignment.policy import Policy
from worker.alignment.shapes import DataSize
from worker.alignment.step import StepBatch, StepSettings, backward_step

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}


def policy_of(model: dict[str, Any], config: AlignmentConfig, device: torch.device) -> Policy:
    half = device.type == "cuda"
    torch.manual_seed(0)
    dtype = torch.bfloat16 if half else torch.float32
    lm = AutoModelForCausalLM.from_config(LlamaConfig(**model), dtype=dtype).eval().to(device)
    adapted = adapt(lm, config)
    fuse(adapted)
    backend = "varlen" if half else "sdpa"
    return Policy(adapted, None, Path(), device, dtype, backend, "packed", Head.of(lm), dropout=config.lora.dropout)  # type: ignore[arg-type]


def batch_of(lengths: list[list[int]], vocab: int) -> StepBatch:
    chance = np.random.default_rng(0)
    prompts = [chance.integers(3, vocab, prompt) for prompt, _ in lengths]
    completions = [chance.integers(3, vocab, completion) for _, completion in lengths]
    rows = list(range(len(lengths)))
    return StepBatch(
        ids=rows,
        pairs=[Pair(p, c) for p, c in zip(prompts, completions, strict=True)],
        labels=[row % 2 == 0 for row in rows],
        units=rows,
        reference_logps=np.zeros(len(rows)),
        kl_pairs=[Pair(p, c) for p, c in zip(prompts, completions[1:] + completions[:1], strict=True)],
        kl_rows=rows,
        kl_reference_logps=np.zeros(len(rows)),
    )


def steps(policy: Policy, optimizer: torch.optim.Optimizer, batch: StepBatch, config: AlignmentConfig) -> None:
    backward_step(policy, batch, StepSettings.of(config))
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def run(case: dict[str, Any]) -> dict[str, Any]:
    device = torch.device(case.get("device", "cpu"))
    torch.set_num_threads(1)
    lora = LoraSettings(**{"r": 16, "alpha": 32} | case.get("lora", {}))
    config = AlignmentConfig(base_model="random", batch_size=len(case["lengths"]), lora=lora, **case.get("config", {}))
    tiny = policy_of(TINY, config, device)
    steps(tiny, torch.optim.AdamW(tiny.parameters()), batch_of([[4, 4], [5, 5]], 100), config)
    cuda = device.type == "cuda"
    overhead = torch.cuda.memory_allocated(device) if cuda else resident_bytes("VmRSS")
    policy = policy_of(case["model"], config, device)
    layers = round(case.get("recomputed", 0.0) * len(decoder_layers(policy.lm)))
    recompute_layers(policy.lm, layers)
    optimizer = torch.optim.AdamW(policy.parameters())
    vocab = case["model"]["vocab_size"]
    steps(policy, optimizer, batch_of([[4, 4], [5, 5]], vocab), config)  # the moments exist from now on
    rows = case["lengths"]
    data = DataSize.from_lengths(
        [p for p, _ in rows], [c for _, c in rows], num_step_tokens=sum(p + c for p, c in rows)
    )
    with peak_meter(device) as meter:
        steps(policy, optimizer, batch_of(rows, vocab), config)
    work = Workload(
        model_config={"model_type": "llama", **case["model"]},
        config=config,
        data=data,
        device="cuda" if cuda else "cpu",
        overhead_bytes=overhead,
    )
    parts = memory_parts(work, layers)
    return {
        "measured": meter.peak_bytes,
        "before": meter.before_bytes,
        "predicted": parts.total_bytes,
        "parts": asdict(parts),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))

"""The plan recomputes as little as fits, says why, and where nothing fits names settings that would."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.alignment.test_estimate import LLAMA_8B
from worker.alignment.config import AlignmentConfig, LoraSettings
from worker.alignment.footprint import Workload, memory_parts
from worker.alignment.memory_plan import (
    GIB,
    DoesNotFitError,
    advice,
    memory_plan,
    out_of_memory_advice,
    suggestions,
)
from worker.alignment.shapes import DataSize, DeviceKind, Shape

DATA = DataSize(num_rows=1000, num_tokens=300_000, num_completion_tokens=100_000, longest_row=1500)


def work(device: DeviceKind = "cuda", **changes: Any) -> Workload:
    config = AlignmentConfig(base_model="llama", **changes)
    return Workload(model_config=LLAMA_8B, config=config, data=DATA, device=device)


def total(layers: int, **changes: Any) -> int:
    return memory_parts(work(**changes), layers).total_bytes


def test_ample_memory_recomputes_nothing() -> None:
    plan = memory_plan(work(), 2 * total(0))
    assert (plan.checkpointing, plan.num_recomputed_layers) == ("none", 0)
    assert plan.reason.startswith("Nothing is recomputed: a step needs about ")


def test_the_least_recomputation_that_fits_is_taken() -> None:
    for wanted in (1, 15, 30):
        plan = memory_plan(work(), total(wanted))
        assert (plan.checkpointing, plan.num_recomputed_layers) == ("selective", wanted)
        assert plan.parts.total_bytes <= plan.limit_bytes < total(wanted - 1)
        assert f"{wanted} of 32 layers are recomputed" in plan.reason
    assert memory_plan(work(), total(0), at_least=7).num_recomputed_layers == 7


def test_the_configs_own_limit_and_checkpointing_are_kept() -> None:
    limit = total(12) / GIB
    assert memory_plan(work(memory_limit_gib=limit), 1 << 50).num_recomputed_layers == 12
    assert memory_plan(work(checkpointing="full"), 1 << 50).num_recomputed_layers == 32
    assert memory_plan(work(checkpointing="selective"), 1 << 50).num_recomputed_layers == 1
    named = memory_plan(work(checkpointing="none"), GIB)
    assert named.num_recomputed_layers == 0
    assert named.reason.endswith("as checkpointing says; it may not fit.")


def test_a_measured_step_scales_the_activations() -> None:
    plan = memory_plan(replace(work(), activation_scale=1.5), total(0))
    assert plan.num_recomputed_layers > 0
    assert plan.parts.activation_bytes == pytest.approx(
        1.5 * memory_parts(work(), plan.num_recomputed_layers).activation_bytes, rel=1e-6
    )


@pytest.mark.parametrize("gib", [20, 16, 8, 4])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_what_does_not_fit_is_refused_with_three_settings_that_would(gib: int, device: DeviceKind) -> None:
    with pytest.raises(DoesNotFitError, match=f"there are {gib}.0 GiB: use ") as caught:
        memory_plan(work(device), gib * GIB)
    assert caught.value.reason == "out_of_memory"
    found = suggestions(work(device), gib * GIB)
    assert len(found) == 3
    assert len({each.settings for each in found}) == 3
    assert all(each.total_bytes <= gib * GIB for each in found)
    assert all(re.search(r"\d", each.settings) for each in found)
    assert str(caught.value).count(" GiB)") == 3


def test_a_suggestion_is_true() -> None:
    """What is suggested is planned again with that setting, and fits."""
    found = {each.settings: each for each in suggestions(work(), 20 * GIB)}
    tokens = next(int(name.split()[1]) for name in found if name.startswith("tokens_per_microbatch"))
    plan = memory_plan(work(tokens_per_microbatch=tokens), 20 * GIB)
    assert plan.parts.total_bytes == found[f"tokens_per_microbatch {tokens}"].total_bytes
    with pytest.raises(DoesNotFitError):
        memory_plan(work(tokens_per_microbatch=2 * tokens), 20 * GIB)
    assert memory_plan(work(quantization="4bit"), 20 * GIB).parts.total_bytes == found["quantization 4bit"].total_bytes


def test_after_running_out_the_advice_needs_less_than_what_failed() -> None:
    failed = total(0)
    text = out_of_memory_advice(work(checkpointing="none"), 1 << 50)
    assert text.startswith("use checkpointing auto (")
    sizes = [float(size) for size in re.findall(r"\(([\d.]+) GiB\)", text)]
    assert len(sizes) == 3
    assert all(size <= 0.9 * failed / GIB + 0.1 for size in sizes)


def test_where_nothing_fits_that_is_said() -> None:
    assert advice(work(), 1000) == "no setting makes this model fit 0.0 GiB; use a larger device"


def test_parts_depend_on_what_the_engine_does() -> None:
    plain = memory_parts(work(), 0)
    assert plain.kl_bytes == 0  # the KL pass reads what backward keeps
    full = memory_parts(work(), 32)
    assert full.kl_bytes > 0
    assert memory_parts(work(objective="dpo"), 32).kl_bytes == 0
    assert memory_parts(work(tokens_per_microbatch=2048), 32).kl_bytes == 0  # several passes: z0 comes before
    dropout = memory_parts(work(lora=LoraSettings(dropout=0.1)), 0)
    assert dropout.activation_bytes > 1.2 * plain.activation_bytes
    quarter = memory_parts(work(quantization="4bit"), 0)
    assert quarter.weights_bytes < 0.4 * plain.weights_bytes


@pytest.mark.parametrize(
    ("family", "norms", "normed_heads"), [("llama", 2, False), ("qwen3", 2, True), ("gemma3_text", 4, True)]
)
def test_families_differ_in_their_norms(family: str, norms: int, normed_heads: bool) -> None:
    read = Shape.read({**LLAMA_8B, "model_type": family})
    assert (read.norms, read.normed_heads) == (norms, normed_heads)

"""Every model family: packed exactly, or not packed at all; and all the way to a merged model in plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.alignment import tiny
from tests.alignment.steps import disturb, policy_of
from tests.alignment.test_attention import assert_exact, some_pairs
from worker.alignment.checkpoints import ADAPTER, checkpoint_path
from worker.alignment.dataset import load_split
from worker.alignment.export import ExportSpec, run_export
from worker.alignment.policy import Policy, load_policy
from worker.alignment.probe import probe
from worker.alignment.reporters import JsonlReporter
from worker.alignment.scoring import padded_logps
from worker.alignment.trainer import train

FAMILIES = [
    "llama",
    "mistral",
    "qwen3",
    "gemma2",  # soft-cap, local and global layers
    "gemma3",
    "gpt_oss",  # sinks, local and global layers, experts
    "cohere2",
    "exaone4",  # its global layers have a sliding_window they do not use
    "granite",
    "phi",
    "phi3",
    "smollm3",
    "llama4",  # chunks
    "llama4_moe",  # experts behind a router that no adapter can take
]
HYBRIDS = {"lfm2": "nats from one-row runs", "qwen3_next": "nats from one-row runs", "llama4_long": "place in the row"}


def disturbed(folder: Path, architecture: str) -> Policy:
    policy = policy_of(folder, architecture)
    disturb(policy, 0.1)
    return policy


@pytest.mark.filterwarnings("ignore:target_parameters=:RuntimeWarning")  # peft's own
@pytest.mark.parametrize("architecture", FAMILIES)
def test_packed_rows_and_the_kl_pass_are_the_models_own(tmp_path: Path, architecture: str) -> None:
    policy = disturbed(tmp_path, architecture)
    assert probe(policy, some_pairs()) is None
    assert (policy.path, policy.share, policy.continues) == ("packed", True, True)
    assert_exact(policy, some_pairs())


@pytest.mark.parametrize("architecture", ["gemma2", "llama4"])
def test_flex_gives_the_models_own_log_probs(tmp_path: Path, architecture: str) -> None:
    policy = disturbed(tmp_path, architecture)
    policy.backend = "flex"
    assert probe(policy, some_pairs()) is None
    assert policy.attention_words == "FlexAttention, packed, shared prefixes, KL pass on cached prompts"


@pytest.mark.filterwarnings("ignore:.*were set but no parameter was matched:RuntimeWarning")  # peft's own
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")
@pytest.mark.parametrize("architecture", HYBRIDS)
def test_models_that_cannot_be_packed_are_padded(tmp_path: Path, architecture: str) -> None:
    """Convolutions and linear attention leak across packed rows; queries scaled by their place in the row are wrong."""
    policy = disturbed(tmp_path, architecture)
    notice = probe(policy, some_pairs())
    assert notice is not None
    assert HYBRIDS[architecture] in notice
    assert notice.endswith("Using the model's own sdpa attention, padded.")
    assert policy.path == "padded"
    assert_exact(policy, some_pairs())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral", "gemma2", "gemma3", "llama4_moe"])
def test_train_evaluate_merge_and_load(tmp_path: Path, architecture: str) -> None:
    tiny.save_model(tmp_path / "model", architecture)
    tiny.save_snapshot(tmp_path / "snapshot", train=16, dev=8)
    spec = tiny.spec(tmp_path, max_steps=2, learning_rate=2e-2, warmup_ratio=0.0)
    reporter = JsonlReporter(spec.events_path)
    assert train(spec, reporter).status == "succeeded"
    reporter.close()
    events = tiny.events(Path(spec.attempt_dir))
    (started,) = (event["data"] for event in events if event["kind"] == "run_started")
    assert started["attention"] == "SDPA per sequence, packed, shared prefixes, KL pass on cached prompts"
    (evaluation,) = (event["data"] for event in events if event["kind"] == "evaluation_finished")
    assert evaluation["heldout"]["num_desirable"] + evaluation["heldout"]["num_undesirable"] == 8
    assert {category["category"] for category in evaluation["diversity"]["categories"]} == {"colour", "size"}

    checkpoint = checkpoint_path(Path(spec.attempt_dir), 2)
    dev = tmp_path / "snapshot" / "dev.jsonl"
    report = run_export(
        ExportSpec(
            kind="merged",
            base_model=spec.model_path,
            adapter_dir=str(checkpoint),
            out_dir=str(tmp_path / "merged"),
            probe_paths=(str(dev),),
        )
    )
    assert report is not None
    assert report.accepted

    policy = load_policy(spec.model_path, spec.config)
    policy.model.load_adapter(str(checkpoint), "default")
    assert (checkpoint / ADAPTER).is_file()
    pairs = [row.pair for row in load_split(dev, policy.tokenizer, max_length=128).rows]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        ours = policy.logps(pairs)
        theirs = torch.cat([padded_logps(merged, None, [pair], torch.device("cpu")) for pair in pairs])
        with policy.as_reference():
            assert (policy.logps(pairs) - ours).abs().max() > 0.05
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-3)

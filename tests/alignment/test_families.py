"""Every model family all the way: train, evaluate, merge, load in plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.alignment import tiny
from worker.alignment.checkpoints import ADAPTER, checkpoint_path
from worker.alignment.dataset import load_split
from worker.alignment.export import ExportSpec, run_export
from worker.alignment.policy import load_policy
from worker.alignment.reporters import JsonlReporter
from worker.alignment.scoring import padded_logps
from worker.alignment.trainer import train


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral", "gemma2", "gemma3"])
def test_train_evaluate_merge_and_load(tmp_path: Path, architecture: str) -> None:
    tiny.save_model(tmp_path / "model", architecture)
    tiny.save_snapshot(tmp_path / "snapshot", train=16, dev=8)
    spec = tiny.spec(tmp_path, max_steps=2, learning_rate=2e-2, warmup_ratio=0.0)
    reporter = JsonlReporter(spec.events_path)
    assert train(spec, reporter).status == "succeeded"
    reporter.close()
    events = tiny.events(Path(spec.attempt_dir))
    (started,) = (event["data"] for event in events if event["kind"] == "run_started")
    assert started["attention"] == "SDPA per sequence, packed"
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

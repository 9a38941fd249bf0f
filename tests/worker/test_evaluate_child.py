"""The evaluation child on tiny random models: a real process, killed in the middle, goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.alignment import tiny
from worker.alignment.adapters import add_adapters
from worker.alignment.base_model import load_causal_lm
from worker.alignment.config import LoraSettings
from worker.alignment.evaluate import read_job, run_job
from worker.alignment.evaluate_files import LinesFile, read_lines, read_progress
from worker.alignment.jobs import JobArm, JobSpec, JobSuite

NUM_SAMPLES = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")


def save_adapter(model: Path, folder: Path, *, r: int = 4, seed: int = 1) -> Path:
    base = load_causal_lm(str(model), dtype=torch.float32)
    peft = add_adapters(base, LoraSettings(r=r, alpha=2 * r), seed=seed, base_model="tiny")
    peft.save_pretrained(folder, save_embedding_layers=False)
    path = folder / "adapter_model.safetensors"
    generator = torch.Generator().manual_seed(seed)
    save_file({name: torch.randn(t.shape, generator=generator) * 0.3 for name, t in load_file(path).items()}, path)
    return folder


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [save_adapter(model, root / "a", r=4, seed=1), save_adapter(model, root / "b", r=2, seed=2)]


def suite_file(folder: Path, samples: list[dict[str, Any]] | None = None) -> Path:
    rows = samples or [
        {"id": f"s{number}", "input": [{"role": "user", "content": f"the cat {number} " + "sat " * number}]}
        for number in range(NUM_SAMPLES)
    ]
    path = folder / "suite.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def job(tmp_path: Path, model: Path, adapters: list[Path], **changes: Any) -> JobSpec:
    snapshot = tiny.save_snapshot(tmp_path / "snapshot")
    suite = JobSuite(
        content_hash="cafe", path=str(suite_file(tmp_path)), samples_per_prompt=3, temperature=1.0, max_tokens=6
    )
    settings: dict[str, Any] = {
        "job_id": 1,
        "model_path": str(model),
        "config": tiny.config(),
        "arms": (
            JobArm(name="reference"),
            JobArm(name="prompt", system_prompt="Be brief."),
            JobArm(name="a", adapter_dir=str(adapters[0])),
            JobArm(name="b", adapter_dir=str(adapters[1])),
        ),
        "out_dir": str(tmp_path / "out"),
        "cache_dir": str(tmp_path / "cache"),
        "suites": (suite,),
        "heldout": str(snapshot / "test.jsonl"),
    }
    return JobSpec(**(settings | changes))


def samples(spec: JobSpec, arm: str) -> list[dict[str, Any]]:
    return read_lines(Path(spec.out_dir) / "samples" / arm / "cafe.jsonl")


def heldout(spec: JobSpec, arm: str) -> dict[int, dict[str, Any]]:
    return {row["id"]: row for row in read_lines(Path(spec.out_dir) / "heldout" / f"{arm}.jsonl")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, model: Path, adapters: list[Path]) -> JobSpec:
    spec = job(tmp_path_factory.mktemp("job"), model, adapters)
    assert run_job(spec) == 0
    return spec


def test_every_arm_has_every_sample(done: JobSpec) -> None:
    for arm in done.arms:
        rows = samples(done, arm.name)
        assert {(row["sample"], row["index"]) for row in rows} == {
            (f"s{number}", index) for number in range(NUM_SAMPLES) for index in range(3)
        }
        assert all(0 < row["num_tokens"] <= 6 for row in rows)
    assert samples(done, "a") != samples(done, "reference") != samples(done, "prompt")
    told = read_progress(Path(done.out_dir) / "progress.json")
    assert told is not None
    assert told["phase"] == "done"
    assert told["done"] == told["total"] == 4 * (36 + 4)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft reads an old name
def test_logratios_are_those_of_the_adapter_alone(done: JobSpec, model: Path, adapters: list[Path]) -> None:
    """Against peft's own loading of each adapter on a base of its own, row by row."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    from worker.alignment.dataset import load_split
    from worker.alignment.scoring import padded_logps

    assert {row["logratio"] for row in heldout(done, "reference").values()} == {0.0}
    rows = load_split(Path(done.heldout), AutoTokenizer.from_pretrained(model), max_length=128).rows
    for name, folder in zip("ab", adapters, strict=True):
        base = load_causal_lm(str(model), dtype=torch.float32)
        with torch.no_grad():
            before = [padded_logps(base, None, [row.pair], torch.device("cpu")).item() for row in rows]
            policy = PeftModel.from_pretrained(base, str(folder)).eval()
            after = [padded_logps(policy, None, [row.pair], torch.device("cpu")).item() for row in rows]
        found = heldout(done, name)
        assert [found[row.id]["logratio"] for row in rows] == pytest.approx(
            [b - a for a, b in zip(before, after, strict=True)], abs=2e-3
        )
        assert max(abs(b - a) for a, b in zip(before, after, strict=True)) > 0.5


def test_a_prompt_arm_is_asked_with_its_prompt(done: JobSpec) -> None:
    rows = heldout(done, "prompt")
    assert all(row["logratio"] == 0 for row in rows.values())  # the snapshot's prompts have that system message already
    assert samples(done, "prompt") != samples(done, "reference")  # the suite's have none


def test_a_second_job_takes_the_reference_from_the_cache(done: JobSpec, tmp_path: Path) -> None:
    again = replace(done, out_dir=str(tmp_path / "again"), arms=done.arms[:1], heldout="")
    cached = sorted(Path(done.cache_dir).glob("suite-samples/*/*.json"))
    text = cached[0].read_text(encoding="utf-8").replace('"text": "', '"text": "from the cache ', 1)
    cached[0].write_text(text, encoding="utf-8")
    assert run_job(again) == 0
    assert any(row["text"].startswith("from the cache") for row in samples(again, "reference")) or any(
        "from the cache" in path.read_text(encoding="utf-8") for path in cached[1:]
    )


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Any]:
    started: list[subprocess.Popen[bytes]] = []

    def start(spec: JobSpec) -> subprocess.Popen[bytes]:
        path = tmp_path / "job.json"
        path.write_text(json.dumps(spec.to_json()), encoding="utf-8")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.alignment", "evaluate", str(path)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def wait_for_lines(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.is_file() or path.stat().st_size == 0:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle_it_goes_on_with_the_same_result(
    child: Any, tmp_path: Path, model: Path, adapters: list[Path], done: JobSpec, number: signal.Signals
) -> None:
    arms = tuple(JobArm(name=f"a{index}", adapter_dir=str(adapters[0])) for index in range(30))
    spec = job(tmp_path, model, adapters, arms=arms, heldout="")
    first = Path(spec.out_dir) / "samples" / "a0" / "cafe.jsonl"
    process = child(spec)
    wait_for_lines(first, process)
    process.send_signal(number)
    code = process.wait(30)
    assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    if number == signal.SIGTERM:
        told = read_progress(Path(spec.out_dir) / "progress.json")
        assert told is not None
        assert told["phase"] == "stopped"
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) * 2 // 3])  # torn in the middle of a line
    kept = read_lines(first)
    assert 0 < len(kept) < 36
    short = replace(spec, arms=arms[:1])
    assert run_job(short) == 0
    rows = samples(spec, "a0")
    assert rows[: len(kept)] == kept
    assert sorted(rows, key=str) == sorted(samples(done, "a"), key=str)


def test_a_prompt_that_cannot_be_asked_is_a_line_with_its_error(
    tmp_path: Path, model: Path, adapters: list[Path]
) -> None:
    rows = [
        {"id": "long", "input": [{"role": "user", "content": "cat " * 2000}]},
        {"id": "odd", "input": [{"content": "no role"}]},
        {"id": "fine", "input": [{"role": "user", "content": "the cat"}]},
    ]
    path = suite_file(tmp_path / "odd", rows)
    suite = JobSuite(content_hash="cafe", path=str(path), max_tokens=4)
    spec = job(tmp_path, model, adapters, suites=(suite,), heldout="")
    assert run_job(replace(spec, arms=spec.arms[:1])) == 0
    found = {row["sample"]: row for row in samples(spec, "reference")}
    assert "tokens" in found["long"]["error"]
    assert found["odd"]["error"]
    assert "error" not in found["fine"]


def test_a_model_that_only_ends(tmp_path: Path, model: Path, adapters: list[Path]) -> None:
    """An empty completion is a completion: counted, never dropped."""
    base = load_causal_lm(str(model), dtype=torch.float32)
    head = base.get_output_embeddings()
    with torch.no_grad():
        bias = torch.zeros(head.weight.shape[0])
        bias[1] = 1e4
    silent = tiny.save_model(tmp_path / "silent", "phi")  # its head has a bias
    weights = load_file(silent / "model.safetensors")
    weights["lm_head.bias"] = bias.to(weights["lm_head.weight"].dtype)[: len(weights["lm_head.bias"])]
    save_file(weights, silent / "model.safetensors", metadata={"format": "pt"})
    spec = job(tmp_path, silent, adapters, heldout="")
    assert run_job(replace(spec, arms=spec.arms[:1])) == 0
    rows = samples(spec, "reference")
    assert len(rows) == 36
    assert {(row["text"], row["num_tokens"], row["truncated"]) for row in rows} == {("", 1, False)}


def test_an_adapter_of_another_model_ends_the_job_in_words(tmp_path: Path, model: Path, adapters: list[Path]) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for file in adapters[0].iterdir():
        (wrong / file.name).write_bytes(file.read_bytes())
    tensors = load_file(wrong / "adapter_model.safetensors")
    name = min(tensors)
    save_file(tensors | {name: tensors[name][:, :5].contiguous()}, wrong / "adapter_model.safetensors")
    spec = job(tmp_path, model, adapters, heldout="")
    bad = replace(spec, arms=(spec.arms[0], JobArm(name="wrong", adapter_dir=str(wrong))))
    assert run_job(bad) == 1
    told = read_progress(Path(spec.out_dir) / "progress.json")
    assert told is not None
    assert told["phase"] == "failed"
    assert "another base model" in told["message"]
    assert len(samples(spec, "reference")) == 36  # what was drawn stays


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"arms": []}, "arms"),
        ({"arms": [{"name": "../up"}]}, "cannot name a file"),
        ({"heldout": "/nowhere/test.jsonl"}, "heldout"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_wrong_job_exits_2_with_a_sentence(
    child: Any, tmp_path: Path, model: Path, adapters: list[Path], change: dict[str, Any], word: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(json.loads(json.dumps(job(tmp_path, model, adapters).to_json())) | change))
    done = subprocess.run(
        [sys.executable, "-m", "worker.alignment", "evaluate", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert word in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_lines_with_other_content_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": 1}\nnot json\n[2]\n{"other": 3}\n{"id": 4}')
    assert LinesFile(path, ("id",)).keys == {(1,)}
    assert path.read_bytes() == b'{"id": 1}\n'


def test_a_job_is_read_back_as_written(tmp_path: Path, model: Path, adapters: list[Path]) -> None:
    spec = job(tmp_path, model, adapters)
    path = tmp_path / "job.json"
    path.write_text(json.dumps(spec.to_json()), encoding="utf-8")
    assert read_job(path) == spec

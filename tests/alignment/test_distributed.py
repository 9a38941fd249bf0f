"""Two processes give the single process's numbers, and a whole run over torchrun is a run like any other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.alignment import tiny
from tests.alignment.distributed_child import CASES
from tests.alignment.test_process import alive
from worker.alignment.checkpoints import latest_valid_checkpoint, validate_checkpoint
from worker.alignment.config import EvaluationSettings, TrainSpec
from worker.alignment.dataset import Pair
from worker.alignment.distributed import World
from worker.alignment.reporters import JsonlReporter
from worker.alignment.shares import packed_tokens, share_units
from worker.alignment.trainer import train

ROOT = Path(__file__).resolve().parents[2]
QUIET = EvaluationSettings(interval_steps=4, samples_per_prompt=2, prompts_per_category=1, max_new_tokens=6)
SETTINGS: dict[str, Any] = {"max_steps": 12, "num_epochs": 5.0, "evaluation": QUIET}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def records() -> list[dict[str, Any]]:
    """40 rows: both classes in turn; from 20 on long prompts with short answers, then a shared beginning, then oddities."""
    plain = [tiny.record(number, label=number % 2 == 0) for number in range(20)]
    for number in range(16):  # two completions of each of eight prompts: what dpo is made of
        plain[number]["prompt"] = plain[number // 2 * 2]["prompt"]
        plain[number]["root"] = f"root-{number // 2}"
    wordy = [tiny.record(20 + number, words=20) for number in range(6)]
    shared = [tiny.record(26 + number) for number in range(10)]
    for each in shared:
        each["prompt"][0]["content"] = "Answer in one short line and never speak of anything that was not asked for."
    short = [tiny.record(36 + number, words=1, finish_reason="length") for number in range(3)]  # one token each
    return [*plain, *wordy, *shared, *short, tiny.record(39, words=100)]


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def on_disk(spec: TrainSpec) -> str:
    path = Path(spec.attempt_dir).with_suffix(".json")
    path.write_text(json.dumps(spec.to_json()), encoding="utf-8")
    return str(path)


def losses(spec: TrainSpec) -> dict[int, float]:
    told = tiny.events(Path(spec.attempt_dir))
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    return {event["step"]: event["data"]["loss"] for event in told if event["kind"] == "metrics"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("distributed")
    for architecture in {case.architecture for case in CASES.values()}:
        tiny.save_model(folder / architecture, architecture)
    tiny.save_snapshot(folder / "data", records=records())
    child = [*TORCHRUN, "-m", "tests.alignment.distributed_child", str(folder)]
    done = run(child)
    assert done.returncode == 0, done.stderr[-4000:]
    loaded: dict[str, dict[str, Any]] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradient_of_one(found: dict[str, dict[str, Any]], kind: str, name: str) -> None:
    case = found[f"{kind}: {name}"]
    assert case["bad"] == ([1003] if CASES[name].poison else [])
    if CASES[name].poison:  # which other rows are not finite depends on what they were packed with
        return
    assert case["numbers"] < 1e-6
    assert case["norm"] > 0
    assert case["between"] == 0
    if not CASES[name].lora.dropout:  # each process draws its own noise; the factors of the gradient are free of it
        assert case["gradient"] < 1e-6


def test_a_run_over_torchrun_or_processes_stopped_and_resumed_is_the_run_of_one(tmp_path: Path) -> None:
    alone = tiny.spec(tmp_path, **SETTINGS)
    reporter = JsonlReporter(alone.events_path)
    train(alone, reporter)
    reporter.close()

    sharded = tiny.spec(tmp_path, attempt=2, parallel="fsdp", **SETTINGS)
    done = run([*TORCHRUN, "-m", "worker.alignment", "train", on_disk(sharded)])
    assert done.returncode == 0, done.stderr[-4000:]

    stopped = tiny.spec(tmp_path, attempt=3, **SETTINGS)
    command = [sys.executable, "-m", "worker.alignment", "train", on_disk(stopped), "--processes", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 200
        while not (stopped.events_path.exists() and '"metrics"' in stopped.events_path.read_text(encoding="utf-8")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=100)[1].decode()
    assert process.returncode == 0, errors
    last = tiny.events(Path(stopped.attempt_dir))[-1]
    assert (last["kind"], last["data"]["status"]) == ("run_finished", "stopped")
    assert 0 < last["step"] < 12

    checkpoint = latest_valid_checkpoint(Path(stopped.attempt_dir) / "checkpoints")
    assert checkpoint is not None
    resumed = tiny.spec(tmp_path, attempt=4, resume_from=checkpoint, **SETTINGS)
    done = run([*TORCHRUN, "-m", "worker.alignment", "train", on_disk(resumed)])
    assert done.returncode == 0, done.stderr[-4000:]

    expected = losses(alone)
    assert len(expected) == 12
    assert losses(sharded) == pytest.approx(expected, rel=1e-5)
    assert losses(stopped) | losses(resumed) == losses(
        sharded
    )  # bit for bit: a resumed run, and whatever holds the base
    for spec in (sharded, resumed):
        final = Path(spec.attempt_dir) / "checkpoints" / "step-000012"
        assert validate_checkpoint(final).pins["world_size"] == 2
        ours, theirs = (
            load_file(folder / "adapter_model.safetensors")
            for folder in (final, Path(alone.attempt_dir) / "checkpoints" / "step-000012")
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[name], theirs[name], atol=2e-4) for name in ours)
        kinds = [event["kind"] for event in tiny.events(Path(spec.attempt_dir))]
        assert kinds[-1] == "run_finished"
        assert "evaluation_finished" in kinds

    refused = tiny.spec(tmp_path, attempt=5, resume_from=checkpoint, **SETTINGS)
    done = run([sys.executable, "-m", "worker.alignment", "train", on_disk(refused)])
    assert done.returncode == 2
    assert "world_size was 2 and is 1" in done.stderr


def test_a_refused_spec_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    tiny.save_snapshot(tmp_path / "snapshot", records=[])
    spec = tiny.spec(tmp_path)
    done = run([sys.executable, "-m", "worker.alignment", "train", on_disk(spec), "--processes", "2"])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("snapshot_dir: the train split has no usable row")
    assert not Path(spec.attempt_dir).exists()


def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    spec = tiny.spec(tmp_path, max_steps=100_000)
    command = [sys.executable, "-m", "worker.alignment", "train", on_disk(spec), "--processes", "2"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 100
        while not spec.events_path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
        children = [int(pid) for pid in text.split()]
        process.kill()
    assert len(children) == 2
    while any(alive(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "The trainer stopped on an unexpected ZeroDivisionError: the other one"),
        ("kill", "Another process of the run ended without a word, most likely because the machine's memory ran out."),
    ],
)
def test_rank_0_tells_of_the_process_that_failed(tmp_path: Path, how: str, words: str) -> None:
    spec = tiny.spec(tmp_path, **SETTINGS)
    done = run([*TORCHRUN, "-m", "tests.alignment.failing_child", on_disk(spec), how])
    assert done.returncode == 1
    last = tiny.events(Path(spec.attempt_dir))[-1]
    assert (last["kind"], last["step"]) == ("run_finished", 2)
    assert last["data"] == {"status": "failed", "reason": "unknown", "message": words}
    assert words in done.stderr


def pairs_of(*lengths: int, shared: int = 0) -> list[Pair]:
    beginning = np.arange(1000, 1000 + shared)
    return [
        Pair(np.concatenate([beginning, np.arange(1, n) + 100 * i]), np.asarray([1])) for i, n in enumerate(lengths)
    ]


def test_shares_are_balanced_by_tokens_and_keep_units_whole() -> None:
    chance = np.random.default_rng(0)
    lengths = (chance.lognormal(4, 1, 64).astype(int) + 2).tolist()
    shares = share_units(pairs_of(*lengths), [(2 * unit, 2 * unit + 1) for unit in range(32)], 4)
    assert sorted(unit for share in shares for unit in share) == list(range(32))
    loads = [sum(lengths[2 * unit] + lengths[2 * unit + 1] for unit in share) for share in shares]
    assert max(loads) < 1.05 * sum(loads) / 4


def test_rows_that_share_a_beginning_stay_together() -> None:
    long, other = pairs_of(20, 20, 20, 20, shared=300), pairs_of(90, 100, 110, 90)
    shares = share_units([*long, *other], [(row,) for row in range(8)], 2)
    assert sorted(shares) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    dealt = share_units([*long, *other], [(row,) for row in range(8)], 2, share=False)
    assert sorted(len(set(share) & {0, 1, 2, 3}) for share in dealt) == [2, 2]
    assert packed_tokens([pair.prompt_ids for pair in long]) == 300 + 4 * 19


@pytest.mark.parametrize("count", [0, 1, 3])
def test_there_may_be_fewer_units_than_processes(count: int) -> None:
    shares = share_units(pairs_of(*[10] * count), [(row,) for row in range(count)], 4)
    assert len(shares) == 4
    assert sorted(unit for share in shares for unit in share) == list(range(count))


def test_random_numbers_differ_between_processes_and_steps_and_come_again() -> None:
    seeds = [World(rank=rank, size=2).seed(7, step) for rank in range(2) for step in range(3)]
    assert len(set(seeds)) == 6
    assert seeds[4] == World(rank=1, size=2).seed(7, 1)

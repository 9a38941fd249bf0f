"""What a run of each objective draws from, tells and leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.alignment import tiny
from tests.alignment.test_runs import Evaluator, run, told
from worker.alignment.config import TrainSpec
from worker.alignment.dataset import Pair, Row, load_split
from worker.alignment.partners import kl_partners
from worker.alignment.sampler import PADDED_WINDOW, Sampler


def rated(number: int, label: bool) -> dict[str, Any]:
    """Rows 3k to 3k + 2 answer one prompt."""
    return tiny.record(number, label=label, prompt=tiny.record(number // 3)["prompt"], root=f"r{number // 3}")


def launch(folder: Path, **changes: Any) -> tuple[TrainSpec, Evaluator]:
    """12 prompts with one desirable answer and two undesirable ones, 6 with three desirable ones."""
    records = [rated(n, n % 3 == 0 or n >= 36) for n in range(54)]
    tiny.save_snapshot(folder / "snapshot", records=records)
    spec, evaluator = tiny.spec(folder, max_steps=0, **changes), Evaluator()
    assert run(spec, evaluator).status == "succeeded"
    return spec, evaluator


def texts(spec: TrainSpec, kind: str) -> str:
    return " ".join(event["data"]["text"] for event in told(spec, kind))


def test_dpo_counts_pairs_and_tells_what_has_no_counterpart(tmp_path: Path) -> None:
    spec, evaluator = launch(tmp_path, objective="dpo", desirable_weight=3.0)
    started = told(spec, "run_started")[0]["data"]
    assert (started["objective"], started["num_units"], started["num_train_rows"]) == ("dpo", 24, 36)
    assert started["total_steps"] == 3  # of 8 pairs
    assert started["attention"] == "SDPA per sequence, packed, shared prefixes"  # there is no KL pass
    assert (started["desirable_weight"], started["undesirable_weight"]) == (1.0, 1.0)
    assert "18 of 54 rows are in no pair (4 a prompt at most) and are left out." in texts(spec, "notice")
    assert "The loss of dpo has no class weights: the ones set are not used." in texts(spec, "warning")
    metrics = told(spec, "metrics")[0]["data"]
    assert metrics["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert {"rewards/chosen", "rewards/rejected", "rewards/margins"} <= metrics.keys()
    assert not {key for key in metrics if key.startswith("kl")}
    # 36 rows once, no mismatched pair of theirs; the dev split's 10 rows and 10 pairs are for the evaluation
    assert computed(spec) == 36 + 20
    assert evaluator.calls[0]["heldout"].kl_logratios.shape == (10,)


def test_sft_takes_the_desirable_rows_and_needs_no_reference_of_them(tmp_path: Path) -> None:
    spec, _ = launch(tmp_path, objective="sft")
    started = told(spec, "run_started")[0]["data"]
    assert started["num_units"] == started["num_train_rows"] == 12 + 18
    assert "24 of 54 rows are undesirable and are left out." in texts(spec, "notice")
    assert computed(spec) == 20
    losses = [event["data"]["loss"] for event in told(spec, "metrics")]
    assert losses[-1] < losses[0]
    assert not {key for key in told(spec, "metrics")[0]["data"] if key.startswith(("rewards", "kl"))}


def test_kto_weighs_the_rarer_class_up_and_apo_scores_no_mismatched_pair(tmp_path: Path) -> None:
    kto, _ = launch(tmp_path)
    apo, _ = launch(tmp_path, attempt=2, objective="apo_zero_unpaired")
    for spec in (kto, apo):
        started = told(spec, "run_started")[0]["data"]
        assert (started["num_units"], started["desirable_weight"], started["undesirable_weight"]) == (54, 1.0, 1.0)
    rows = load_split(tmp_path / "snapshot" / "train.jsonl", tiny.tokenizer(), max_length=128).rows
    partners = [rows[place].pair for place in kl_partners(rows) if place is not None]
    mixed = {(x.prompt_key, y.completion_ids.tobytes()) for x, y in zip(rows, partners, strict=True)}
    assert computed(kto) == 54 + len(mixed) + 20  # two ratings of one prompt may share a mismatched pair
    assert computed(apo) == 0  # the rows' are known from before
    assert [event["data"]["kl/clamp_rate"] >= 0 for event in told(kto, "metrics")] == [True] * 7
    assert not {key for key in told(apo, "metrics")[0]["data"] if key.startswith("kl")}

    tiny.save_snapshot(tmp_path / "snapshot", records=[rated(n, n % 3 == 0) for n in range(54)])
    lopsided = tiny.spec(tmp_path, attempt=3, max_steps=1)
    run(lopsided)
    started = told(lopsided, "run_started")[0]["data"]
    assert (started["desirable_weight"], started["undesirable_weight"]) == (2.0, 1.0)


def computed(spec: TrainSpec) -> int:
    (found,) = [e["data"]["detail"]["computed"] for e in told(spec, "notice") if "computed" in e["data"]["detail"]]
    return int(found)


def test_padded_rows_are_bucketed_by_default_and_packed_ones_are_not() -> None:
    chance = np.random.default_rng(1)
    rows = [
        Row(
            id=n,
            pair=Pair(np.zeros(int(chance.integers(1, 200)), dtype=np.int64), np.zeros(1, dtype=np.int64)),
            label=n % 2 == 0,
            category=None,
            root="",
            prompt_key="",
            messages=[],
        )
        for n in range(512)
    ]
    units = [(n,) for n in range(512)]

    def spread(packed: bool, **changes: Any) -> float:
        sampler = Sampler(rows, units, tiny.config(**changes), packed=packed)
        steps = [[rows[unit].num_tokens for unit in sampler.units_of(step)] for step in range(sampler.steps_per_epoch)]
        assert sorted(unit for step in range(64) for unit in sampler.units_of(step)) == list(range(512))
        return float(np.mean([max(step) - min(step) for step in steps]))

    assert spread(packed=True) > 2 * spread(packed=False)
    assert spread(packed=False) == spread(packed=True, bucket_steps=PADDED_WINDOW)
    assert spread(packed=False, bucket_steps=1) == spread(packed=True)

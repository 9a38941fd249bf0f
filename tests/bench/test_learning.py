"""What ``bench.learning`` rests on: a split without leaks, and a paired difference by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.learning_auc import difference, length_rows, together, within_prompt
from bench.learning_data import (
    Judged,
    folds,
    human_rows,
    pretraining_texts,
    shorter_is_better,
    user_turns,
    write_snapshot,
)
from worker.alignment.evaluation.screen import HeldoutRows

DIALOGUE = "Human: Hello\n\nAssistant: Hi, what is it?\n\nHuman: A joke?\n\nAssistant:"


def judged(number: int, *, label: bool, prompt: int) -> Judged:
    key = f"prompt {prompt}"
    text = "short" if label else "rather longer"
    return Judged(id=number, asked=key, completion=text, label=label, prompt_key=key, root=key, source="test")


def heldout(logratios: list[float]) -> HeldoutRows:
    """Prompts of two rows each, the first one desirable."""
    number = len(logratios)
    prompts = np.asarray([f"p{index // 2}" for index in range(number)], dtype=object)
    return HeldoutRows(
        labels=np.arange(number) % 2 == 0,
        logratios=np.asarray(logratios),
        lengths=np.arange(number),
        prompt_keys=prompts,
        roots=prompts,
        kl_logratios=np.zeros(0),
        kl_roots=np.zeros(0, dtype=object),
    )


def test_the_user_turns_of_a_dialogue_and_of_a_plain_prompt() -> None:
    assert user_turns(DIALOGUE) == ["Hello", "A joke?"]
    assert user_turns(" Say: Human: no dialogue ") == ["Say: Human: no dialogue"]


def test_human_rows_keep_what_fits_and_no_last_turn_of_two_conversations(tmp_path: Path) -> None:
    rows = [
        {"prompt": DIALOGUE, "completion": "No.", "label": False},
        {
            "prompt": "Human: Good day\n\nAssistant: Well?\n\nHuman: A joke?\n\nAssistant:",
            "completion": "x",
            "label": True,
        },
        {"prompt": DIALOGUE, "completion": "é" * 40, "label": True},
        {"prompt": DIALOGUE, "completion": "", "label": True},
    ]
    text = "\n".join(json.dumps(row | {"source": "test"}) for row in rows)
    (tmp_path / "kto_sample.jsonl").write_text(text, encoding="utf-8")
    assert [(row.id, row.asked) for row in human_rows(tmp_path, max_bytes=80)] == [(0, "A joke?")]
    assert [row.id for row in human_rows(tmp_path, max_bytes=87)] == [0, 2]


def test_every_prompt_with_both_labels_is_held_out_once_or_is_dev() -> None:
    both = [judged(2 * n + label, label=bool(label), prompt=n) for n in range(300) for label in (0, 1)]
    single = [judged(1000 + n, label=True, prompt=1000 + n) for n in range(100)]
    parts = folds([*both, *single], number=3, multiple_of=32)
    held: list[str] = []
    for sides in parts:
        prompts = [{row.asked for row in rows} for rows in sides.values()]
        assert all(prompts)
        assert sum(map(len, prompts)) == len(set.union(*prompts))
        assert len(sides["train"]) % 32 == 0
        assert 2 * len({row.asked for row in sides["test"]}) == len(sides["test"])
        assert sides["dev"] == parts[0]["dev"]
        assert shorter_is_better(sides["train"])
        held += sorted({row.asked for row in sides["test"]})
    assert len(held) == len(set(held))
    assert set(held) | {row.asked for row in parts[0]["dev"]} >= {row.asked for row in both}
    assert folds([*both, *single], number=3, multiple_of=32) == parts


def test_pretraining_reads_nothing_of_a_test(tmp_path: Path) -> None:
    records = [
        {"prompt": f"Question {n}?", "completion": f"Answer {n} {'long ' * (40 * (n % 4 == 3))}", "label": n % 2 == 0}
        for n in range(200)
    ]
    text = "\n".join(json.dumps(one | {"source": "test"}) for one in records)
    (tmp_path / "kto_sample.jsonl").write_text(text, encoding="utf-8")
    rows = human_rows(tmp_path, max_bytes=60)
    dev = folds(rows, number=3, multiple_of=2)[0]["dev"]
    texts = pretraining_texts(tmp_path, rows, dev, num_passages=1000, passage_bytes=500)
    assert len(rows) == 150
    assert len(texts) == len(dev) + 50
    told = {each.completion for each in rows} - {each.completion for each in dev}
    assert not [text for text in texts for each in told if f">{each}<" in text]


def test_a_snapshot_has_the_trainers_format(tmp_path: Path) -> None:
    from worker.alignment.dataset import read_manifest

    rows = [judged(n, label=n % 2 == 0, prompt=n // 2) for n in range(80)]
    sides = folds(rows, number=3, multiple_of=2)[0]
    folder = write_snapshot(tmp_path / "snapshot", sides)
    assert len(read_manifest(folder)["hash"]) == 64
    lines = (folder / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [row.id for row in sides["train"]]


def test_the_difference_is_taken_prompt_by_prompt() -> None:
    right, wrong = [1.0, 0.0] * 40, [0.0, 1.0] * 40
    ours, theirs = heldout(right), heldout(right[:40] + wrong[40:])
    found = difference(ours, theirs)
    assert (found.value, found.n) == (0.5, 40)
    assert found.low is not None
    assert found.high is not None
    assert 0.3 < found.low < 0.5 < found.high < 0.7
    same = difference(ours, ours)
    assert (same.value, same.low) == (0.0, None), "no spread, no interval"


def test_seeds_pooled_keep_the_prompts_as_clusters() -> None:
    rng = np.random.default_rng(0)
    one = heldout(rng.normal(size=120).tolist())
    three = together([one, one, one])
    alone, pooled = within_prompt(one), within_prompt(three)
    assert pooled.n == 3 * alone.n == 180
    assert pooled.value == pytest.approx(alone.value)
    assert (pooled.low, pooled.high) == pytest.approx((alone.low, alone.high))  # no more sure for being repeated
    assert within_prompt(length_rows(one, shorter_is_better=True)).value == 1.0
    assert within_prompt(length_rows(one, shorter_is_better=False)).value == 0.0

"""Prompts for diversity from a file: rendered as in training, and refused with the line that is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.alignment import tiny
from tests.alignment.test_runs import Evaluator, run, told
from worker.alignment.checks import check_spec
from worker.alignment.config import TrainSpec
from worker.alignment.errors import SpecError
from worker.alignment.prompts import domain_of


def line(category: Any = "tea/green", **changes: Any) -> str:
    return json.dumps({"category": category, "messages": [{"role": "user", "content": "warm water now"}]} | changes)


def spec_with(folder: Path, text: str) -> TrainSpec:
    (folder / "prompts.jsonl").write_text(text, encoding="utf-8")
    return replace(tiny.spec(folder), diversity_prompts=str(folder / "prompts.jsonl"))


def test_the_files_prompts_take_the_place_of_the_dev_splits(tmp_path: Path) -> None:
    told_lines = [line(), line("odd", domain="numbers", open_ended=False), "", line("plain")]
    spec = spec_with(tmp_path, "\n".join(told_lines))
    cases = check_spec(spec).prompts
    assert [(case.category, case.domain, case.open_ended) for case in cases] == [
        ("tea/green", "tea", True),
        ("odd", "numbers", False),
        ("plain", "", True),
    ]
    rendered = tiny.tokenizer().decode(cases[0].token_ids)
    assert rendered == "<|im_start|>user\nwarm water now<|im_end|>\n<|im_start|>assistant\n"
    evaluator = Evaluator()
    run(spec, evaluator)
    assert evaluator.calls[0]["prompts"] == cases
    dev = check_spec(tiny.spec(tmp_path)).prompts
    assert {case.category for case in dev} == {"colour", "size"}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{", "line 2 is no prompt"),
        ("[]", "it must be an object"),
        (line(""), "category must be a name"),
        (line(7), "category must be a name"),
        (line(messages=[]), "messages must be a list"),
        (line(messages=[{"content": "no role"}]), "messages must be a list"),
        (line(open_ended="yes"), "open_ended true or false"),
        (line(messages=[{"role": "user", "content": {"a": 1}}]), "line 2"),
        (line(messages=[{"role": "system", "content": "warm " * 400}]), "longer than max_length"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(tmp_path: Path, bad: str, words: str) -> None:
    with pytest.raises(SpecError, match=r"^diversity_prompts: prompts\.jsonl line 2.*; mend the file") as refused:
        check_spec(spec_with(tmp_path, f"{line()}\n{bad}\n"))
    assert words in str(refused.value)


def test_a_file_without_a_prompt_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no prompt"):
        check_spec(spec_with(tmp_path, "\n"))
    with pytest.raises(SpecError, match="cannot be read"):
        check_spec(replace(tiny.spec(tmp_path), diversity_prompts=str(tmp_path / "gone.jsonl")))


def test_prompts_are_sampled_without_a_dev_split(tmp_path: Path) -> None:
    tiny.save_snapshot(tmp_path / "snapshot", dev=0)
    spec = spec_with(tmp_path, line() + "\n" + line("plain") + "\n")
    spec = replace(spec, config=replace(spec.config, allow_incomplete=True))
    evaluator = Evaluator()
    assert run(spec, evaluator).status == "succeeded"
    assert [len(call["heldout"].labels) for call in evaluator.calls] == [0, 0]
    assert len(told(spec, "evaluation_finished")) == 2


@pytest.mark.parametrize(
    ("category", "domain"), [("tea/green", "tea"), ("tea: green", "tea"), ("/green", ""), ("tea/", ""), ("tea", "")]
)
def test_domains_are_read_from_names(category: str, domain: str) -> None:
    assert domain_of(category) == domain

"""Bad input: each case is one line ``field: what; remedy`` on stderr, exit code 2, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, T5Config

from tests.alignment import tiny
from tests.alignment.test_runs import run
from worker.alignment import train
from worker.alignment.__main__ import main
from worker.alignment.checkpoints import validate_checkpoint
from worker.alignment.checks import check_spec
from worker.alignment.errors import SpecError
from worker.alignment.generate import end_token_ids

Json = dict[str, Any]
Change = Callable[[Path, Json], None]
"""Spoils the files under a folder, or the spec that will be written."""


@pytest.fixture(autouse=True)
def outlive_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs in this very process, which is no trainer, as on a machine without CUDA."""
    monkeypatch.setattr(train, "die_with_parent", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def entries(folder: Path) -> set[tuple[str, int]]:
    return {(str(path.relative_to(folder)), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def refuse(folder: Path, capsys: pytest.CaptureFixture[str], spec: Json) -> str:
    """Run the command and return its one line, having seen that it wrote nothing."""
    path = folder / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    before = entries(folder)
    capsys.readouterr()
    code = main(["train", str(path)])
    told = capsys.readouterr()
    assert code == 2, told.err
    assert told.err.count("\n") == 1, told.err
    assert entries(folder) == before
    return told.err.strip()


def settings(**changes: Any) -> Change:
    def change(_folder: Path, spec: Json) -> None:
        spec["config"] |= changes

    return change


def put(**changes: Any) -> Change:
    def change(folder: Path, spec: Json) -> None:
        spec.update({name: value(folder) if callable(value) else value for name, value in changes.items()})

    return change


def rows(records: Callable[[], list[Json]], **changes: Any) -> Change:
    def change(folder: Path, spec: Json) -> None:
        tiny.save_snapshot(folder / "snapshot", records=records())
        settings(**changes)(folder, spec)

    return change


def write(name: str, text: str, **changes: Any) -> Change:
    def change(folder: Path, spec: Json) -> None:
        (folder / name).write_text(text, encoding="utf-8")
        settings(**changes)(folder, spec)

    return change


def remove(*names: str) -> Change:
    def change(folder: Path, _spec: Json) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def tokenizer(**changes: Any) -> Change:
    def change(folder: Path, spec: Json) -> None:
        (folder / "model" / "chat_template.jinja").unlink(missing_ok=True)
        tiny.tokenizer(**changes).save_pretrained(folder / "model")

    return change


def another_kind_of_model(folder: Path, _spec: Json) -> None:
    T5Config(vocab_size=10, d_model=8, num_layers=1).save_pretrained(folder / "model")


def a_used_attempt(folder: Path, _spec: Json) -> None:
    (folder / "attempt-1").mkdir()
    (folder / "attempt-1" / "events.jsonl").write_text("", encoding="utf-8")


def not_utf8(folder: Path, _spec: Json) -> None:
    (folder / "snapshot" / "train.jsonl").write_bytes(b"\xff\xfe\n")


def of_label(label: bool) -> Callable[[], list[Json]]:
    return lambda: [tiny.record(n, label=label) for n in range(8)]


def rated(number: int, label: bool) -> Json:
    """Rows 2k and 2k + 1 answer one prompt."""
    return tiny.record(number, label=label, prompt=tiny.record(number // 2 * 2)["prompt"])


def unpaired() -> list[Json]:
    return [rated(n, n % 4 < 2) for n in range(12)]


LONG = tiny.record(77, words=400)
CASES: dict[str, tuple[Change, str]] = {
    # The spec itself
    "an unknown key": (put(surprise=1), "surprise: is not a setting; leave it out"),
    "an unknown setting": (settings(betta=1), "betta: is not a setting; did you mean beta?"),
    "an unknown inner setting": (settings(lora={"rank": 1}), "lora.rank: is not a setting"),
    "a missing key": (lambda _folder, spec: spec.pop("snapshot_dir"), "snapshot_dir: is missing; set it"),
    "no base model": (lambda _folder, spec: spec["config"].pop("base_model"), "base_model: is missing"),
    "out of range": (settings(beta=-1), "beta: must be above 0 and at most 10"),
    "an endless number": (
        settings(memory_limit_gib=float("inf")),
        "memory_limit_gib: must be 0 (what the device has) or",
    ),
    "no number": (settings(learning_rate=float("nan")), "learning_rate: must be above 0 and at most 1"),
    "a seed beyond the generators": (settings(seed=10**30), "seed: must be 0 or more, and at most 2^53"),
    "a batch beyond the range": (settings(batch_size=10**9), "batch_size: must lie between 1 and 65536"),
    "another type": (settings(batch_size="8"), "batch_size: must be of type int"),
    "no object": (put(config="x"), "config: must be an object of settings"),
    "a path that is none": (put(resume_from=3), "resume_from: must be of type str, or null"),
    # The machine
    "4 bits": (settings(quantization="4bit"), "quantization: 4bit needs "),
    "flash-attn": (settings(attention="flash"), "attention: flash needs the flash-attn package, a CUDA device and"),
    "varlen": (settings(attention="varlen"), "attention: varlen needs torch.nn.attention.varlen, a CUDA device and"),
    "flex": (settings(attention="flex"), "attention: flex needs a CUDA device to train; use auto"),
    # Folders
    "a used attempt": (a_used_attempt, "already holds an attempt; give each its own folder"),
    "no folder": (put(attempt_dir=""), "attempt_dir: is not the name of a folder; name one"),
    "a name too long": (
        put(attempt_dir=lambda f: str(f / ("x" * 300))),
        "cannot be read (File name too long); name another",
    ),
    "a zero byte": (put(cache_dir="a\0b"), "cache_dir: is not the name of a folder; name one"),
    "a file for a folder": (put(attempt_dir=lambda f: str(f / "model/config.json/a")), "attempt_dir: "),
    "a cache that cannot be": (put(cache_dir=lambda f: str(f / "model/config.json/a")), "cache_dir: "),
    # The base model
    "an unknown base model": (put(model_path="/no/such/model"), "base_model: tiny is not there (no folder /no/such/"),
    "no config": (remove("model/config.json"), "base_model: tiny has no readable config.json"),
    "a broken config": (write("model/config.json", "{"), "base_model: tiny has no readable config.json"),
    "an unknown kind": (write("model/config.json", '{"model_type": "x"}'), "base_model: tiny has no readable config"),
    "a config that is a list": (write("model/config.json", "[1]"), "base_model: tiny has no readable config.json"),
    "no language model": (another_kind_of_model, "of type t5, not a causal language model; name the folder"),
    "an adapter": (write("model/adapter_config.json", "{}"), "base_model: tiny is an adapter; export it"),
    "no weights": (remove("model/model.safetensors"), "base_model: tiny has no .safetensors file; save it"),
    "no such module": (
        settings(lora={"target_modules": ["q_prj"]}),
        "lora.target_modules: no linear layer is named q_prj; nearest: q_proj",
    ),
    "one end of tied weights": (
        settings(lora={"target_modules": ["lm_head"]}),
        "lora.target_modules: the head shares its weights with the input embeddings",
    ),
    # The tokenizer
    "no tokenizer": (remove("model/tokenizer.json", "model/tokenizer_config.json"), "no readable tokenizer"),
    "a broken tokenizer": (write("model/tokenizer.json", "{"), "base_model: tiny has no readable tokenizer"),
    "no eos": (tokenizer(eos=None), "has no end-of-sequence token; set eos_token in tokenizer_config.json"),
    "no template": (tokenizer(template=None), "has no chat template; set chat_template in tokenizer_config.json"),
    # The snapshot
    "no snapshot": (
        put(snapshot_dir="/no/such/snapshot"),
        "has no readable manifest.json: No such file or directory;",
    ),
    "no manifest": (remove("snapshot/manifest.json"), "has no readable manifest.json: No such file or directory;"),
    "no train split": (remove("snapshot/train.jsonl"), "snapshot_dir: The snapshot has no readable train.jsonl"),
    "no dev split": (remove("snapshot/dev.jsonl"), "snapshot_dir: The snapshot has no readable dev.jsonl"),
    "no JSON": (write("snapshot/train.jsonl", "{\n"), "snapshot_dir: train.jsonl line 1 is not JSON"),
    "no row": (
        write("snapshot/train.jsonl", '{"id": 1}\n'),
        "train.jsonl line 1 is not a snapshot row: it has no label;",
    ),
    "a list for a row": (write("snapshot/train.jsonl", "[1]\n"), "is not a snapshot row: it must be an object; freeze"),
    "a label in words": (
        rows(lambda: [tiny.record(1) | {"label": "true"}]),
        "a snapshot row: label must be true or false;",
    ),
    "an id in words": (rows(lambda: [tiny.record(1) | {"id": "a1"}]), "a snapshot row: id must be a whole number;"),
    "a prompt that is text": (
        rows(lambda: [tiny.record(1) | {"prompt": "hello"}]),
        'prompt must be a list of chat messages such as {"role": "user", "content": "…"}; freeze',
    ),
    "a manifest without hash": (
        write("snapshot/manifest.json", "{}"),
        "snapshot is not an object with hash and counts;",
    ),
    "no UTF-8": (
        not_utf8,
        "snapshot_dir: train.jsonl is not UTF-8 text: invalid start byte at byte 0",
    ),
    "only desirable rows": (rows(of_label(True)), "snapshot_dir: all training rows are desirable; freeze a new"),
    "only undesirable rows": (
        rows(of_label(False), objective="apo_zero_unpaired"),
        "all training rows are undesirable",
    ),
    "an empty train split": (rows(list), "snapshot_dir: the train split has no usable row; freeze a new snapshot"),
    "empty even if incomplete": (rows(list, allow_incomplete=True), "snapshot_dir: the train split has no usable row"),
    "only long rows": (
        rows(lambda: [LONG, LONG | {"id": 1}]),
        "snapshot_dir: the train split has no usable row (most often: the completion has",
    ),
    "an empty dev split": (
        write("snapshot/dev.jsonl", ""),
        "snapshot_dir: the dev split has no usable row; freeze a new snapshot, or set allow_incomplete",
    ),
    "a long row": (
        rows(lambda: [*(tiny.record(n) for n in range(8)), LONG], long_rows="refuse"),
        "max_length: row 1077: the completion has",
    ),
    "dpo without a pair": (rows(unpaired, objective="dpo"), "objective: dpo finds no prompt with a desirable and an"),
    "dpo, one class": (rows(of_label(True), objective="dpo"), "objective: dpo finds no prompt with a desirable and an"),
    "sft without a desirable row": (rows(of_label(False), objective="sft"), "objective: sft finds no desirable row"),
    "more than the positions": (
        rows(lambda: [*(tiny.record(n) for n in range(8)), tiny.record(9, words=600)], max_length=2048),
        "max_length: 2048 exceeds the base model's 512 positions; lower it",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    change, words = CASES[case]
    spec = tiny.spec(tmp_path).to_json()
    change(tmp_path, spec)
    assert words in refuse(tmp_path, capsys, spec)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not JSON"), ("[]", "is not an object"), (None, "cannot be read"), ("[" * 100000, "is not JSON")],
)
def test_a_spec_file_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str
) -> None:
    path = tmp_path / "spec.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert main(["train", str(path)]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1


def test_files_of_windows_are_read(tmp_path: Path) -> None:
    spec = tiny.spec(tmp_path)
    told = check_spec(spec)
    for file in (tmp_path / "snapshot").glob("*.jsonl"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.to_json()), encoding="utf-8-sig")
    found = check_spec(train.read_spec(path))
    assert [row.prompt_key for row in found.train.rows] == [row.prompt_key for row in told.train.rows]
    assert len(found.dev.rows) == len(told.dev.rows) > 0


def test_adapters_of_other_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = tiny.spec(tmp_path, max_steps=3)
    run(first)
    adapter = tmp_path / "attempt-1" / "checkpoints" / "step-000003"
    settings: Json = {"init_adapter": str(adapter), "reference": "base"}
    goes_on = tiny.spec(tmp_path, attempt=2, **settings)
    check_spec(goes_on)  # of this base model, it may

    config = tmp_path / "model" / "config.json"
    own = config.read_text(encoding="utf-8")
    config.write_text(own.replace('"intermediate_size": 48', '"intermediate_size": 64'), encoding="utf-8")
    line = refuse(tmp_path, capsys, goes_on.to_json())
    assert line.startswith("init_adapter: ")
    assert "of another base model" in line

    config.write_text(own, encoding="utf-8")
    torch.manual_seed(8)  # the same shapes, other weights
    other = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "model"))
    other.save_pretrained(tmp_path / "model")
    line = refuse(tmp_path, capsys, goes_on.to_json())
    assert "was trained on other weights than base_model's" in line

    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    assert refuse(tmp_path, capsys, goes_on.to_json()).startswith("init_adapter: ")
    missing = tiny.spec(tmp_path, attempt=2, **(settings | {"init_adapter": "/no/such/adapter"}))
    assert refuse(tmp_path, capsys, missing.to_json()).startswith("init_adapter: /no/such/adapter is not an adapter")


def test_checkpoints_of_other_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny.spec(tmp_path))
    source = tmp_path / "attempt-1" / "checkpoints" / "step-000003"

    def told(**changes: Any) -> str:
        spec = tiny.spec(tmp_path, attempt=2, resume_from=changes.pop("source", source)).to_json()
        run_id = changes.pop("run_id", 1)
        return refuse(tmp_path, capsys, spec | {"run_id": run_id, "config": spec["config"] | changes})

    assert "resume_from: The checkpoint is of run 1, this is run 2" in told(run_id=2)
    assert "resume_from: The setting beta differs from the checkpoint's; start a new run" in told(beta=0.2)
    assert "The setting lora.r differs" in told(lora={"r": 8, "alpha": 8})
    assert "has no readable manifest.json" in told(source=tmp_path / "nowhere")

    manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    for name, words in (("torch", "torch was '1.0' and is"), ("world_size", "world_size was 8 and is 1")):
        pins = manifest["pins"] | {"torch": "1.0"} if name == "torch" else manifest["pins"] | {"world_size": 8}
        (source / "manifest.json").write_text(json.dumps(manifest | {"pins": pins}), encoding="utf-8")
        assert words in (line := told())
        assert line.endswith("put it back, or start a new run")
    (source / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    validate_checkpoint(source)

    (source / "state.pt").write_bytes(b"x")
    assert "resume_from: The checkpoint step-000003 is damaged: state.pt differs" in told()
    tiny.save_snapshot(tmp_path / "snapshot", train=41)
    newest = tmp_path / "attempt-1" / "checkpoints" / "step-000006"
    assert "resume_from: The snapshot differs from the checkpoint's" in told(source=newest)


def test_stretched_positions_go_beyond_the_configs_number(tmp_path: Path) -> None:
    tiny.save_snapshot(tmp_path / "snapshot", records=[*(tiny.record(n) for n in range(8)), tiny.record(9, words=600)])
    spec = tiny.spec(tmp_path, max_length=2048)
    with pytest.raises(SpecError, match="512 positions"):
        check_spec(spec)
    config = tmp_path / "model" / "config.json"
    data = json.loads(config.read_text(encoding="utf-8"))
    data["rope_parameters"] |= {"rope_type": "linear", "factor": 4.0}
    config.write_text(json.dumps(data), encoding="utf-8")
    assert max(row.num_tokens for row in check_spec(spec).train.rows) > 512


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, 512),
        (
            {
                "rope_type": "longrope",
                "original_max_position_embeddings": 64,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
            },
            64,
        ),
    ],
)
def test_positions_that_follow_the_longest_row_are_not_gone_beyond(
    tmp_path: Path, rope: dict[str, Any], limit: int
) -> None:
    """A row's log-prob must not depend on the rows that are packed or padded beside it."""
    tiny.save_snapshot(tmp_path / "snapshot", records=[*(tiny.record(n) for n in range(8)), tiny.record(9, words=600)])
    spec = tiny.spec(tmp_path, max_length=2048)
    config = tmp_path / "model" / "config.json"
    data = json.loads(config.read_text(encoding="utf-8"))
    data["rope_parameters"] |= rope
    config.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SpecError, match=f"max_length: above {limit} tokens .* lower it to {limit}"):
        check_spec(spec)
    check_spec(replace(spec, config=replace(spec.config, max_length=limit, allow_incomplete=True)))


def test_what_the_checks_read_is_what_the_run_uses(tmp_path: Path) -> None:
    tiny.save_snapshot(tmp_path / "snapshot", records=[rated(n, n % 3 == 0) for n in range(40)])
    spec = tiny.spec(tmp_path, objective="dpo")
    checked = check_spec(spec)
    pairs = [[checked.train.rows[index] for index in unit] for unit in checked.units.units]
    assert all(up.label and not down.label and up.prompt_key == down.prompt_key for up, down in pairs)
    assert {index for unit in checked.units.units for index in unit} == set(range(len(checked.train.rows)))
    assert checked.units.num_left_out == 40 - len(checked.train.rows) > 0
    model = AutoModelForCausalLM.from_pretrained(spec.model_path)
    assert checked.end_ids == end_token_ids(model, checked.tokenizer) == {1}
    (tmp_path / "model" / "generation_config.json").write_text('{"eos_token_id": [1, 2]}', encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(spec.model_path)
    assert check_spec(spec).end_ids == end_token_ids(model, checked.tokenizer) == {1, 2}

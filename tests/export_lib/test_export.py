from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.evaluation_lib.support import save_base, tiny_model, with_adapter
from worker.alignment.export import ExportRefusedError, ExportSpec, compare, main, run_export

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own


def make_spec(tmp_path: Path, *, scale: float, dtype: torch.dtype = torch.float32, **changes: Any) -> ExportSpec:
    base = save_base(tmp_path / "base", dtype)
    with_adapter(tiny_model(dtype=dtype).float(), scale).save_pretrained(tmp_path / "adapter")
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": number,
            "prompt": [{"role": "user", "content": f"w{number} w{number + 1}"}],
            "completion": [
                {"role": "assistant", "content": " ".join(f"w{i}" for i in rng.integers(0, 50, rng.integers(2, 9)))}
            ],
            "label": True,
            "root": str(number),
        }
        for number in range(24)
    ]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "kind": "merged",
        "base_model": str(base),
        "adapter_dir": str(tmp_path / "adapter"),
        "out_dir": str(tmp_path / "out" / "model"),
        "probe_paths": (str(tmp_path / "dev.jsonl"),),
    }
    return ExportSpec(**(values | changes))


def left_over(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else []


def test_a_normal_adapter_is_merged_and_loads_in_plain_transformers(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, scale=0.1)
    report = run_export(spec)
    assert report is not None
    assert report.accepted
    assert report.dtype == "float32"
    assert report.effect > 0.1
    assert report.ratio is not None
    assert report.ratio < 1e-3
    assert left_over(tmp_path) == ["model"]
    out = Path(spec.out_dir)
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "report.json"} <= names
    assert json.loads((out / "report.json").read_text())["accepted"] is True
    ids = torch.tensor([[2, 7, 9, 1, 3, 12, 13]])
    merged = AutoModelForCausalLM.from_pretrained(out)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(spec.base_model), spec.adapter_dir).eval()
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-4)
        with adapted.disable_adapter():
            assert not torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-1)
    text = AutoTokenizer.from_pretrained(out).apply_chat_template(
        [{"role": "user", "content": "w1"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<user> w1 <end> <bot>"


def test_a_strong_adapter_stays_in_bfloat16(tmp_path: Path) -> None:
    report = run_export(make_spec(tmp_path, scale=0.5, dtype=torch.bfloat16))
    assert report is not None
    assert (report.dtype, len(report.attempts)) == ("bfloat16", 1)
    assert report.error > 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out/model").dtype == torch.bfloat16


def test_a_weak_adapter_that_bfloat16_erases_is_merged_in_float32(tmp_path: Path) -> None:
    report = run_export(make_spec(tmp_path, scale=0.001, dtype=torch.bfloat16))
    assert report is not None
    assert [(a.dtype, a.accepted) for a in report.attempts] == [("bfloat16", False), ("float32", True)]
    assert report.attempts[0].ratio is not None
    assert report.attempts[0].ratio > 0.1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out/model")
    assert model.dtype == torch.float32


def test_an_adapter_without_effect_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportRefusedError, match="nothing that a merge could be checked against") as refusal:
        run_export(make_spec(tmp_path, scale=0.0))
    assert refusal.value.report is not None
    assert refusal.value.report.effect == 0
    assert left_over(tmp_path) == []


def test_bad_input_is_refused_in_words(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, scale=0.1)
    values = {name: getattr(spec, name) for name in ExportSpec.__dataclass_fields__}
    with pytest.raises(ExportRefusedError, match="at least 4 dev or test rows"):
        run_export(ExportSpec(**(values | {"probe_paths": ()})))
    with pytest.raises(ExportRefusedError, match="is not an adapter"):
        run_export(ExportSpec(**(values | {"adapter_dir": spec.base_model})))
    with pytest.raises(ExportRefusedError, match="exists already"):
        run_export(ExportSpec(**(values | {"out_dir": spec.base_model})))
    assert left_over(tmp_path) == []


def test_the_verdict_by_hand() -> None:
    base, adapter = np.zeros(4), np.array([1.0, -1.0, 2.0, -2.0])
    good = compare(base, adapter, adapter * 1.05, "bfloat16")
    assert (good.effect, good.error) == pytest.approx((1.5, 0.075))
    assert good.ratio == pytest.approx(0.05)
    assert good.correlation == pytest.approx(1.0)
    assert good.accepted
    assert not compare(base, adapter, adapter * 1.2, "bfloat16").accepted  # correlates, but is off by 20 %
    shifted = compare(np.zeros(4), np.array([1.0, 1.01, 1.0, 1.01]), np.array([1.01, 1.0, 1.01, 1.0]), "bfloat16")
    assert shifted.ratio is not None
    assert shifted.ratio < 0.1
    assert shifted.correlation == pytest.approx(-1.0)
    assert not shifted.accepted  # close, but it kept nothing of the pattern


def test_the_command_copies_an_adapter_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = make_spec(tmp_path, scale=0.1, kind="adapter")
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({name: getattr(spec, name) for name in ExportSpec.__dataclass_fields__}))
    assert main([str(path)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"accepted": True, "message": "", "report": None}
    out = Path(spec.out_dir)
    assert (out / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "adapter/adapter_model.safetensors"
    ).read_bytes()
    assert (out / "tokenizer.json").is_file()
    assert main([str(path)]) == 3
    assert "exists already" in json.loads(capsys.readouterr().out.splitlines()[-1])["message"]
    path.write_text('{"kind": "merged"}')
    assert main([str(path)]) == 2
    assert "is not an export spec" in capsys.readouterr().err

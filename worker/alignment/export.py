"""Takes a checkpoint out of the product: the adapter alone, or merged into a model that plain transformers loads.

    python -m worker.alignment.export spec.json

A merge rounds: in bfloat16 it can erase most of a small adapter. So the merged files are loaded again and compared, on
probe rows, with the adapter they stand for; a merge that loses too much is repeated in float32 or refused. All three
models (base, adapter, merged) are compared in float32 arithmetic, so that only the stored weights differ.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import AutoTokenizer

from worker.alignment.base_model import load_causal_lm
from worker.alignment.dataset import DEFAULT_CHAT_TEMPLATE, Pair, load_split
from worker.alignment.errors import TrainingError
from worker.alignment.scoring import padded_logps

MAX_ERROR_SHARE = 0.1
MIN_CORRELATION = 0.99
MIN_EFFECT = 1e-3
"""Nats of mean log-prob change below which float32 rounding cannot be told from the adapter."""
MIN_PROBE_ROWS = 4
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


class ExportRefusedError(Exception):
    """The export would not be what it claims to be; the message says why and what to do. ``report`` has the figures."""

    def __init__(self, message: str, report: MergeReport | None = None) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    kind: Literal["adapter", "merged"]
    base_model: str
    """Folder of the base model (or hub id)."""
    adapter_dir: str
    """A checkpoint's folder, or any folder in peft's format."""
    out_dir: str
    """Must not exist yet; appears whole or not at all."""
    probe_paths: tuple[str, ...] = ()
    """Snapshot files (dev.jsonl, test.jsonl) whose rows the merge is checked on."""
    max_probe_rows: int = 64
    max_length: int = 2048

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ExportSpec:
        return cls(**{**data, "probe_paths": tuple(data.get("probe_paths", ()))})


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeAttempt:
    dtype: str
    error: float
    """Mean |merged - adapter| of the rows' summed log-probs, nats."""
    effect: float
    """Mean |adapter - base|."""
    ratio: float | None
    """error / effect."""
    correlation: float | None
    """Pearson, of (merged - base) with (adapter - base)."""
    accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """The last attempt's figures, and all attempts in order."""

    dtype: str
    error: float
    effect: float
    ratio: float | None
    correlation: float | None
    accepted: bool
    num_probe_rows: int
    attempts: tuple[MergeAttempt, ...]


def run_export(spec: ExportSpec) -> MergeReport | None:
    """Export as the spec says; None for an adapter.

    Raises ExportRefusedError, TrainingError (model or probe rows unusable) or OSError, and then leaves nothing behind.
    """
    out = Path(spec.out_dir)
    if out.exists():
        raise ExportRefusedError(f"{out} exists already; choose another folder.")
    missing = [name for name in ADAPTER_FILES if not (Path(spec.adapter_dir) / name).is_file()]
    if missing:
        raise ExportRefusedError(f"{spec.adapter_dir} is not an adapter: {' and '.join(missing)} missing.")
    if spec.kind == "adapter":
        export_adapter(spec)
        return None
    return export_merged(spec)


def export_adapter(spec: ExportSpec) -> None:
    """Copy the adapter's two files and write the tokenizer beside them, for ``PeftModel.from_pretrained``."""
    with _new_folder(Path(spec.out_dir)) as folder:
        for name in ADAPTER_FILES:
            shutil.copyfile(Path(spec.adapter_dir) / name, folder / name)
        _tokenizer(spec.base_model).save_pretrained(folder)


def export_merged(spec: ExportSpec) -> MergeReport:
    """Merge in the base model's own dtype, in float32 if that loses too much; refuse if that does, too."""
    tokenizer = _tokenizer(spec.base_model)
    pairs = _probe_pairs(spec, tokenizer)
    native = load_causal_lm(spec.base_model, dtype="auto").dtype
    attempts: list[MergeAttempt] = []
    for dtype in dict.fromkeys((native, torch.float32)):
        with _new_folder(Path(spec.out_dir)) as folder:
            base_B, adapter_B = _merge_into(folder, spec, dtype, pairs)
            merged_B = _logps(_load(str(folder)), pairs)  # the files themselves, as a user would load them
            attempts.append(compare(base_B, adapter_B, merged_B, str(dtype).removeprefix("torch.")))
            report = MergeReport(**asdict(attempts[-1]), num_probe_rows=len(pairs), attempts=tuple(attempts))
            if report.accepted:
                tokenizer.save_pretrained(folder)
                (folder / "report.json").write_text(json.dumps(asdict(report), indent=2), encoding="utf-8")
            else:
                shutil.rmtree(folder)
        if report.accepted:
            return report
    raise ExportRefusedError(_refusal(report), report)


def compare(
    base_B: NDArray[np.float64], adapter_B: NDArray[np.float64], merged_B: NDArray[np.float64], dtype: str
) -> MergeAttempt:
    """Judge a merge by the rows' summed log-probs, each [B] in nats."""
    change, kept = adapter_B - base_B, merged_B - base_B
    error, effect = float(np.abs(merged_B - adapter_B).mean()), float(np.abs(change).mean())
    varied = min(change.std(), kept.std()) > 0
    ratio = error / effect if effect > 0 else None
    correlation = float(np.corrcoef(kept, change)[0, 1]) if varied else None
    accepted = (
        effect >= MIN_EFFECT
        and ratio is not None
        and ratio <= MAX_ERROR_SHARE
        and correlation is not None
        and correlation >= MIN_CORRELATION
    )
    return MergeAttempt(
        dtype=dtype, error=error, effect=effect, ratio=ratio, correlation=correlation, accepted=accepted
    )


def _refusal(report: MergeReport) -> str:
    if report.effect < MIN_EFFECT:
        return (
            f"The adapter changes log-probs by only {report.effect:.2g} nats on {report.num_probe_rows} probe rows: "
            "nothing that a merge could be checked against. Export the adapter, or train longer."
        )
    share = (
        ""
        if report.ratio is None
        else f" ({100 * report.ratio:.0f} % of the adapter's effect; at most 10 % is allowed)"
    )
    correlation = "none" if report.correlation is None else f"{report.correlation:.3f}"
    return (
        f"Even in {report.dtype} the merged model differs from the adapter by {report.error:.3g} nats{share}, "
        f"correlation {correlation} (at least 0.99 is needed). Export the adapter instead."
    )


def _merge_into(
    folder: Path, spec: ExportSpec, dtype: torch.dtype, pairs: Sequence[Pair]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Write the merged model in ``dtype``; the probe rows' log-probs under base and adapter."""
    with warnings.catch_warnings():  # peft reads a property that transformers has renamed
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        model = PeftModel.from_pretrained(_load(spec.base_model), spec.adapter_dir).eval()
    adapter_B = _logps(model, pairs)
    with model.disable_adapter():
        base_B = _logps(model, pairs)
    merged = model.merge_and_unload().to(dtype)
    merged.save_pretrained(folder)
    del model, merged
    gc.collect()
    return base_B, adapter_B


def _load(path: str) -> Any:
    """The stored weights, computed with in float32 on the CPU: slow for a large model, but the same everywhere."""
    return load_causal_lm(path, dtype="auto").float().eval()


@torch.no_grad()
def _logps(model: Any, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    device = next(model.parameters()).device
    sums = [padded_logps(model, None, [pair], device) for pair in pairs]
    return torch.cat(sums).double().cpu().numpy()


def _probe_pairs(spec: ExportSpec, tokenizer: Any) -> list[Pair]:
    pairs: list[Pair] = []
    for path in spec.probe_paths:
        pairs += [row.pair for row in load_split(Path(path), tokenizer, max_length=spec.max_length).rows]
    if len(pairs) < MIN_PROBE_ROWS:
        raise ExportRefusedError(
            f"A merge is checked on at least {MIN_PROBE_ROWS} dev or test rows; the snapshot has {len(pairs)}. "
            "Export the adapter, or freeze a snapshot with a dev split."
        )
    step = max(1, len(pairs) // spec.max_probe_rows)
    return pairs[::step][: spec.max_probe_rows]


def _tokenizer(base_model: str) -> Any:
    """The base model's tokenizer with the template that training used."""
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    return tokenizer


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary neighbour of ``out`` that takes its name at the end; gone after an exception or when removed inside."""
    fresh = out.with_name(f".{out.name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if fresh.exists():
            fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one export. The last line of stdout is JSON: {"accepted", "message", "report"}.

    Exit code 0: written. 2: wrong use. 3: refused or impossible, ``message`` says why in words.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if len(args) != 1:
        sys.stderr.write("usage: python -m worker.alignment.export spec.json\n")
        return 2
    try:
        spec = ExportSpec.from_json(json.loads(Path(args[0]).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        sys.stderr.write(f"{args[0]} is not an export spec: {error}\n")
        return 2
    report: MergeReport | None = None
    message = ""
    try:
        report = run_export(spec)
    except ExportRefusedError as refusal:
        report, message = refusal.report, str(refusal)
    except (TrainingError, OSError, ValueError) as error:
        message = str(error)
    outcome = {"accepted": not message, "message": message, "report": asdict(report) if report else None}
    print(json.dumps(outcome))
    return 3 if message else 0


if __name__ == "__main__":
    sys.exit(main())

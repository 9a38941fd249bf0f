"""Vectors of a job's samples by a local encoder, made in the job's child: the worker itself never loads a model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worker.alignment.evaluate_files import read_lines, write_atomically
from worker.alignment.evaluation.diversity import Embed
from worker.alignment.evaluation.semantic import local_embed
from worker.alignment.evaluation.texts import Floats

VECTORS, TOLD = "vectors.npz", "vectors.json"


def write_vectors(out: Path, encoder: Path, files: Sequence[Path]) -> None:
    """Of every different text in the samples' ``files``. What goes wrong is told in ``vectors.json``: it costs one figure."""
    texts = sorted({line["text"] for file in files for line in read_lines(file) if not line.get("error")})
    error = ""
    try:
        vectors = local_embed(encoder)(texts).astype(np.float32) if texts else np.zeros((0, 0), np.float32)
        if not np.isfinite(vectors).all():
            raise ValueError("its vectors are not finite")
        fresh = out / f".{VECTORS}.{os.getpid()}.partial.npz"
        try:
            np.savez(fresh, texts=np.frombuffer(json.dumps(texts).encode(), np.uint8), vectors=vectors)
            fresh.replace(out / VECTORS)
        finally:
            fresh.unlink(missing_ok=True)
    except Exception as caught:  # a folder may be damaged in any way
        error = " ".join(f"{type(caught).__name__}: {caught}".split())[:300]
    write_atomically(out / TOLD, json.dumps({"encoder": str(encoder), "error": error}).encode())


def read_vectors(out: Path, encoder: str) -> tuple[Embed | None, str]:
    """What ``write_vectors`` made with this encoder, and what was wrong where there is nothing."""
    try:
        told = json.loads((out / TOLD).read_text(encoding="utf-8"))
        if told["encoder"] != encoder:
            return None, "the vectors are another encoder's"
        if told["error"]:
            return None, str(told["error"])
        with np.load(out / VECTORS, allow_pickle=False) as found:
            texts, vectors_ND = json.loads(found["texts"].tobytes()), found["vectors"].astype(np.float64)
    except (OSError, ValueError, KeyError, TypeError):
        return None, "the vectors were not written"
    place = {text: number for number, text in enumerate(texts)}

    def embed(wanted: Sequence[str]) -> Floats:
        chosen: Floats = vectors_ND[[place[text] for text in wanted]]
        return chosen

    return embed, ""

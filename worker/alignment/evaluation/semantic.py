"""Vectors of texts for the semantic similarity: from an OpenAI-compatible ``/embeddings`` endpoint or a local encoder.

Both give an ``Embed`` for ``diversity.diversity_result``. An encoder says what it was trained to say and calls most texts of
one language alike: compare its figures with those of the reference, never with another encoder's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from worker.alignment.evaluation.diversity import Embed
from worker.alignment.evaluation.judging.wire import EndpointError
from worker.alignment.evaluation.texts import Floats

_TEXTS_PER_REQUEST = 128
_EMPTY = " "  # endpoints refuse an empty string


class Client(Protocol):
    """``judging.client.Client``."""

    def embed(self, inputs: Sequence[str]) -> list[list[float]]: ...


def endpoint_embed(client: Client) -> Embed:
    """Vectors by ``POST /embeddings``, 128 texts a request; equal texts are sent once. Raises the client's EndpointError."""

    def embed(texts: Sequence[str]) -> Floats:
        different = list(dict.fromkeys(texts))
        rows: list[list[float]] = []
        for start in range(0, len(different), _TEXTS_PER_REQUEST):
            part = different[start : start + _TEXTS_PER_REQUEST]
            rows += client.embed([text if text.strip() else _EMPTY for text in part])
        if len({len(row) for row in rows}) > 1:
            raise EndpointError("nonsense", "The endpoint gave vectors of different lengths. Name one embedding model.")
        number = {text: index for index, text in enumerate(different)}
        vectors: Floats = np.array(rows, dtype=np.float64)[[number[text] for text in texts]]
        return vectors

    return embed


def local_embed(folder: Path, *, batch_size: int = 64, max_tokens: int = 256) -> Embed:
    """Mean of the last hidden states over a text's tokens, by a transformers encoder in ``folder``; on the CPU.

    Safetensors only, and no code of the folder's runs. Global random state stays as it was. Raises what transformers
    raises where the folder cannot be loaded: OSError, ValueError and others.
    """
    import torch

    tokenizer, model = _load(folder)
    longest = getattr(model.config, "max_position_embeddings", None) or max_tokens

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Floats:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = np.zeros((len(texts), int(model.config.hidden_size)))
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            given = tokenizer(
                [texts[index] if texts[index].strip() else _EMPTY for index in part],
                padding=True,
                truncation=True,
                max_length=min(max_tokens, longest),
                return_tensors="pt",
            )
            hidden_BTD = model(**given).last_hidden_state.float()
            mask_BT1 = given["attention_mask"][:, :, None]
            vectors[part] = ((hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)).numpy()
        return vectors

    return embed


def _load(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and model. Layers that a checkpoint lacks (a pooler) draw their weights: not from the caller's generator."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    with torch.random.fork_rng(devices=[]):
        model = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True
        ).eval()
    return tokenizer, model


@lru_cache(maxsize=1)
def screen_embed(folder: str) -> Embed | None:
    """The encoder of a run's settings, loaded once a process; None without one, and where it cannot be loaded.

    A missing figure is no reason to end a training run: the attempt's log says what was wrong.
    """
    if not folder:
        return None
    try:
        return local_embed(Path(folder))
    except Exception as error:
        print(f"The encoder {folder} cannot be loaded, so meanings are not compared: {error}", file=sys.stderr)
        return None


def screen_vectors(folder: str, texts: Sequence[str]) -> Embed | None:
    """The vectors of a screen's samples, made before anything is measured; None without an encoder, and where it fails.

    An encoder may fail on a text as it may fail to load: out of memory, or a token beyond its embeddings.
    """
    embed = screen_embed(folder) if texts else None
    if embed is None:
        return None
    distinct = list(dict.fromkeys(texts))
    try:
        vectors_ND = np.asarray(embed(distinct), dtype=np.float64)
        if not np.isfinite(vectors_ND).all():
            raise ValueError("a vector is not finite")
    except Exception as error:
        print(f"The encoder {folder} failed, so meanings are not compared at this checkpoint: {error}", file=sys.stderr)
        return None
    place = {text: number for number, text in enumerate(distinct)}
    return lambda wanted: vectors_ND[[place[text] for text in wanted]]

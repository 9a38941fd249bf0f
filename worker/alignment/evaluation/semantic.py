"""Vectors of texts for the semantic similarity: from an OpenAI-compatible ``/embeddings`` endpoint or a local encoder.

Both give an ``Embed`` for ``diversity.diversity_result``. An encoder says what it was trained to say and calls most texts of
one language alike: compare its figures with those of the reference, never with another encoder's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

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
    """Mean of the last hidden states over a text's tokens, by a transformers encoder in ``folder``; on the CPU."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Floats:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = np.zeros((len(texts), int(model.config.hidden_size)))
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            given = tokenizer(
                [texts[index] for index in part],
                padding=True,
                truncation=True,
                max_length=max_tokens,
                return_tensors="pt",
            )
            hidden_BTD = model(**given).last_hidden_state.float()
            mask_BT1 = given["attention_mask"][:, :, None]
            vectors[part] = ((hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)).numpy()
        return vectors

    return embed

"""What the collapse tests read: one prompt's samples of both arms as a matrix of similarities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBlock:
    category: str
    domain: str
    open_ended: bool
    similarity_NN: NDArray[np.float64]
    """ROUGE-L F1 between all samples, cut to the word limit: the reference's first, then the policy's; symmetric, 1 on the
    diagonal."""
    num_reference: int
    passes_N: NDArray[np.bool_]
    """Samples that pass the quality rule; all where there is none."""

"""Which units a step trains on: a pure function of the data, the settings and the step's number. Nothing to save."""

from __future__ import annotations

from collections.abc import Sequence

from worker.alignment.batching import epoch_steps, num_steps_per_epoch
from worker.alignment.config import AlignmentConfig
from worker.alignment.dataset import IntArray, Row

PADDED_WINDOW = 16
"""Steps whose rows are sorted by length together where rows are padded; packed rows waste nothing."""


class Sampler:
    """Deals the units of each epoch to its steps."""

    def __init__(
        self, rows: Sequence[Row], units: Sequence[tuple[int, ...]], config: AlignmentConfig, *, packed: bool
    ) -> None:
        # A DPO pair holds both classes: there is nothing to stratify.
        self._labels = [len(unit) > 1 or rows[unit[0]].label for unit in units]
        self._lengths = [max(rows[index].num_tokens for index in unit) for unit in units]
        self._batch_size, self._seed = config.batch_size, config.seed
        self._window = config.bucket_steps or (1 if packed else PADDED_WINDOW)
        self.steps_per_epoch = num_steps_per_epoch(len(units), config.batch_size)
        self._epoch = (-1, list[IntArray]())

    def units_of(self, step: int) -> list[int]:
        """Places of the units of the step after ``step`` finished ones."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            steps = epoch_steps(
                self._labels,
                self._lengths,
                batch_size=self._batch_size,
                seed=self._seed,
                epoch=epoch,
                window=self._window,
            )
            self._epoch = (epoch, steps)
        found: list[int] = self._epoch[1][place].tolist()
        return found

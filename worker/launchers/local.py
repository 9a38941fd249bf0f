"""Runs the trainer as a process of this machine that dies with its worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import worker
from app.embedded.child import launcher_argv
from app.settings import get_settings
from worker.devices import cuda_devices

SECRETS = ("DATABASE_URL", "REDIS_URL", "KTO_SECRET_KEY")
"""The trainer never opens the database, and what it loads came from elsewhere: it gets no address and no key."""


class LocalProcess:
    """A trainer in its own process group. Start it from a thread that lives as long as it: Linux bonds the two."""

    def __init__(self, argv: Sequence[str], *, log_file: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        environment["PYTHONUNBUFFERED"] = "1"
        # Idle OpenMP threads spin by default and starve all else on a busy machine: measured ten times slower steps.
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                launcher_argv(argv, death_signal=signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=Path(worker.__file__).parent.parent,
                env=environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that killed it."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask the trainer to finish its step, save and exit."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End the whole process group and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def train_argv(spec_file: Path) -> list[str]:
    """One process for each CUDA device here, unless the settings say how many."""
    settings = get_settings()
    command = settings.trainer_command or [sys.executable, "-m", "worker.alignment"]
    processes = settings.trainer_processes or max(1, len(cuda_devices()))
    several = ["--processes", str(processes)] if processes > 1 else []
    return [*command, "train", str(spec_file), *several]

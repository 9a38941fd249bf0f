"""Starts a run's processes on this machine: ``train --processes N``. What torchrun does, and torchrun will do too.

Three things differ, for whoever watches the run from outside: all processes are of one process group, so that one signal
ends them; asked to stop they have the time that they need; and the exit code is the run's own. Free of torch.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.1
GRACE_SECONDS = 20.0
"""After one process has failed, the others have so long to tell of it and end."""


def run_processes(spec_file: Path, count: int) -> int:
    """Train with ``count`` processes and wait for them. SIGTERM and SIGINT are passed on.

    The exit code is that of the first process that failed, else 0; where a signal killed it, the same one ends this process.
    """
    processes: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        command = [sys.executable, "-m", "worker.alignment", "train", str(spec_file)]
        port = _free_port()
        for rank in range(count):
            process = subprocess.Popen(command, env=_environment(rank, count, port))
            processes.append(process)  # at once: a signal may come between two
        code = _wait(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """Until all have ended, or some time after one has failed."""
    failed, deadline = 0, float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        failed = failed or next((process.returncode for process in processes if process.returncode), 0)
        if failed:
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        time.sleep(POLL_SECONDS)
    return failed or next((process.returncode for process in processes if process.returncode), 0)


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    """As torchrun's; the cores are shared out where nothing else is said."""
    threads = max(1, (os.cpu_count() or 1) // count)
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {"OMP_NUM_THREADS": str(threads)} | os.environ | {name: str(value) for name, value in own.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""Finds and stops what a killed `kto up` left running on its data folder, so that starting again just works.

Normally nothing is left (children die with their parent); a worker that takes its time to end is one that can be.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.embedded.process import wait_until

OWNER_VARIABLE = "KTO_DATA_OWNER"
"""Names the data folder in the environment of supervised processes, and so of the processes that they start."""

# A trainer that is told to stop finishes its step and saves.
_GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class Leftover:
    """A process that a killed parent left on a data folder."""

    pid: int
    is_postgres: bool


@dataclass(frozen=True)
class Leftovers:
    """What to look for: the database of a cluster, the Redis of a socket, the supervised processes of a data folder."""

    cluster: Path | None = None
    redis_socket: Path | None = None
    owner: Path | None = None

    def stop(self) -> None:
        """Stop all that is found. Only for a data folder whose lock we hold: then whoever started them is dead."""
        found = list(self._find())
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT if process.is_postgres else signal.SIGTERM)
        if found and not wait_until(self._all_gone, _GRACE_SECONDS, 0.05):
            for process in self._find():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            wait_until(self._all_gone, _GRACE_SECONDS, 0.05)

    def _all_gone(self) -> bool:
        return next(self._find(), None) is None

    def _find(self) -> Iterator[Leftover]:
        for pid, command in _commands():
            is_postgres = self.cluster is not None and (
                f" -D {self.cluster} " in command
                or (command.startswith("postgres: ") and _cwd(pid) == str(self.cluster))
            )
            is_redis = self.redis_socket is not None and (
                f"unixsocket {self.redis_socket} " in command or f"unixsocket:{self.redis_socket}" in command
            )
            is_ours = self.owner is not None and pid != os.getpid() and _has_owner(pid, self.owner)
            if is_postgres or is_redis or is_ours:
                yield Leftover(pid, is_postgres)


def _commands() -> Iterator[tuple[int, str]]:
    """Process id and command line of everything that runs."""
    if not sys.platform.startswith("linux"):
        listing = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
        for line in listing.stdout.splitlines():
            pid, _, command = line.strip().partition(" ")
            yield int(pid), f"{command.strip()} "
        return
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield int(entry.name), command


def _cwd(pid: int) -> str:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/cwd").readlink())
    return ""


def _has_owner(pid: int, owner: Path) -> bool:
    """Whether the process, or the one that started it, was started by a supervisor of this data folder."""
    with contextlib.suppress(OSError):
        return f"{OWNER_VARIABLE}={owner}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False

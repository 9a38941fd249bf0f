"""One child process bound to ours, its log file, and how it is stopped."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.embedded.child import launcher_argv
from app.embedded.errors import EmbeddedError, failed, log_tail
from app.embedded.users import ServiceUser

_LOG_LIMIT_BYTES = 10_000_000


class Child:
    """A running command in a process group of its own that dies with us; output goes to the end of its log file.

    Start it from a thread that lives as long as the child should (see `launcher_argv`).
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        user: ServiceUser | None = None,
        death_signal: signal.Signals = signal.SIGTERM,
        cwd: Path | str | None = None,
    ) -> None:
        self.log = log
        trim_log(log)
        launcher = launcher_argv(argv, death_signal=death_signal, user=(user.uid, user.gid) if user else None)
        self._log_start = log.stat().st_size if log.exists() else 0
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._process = subprocess.Popen(
                launcher,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=fd,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal reaches us alone: we decide the order of stopping
            )
        finally:
            os.close(fd)
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        """Whether it still runs. When it has ended, whatever is left of its process group is killed."""
        if self._process.returncode is not None:
            return False
        # Seen without reaping: until it is reaped its id, and so its group's, cannot belong to another process.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return True
        self._signal_group(signal.SIGKILL)
        self._process.wait()
        return False

    @property
    def exit_words(self) -> str:
        """How it ended, for a person."""
        code = self._process.returncode
        if code is None:
            return "is running"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def failure(self, what: str) -> EmbeddedError:
        """An error that explains itself by the last lines that it wrote, without those of earlier starts."""
        return failed(what, log_tail(self.log, start=self._log_start), log=self.log)

    def stop(self, *, sig: signal.Signals = signal.SIGTERM, grace_seconds: float = 10.0) -> None:
        """Ask it to end, wait, then kill its whole process group. Nothing happens when it has ended."""
        if not self.running:
            return
        self._process.send_signal(sig)
        if not wait_until(lambda: not self.running, grace_seconds):
            self._signal_group(signal.SIGKILL)
            self._process.wait()

    def _signal_group(self, sig: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(self.pid, sig)


def trim_log(log: Path) -> None:
    """Move a log over the limit to `<name>.1` and begin anew; the process that appends to it does not notice."""
    if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
        old = log.with_name(f"{log.name}.1")
        old.unlink(missing_ok=True)
        old.touch(mode=0o600)
        with log.open("rb+") as source, old.open("wb") as target:
            source.seek(-_LOG_LIMIT_BYTES, os.SEEK_END)
            target.write(source.read())
            source.truncate(0)


def wait_until(condition: Callable[[], bool], timeout_seconds: float, pause_seconds: float = 0.02) -> bool:
    """Poll until true; False when the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_seconds)
    return True

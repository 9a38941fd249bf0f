"""Runs one command so that it dies with its parent, also when the parent is killed with SIGKILL.

    python -m app.embedded.child --parent PID [--signal NAME] [--user UID:GID] -- command arguments…

On Linux the launcher asks the kernel for a signal at the parent's death, then becomes the command (same process id).
Elsewhere it stays, forwards signals, and looks twice a second whether its parent still lives.
Standard library only: it is also started by its file name, without the project on the path.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

_PR_SET_PDEATHSIG = 1
_KILL_AFTER_SECONDS = 10.0


def set_parent_death_signal(sig: int = signal.SIGTERM) -> bool:
    """Have the kernel send `sig` to this process when the thread that started it ends.

    Lost on a change of user, kept over exec. True when set, False on a system without it (not Linux). A parent that has
    died before the call is not noticed: compare `os.getppid()` afterwards.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    return True


def launcher_argv(
    argv: Sequence[str],
    *,
    death_signal: signal.Signals = signal.SIGTERM,
    user: tuple[int, int] | None = None,
) -> list[str]:
    """The command line that runs `argv` as a child bound to this process, as (uid, gid) `user` if given.

    Start it from a thread that lives as long as the child should: on Linux the bond is to the starting thread.
    """
    options = ["--parent", str(os.getpid()), "--signal", death_signal.name]
    if user is not None:
        options += ["--user", f"{user[0]}:{user[1]}"]
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), *options, "--", *argv]  # noqa: PTH100


def _become_user(user: str) -> None:
    uid, _, gid = user.partition(":")
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))


def _stay_and_watch(argv: Sequence[str], parent: int, death_signal: int) -> int:
    """Run `argv` as a child of the launcher, until it ends or the launcher's parent does."""
    process = subprocess.Popen(argv)

    def forward(signum: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signum)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(signum, forward)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        process.send_signal(death_signal)
        time.sleep(_KILL_AFTER_SECONDS)
        process.kill()

    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="child", description="Run a command that dies with its parent.")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--signal", default="SIGTERM")
    parser.add_argument("--user")
    parser.add_argument("--watch", action="store_true", help="stay and watch, as on systems without a death signal")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    death_signal = signal.Signals[options.signal]
    if options.user:
        _become_user(options.user)
    bound = not options.watch and set_parent_death_signal(death_signal)
    if os.getppid() != options.parent:
        return 128 + death_signal
    try:
        if bound:
            os.execvp(options.command[0], options.command)  # noqa: S606
        return _stay_and_watch(options.command, options.parent, death_signal)
    except OSError as error:
        print(f"cannot run {options.command[0]}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main())

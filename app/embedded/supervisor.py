"""Runs the web server, the workers and the clock as children: restarts what crashes, stops all in order.

Everything happens in the thread that calls `run` (the main one), because children die with the thread that started them.
"""

import errno
import logging
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from app.embedded.errors import EmbeddedError, log_tail
from app.embedded.leftovers import OWNER_VARIABLE
from app.embedded.paths import DataDir
from app.embedded.process import Child, trim_log
from app.embedded.services import EmbeddedServices

logger = logging.getLogger(__name__)

_MAX_CRASHES = 5
_CRASH_WINDOW_SECONDS = 60.0
_FIRST_DELAY_SECONDS = 0.5
_TICK_SECONDS = 0.2
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Process:
    """What to run. Its output goes to `<data>/logs/<name>.log`; `env` is added to ours."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_seconds: float = 10.0
    death_signal: signal.Signals = signal.SIGTERM
    """What it gets when we are killed."""


class _Supervised:
    """One process over its restarts."""

    def __init__(self, spec: Process, data: DataDir) -> None:
        self.spec = spec
        self.log = data.logs / f"{spec.name}.log"
        self.child: Child | None = None
        self._env = {**spec.env, OWNER_VARIABLE: str(data.root)}
        self._crashes: deque[float] = deque(maxlen=_MAX_CRASHES)
        self._start_at = 0.0

    def start_when_due(self) -> None:
        if self.child is None and time.monotonic() >= self._start_at:
            spec = self.spec
            self.child = Child(spec.argv, log=self.log, env=self._env, death_signal=spec.death_signal)

    def note_crash(self) -> None:
        """If it has ended, plan its restart: after 0.5 s, doubled for each crash of the last minute."""
        if self.child is None or self.child.running:
            return
        words = self.child.exit_words
        self.child = None
        now = time.monotonic()
        self._crashes.append(now)
        recent = sum(now - crash < _CRASH_WINDOW_SECONDS for crash in self._crashes)
        if recent >= _MAX_CRASHES:
            raise EmbeddedError(
                f"{self.spec.name} {words}, {recent} times within a minute, so everything was stopped. "
                f"Log: {self.log}\n{log_tail(self.log)}"
            )
        delay = _FIRST_DELAY_SECONDS * 2.0 ** (recent - 1)
        logger.warning("%s %s; starting it again in %.1f s", self.spec.name, words, delay)
        self._start_at = now + delay

    def stop(self, *, at_once: bool) -> None:
        if self.child is not None:
            grace = 0.0 if at_once else self.spec.stop_grace_seconds
            self.child.stop(sig=self.spec.stop_signal, grace_seconds=grace)
            self.child = None


class Supervisor:
    """Keeps processes running on top of services that have been entered.

        with EmbeddedServices(data_dir) as services:
            Supervisor(services, [Process("web", [...]), Process("worker", [...])]).run()

    The order given is the order of starting and of stopping: web, workers, beat. The services stop last, with theirs.
    """

    def __init__(self, services: EmbeddedServices, processes: Sequence[Process]) -> None:
        self._services = services
        self._supervised = [_Supervised(spec, services.data) for spec in processes]
        self._service_crashes: deque[float] = deque(maxlen=_MAX_CRASHES)
        self._stop_asked = threading.Event()
        self._at_once = False

    def run(self, finished: Callable[[], bool] = lambda: False) -> None:
        """Start everything and stay until a stop signal, `request_stop`, or `finished()`; then stop in order.

        `finished` is asked about five times a second and must be quick. Raises `EmbeddedError` when a process crashes
        five times within a minute, after stopping the rest.
        """
        with self._handle_signals():
            try:
                while not self._stop_asked.is_set() and not finished():
                    self._restart_services()
                    for supervised in self._supervised:
                        supervised.note_crash()
                        supervised.start_when_due()
                        trim_log(supervised.log)
                    self._stop_asked.wait(_TICK_SECONDS)
            finally:
                for supervised in self._supervised:
                    supervised.stop(at_once=self._at_once)

    def request_stop(self) -> None:
        """Have `run` stop everything and return. Callable from any thread or signal handler."""
        self._stop_asked.set()

    def pids(self) -> dict[str, int]:
        """Process ids of what runs now, by name."""
        return {each.spec.name: each.child.pid for each in self._supervised if each.child is not None}

    def _restart_services(self) -> None:
        for name in self._services.restart_crashed():
            logger.warning("%s had ended and was started again", name)
            now = time.monotonic()
            self._service_crashes.append(now)
            if len(self._service_crashes) == _MAX_CRASHES and now - self._service_crashes[0] < _CRASH_WINDOW_SECONDS:
                log = self._services.data.logs / f"{name}.log"
                raise EmbeddedError(f"{name} keeps ending, so everything was stopped. Log: {log}\n{log_tail(log)}")

    @contextmanager
    def _handle_signals(self) -> Iterator[None]:
        """The first stop signal asks for an orderly stop; the next one cuts the waiting short."""

        def stop(_signum: int, _frame: FrameType | None) -> None:
            self._at_once = self._stop_asked.is_set()
            self.request_stop()

        previous = {signum: signal.signal(signum, stop) for signum in _STOP_SIGNALS}
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)


def check_port(host: str, port: int) -> None:
    """Raise `EmbeddedError` when the address cannot be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise EmbeddedError(f"{host} is not an address of this machine. Use 127.0.0.1 or 0.0.0.0.") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise EmbeddedError(
                    f"Port {port} on {host} is in use. Stop what uses it, or choose another port."
                ) from error
            raise EmbeddedError(f"Cannot listen on {host} port {port}: {error.strerror}. Choose another.") from error

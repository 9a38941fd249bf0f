"""The bundled Redis: a unix socket in a private folder, nothing on disk (Redis holds nothing that must last)."""

from pathlib import Path

import redis

from app.embedded.binaries import find_redis
from app.embedded.paths import DataDir, private_dir
from app.embedded.process import Child, wait_until
from app.embedded.urls import redis_socket_url

_READY_TIMEOUT_SECONDS = 20.0


class Redis:
    """One Redis server, run as ourselves."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._log = data.logs / "redis.log"
        self._child: Child | None = None

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def start(self) -> str:
        """Start, wait until it answers, and return its address; `EmbeddedError` with the end of the log otherwise."""
        folder = private_dir(self._data.redis)
        socket = redis_socket(self._data)
        private_dir(socket.parent)
        socket.unlink(missing_ok=True)
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "dir": str(folder),
            "daemonize": "no",
        }
        argv = [find_redis(), *(word for name, value in settings.items() for word in (f"--{name}", value))]
        self._child = child = Child(argv, log=self._log, cwd="/")
        url = redis_socket_url(str(socket))

        def answers() -> bool:
            if not child.running:
                raise child.failure(f"Redis {child.exit_words} at its start.")
            try:
                with redis.Redis.from_url(url) as client:
                    return bool(client.ping())
            except redis.ConnectionError:
                return False

        try:
            if not wait_until(answers, _READY_TIMEOUT_SECONDS):
                raise child.failure("Redis does not answer.")
        except BaseException:
            self.stop()
            raise
        return url

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(grace_seconds=5.0)


def redis_socket(data: DataDir) -> Path:
    """Where the server of this data folder listens."""
    return data.socket_dir() / "redis" / "redis.sock"

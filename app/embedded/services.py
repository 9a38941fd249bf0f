"""The services behind `kto up`: starts the bundled PostgreSQL and Redis where no address of others is given."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from app.embedded.errors import from_os_error
from app.embedded.leftovers import Leftovers
from app.embedded.lock import DataLock, is_locked
from app.embedded.paths import DataDir, default_data_dir, write_private
from app.embedded.postgres import Postgres
from app.embedded.redis import Redis, redis_socket
from app.embedded.users import service_user

_ADDRESSES = "services.json"


@dataclass(frozen=True)
class ServiceUrls:
    """Addresses of running services."""

    database_url: str
    redis_url: str


class EmbeddedServices:
    """Context manager: holds the data folder, starts what is needed, and stops it at the end.

        with EmbeddedServices(data_dir) as services:
            services.database_url, services.redis_url

    Enter it from a thread that outlives it (the main one): the services die with that thread. `fsync=False` is for tests:
    faster, and not durable. Raises `EmbeddedError`, whose text is for the user.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        database_url: str | None = None,
        redis_url: str | None = None,
        fsync: bool = True,
    ) -> None:
        self.data_dir = (data_dir or default_data_dir()).absolute()
        self.database_url = database_url or ""
        self.redis_url = redis_url or ""
        self._fsync = fsync
        self._data: DataDir | None = None
        self._lock: DataLock | None = None
        self._postgres: Postgres | None = None
        self._redis: Redis | None = None

    @property
    def data(self) -> DataDir:
        """The layout of the data folder, once entered."""
        assert self._data is not None, "not entered"
        return self._data

    def __enter__(self) -> Self:
        try:
            self._start()
        except OSError as error:
            self._stop()
            raise from_os_error(error, self.data_dir) from error
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def restart_crashed(self) -> list[str]:
        """Start a bundled service that has ended again, at the same address; the names of those restarted."""
        restarted = []
        if self._redis is not None and not self._redis.running:
            self._redis.start()
            restarted.append("redis")
        if self._postgres is not None and not self._postgres.running:
            Leftovers(cluster=self._postgres.cluster).stop()
            self._postgres.start()
            restarted.append("postgres")
        return restarted

    def _start(self) -> None:
        guest = None if self.database_url else service_user(self.data_dir / "postgres")
        self._data = data = DataDir.open(self.data_dir, guest)
        self._lock = DataLock(data)
        postgres = Postgres(data, fsync=self._fsync)
        Leftovers(cluster=postgres.cluster, redis_socket=redis_socket(data), owner=data.root).stop()
        if not self.redis_url:
            self._redis = Redis(data)
            self.redis_url = self._redis.start()
        if not self.database_url:
            self._postgres = postgres
            self.database_url = postgres.start()
        urls = {"database_url": self.database_url, "redis_url": self.redis_url}
        write_private(data.secrets / _ADDRESSES, json.dumps(urls))

    def _stop(self) -> None:
        if self._redis is not None:
            self._redis.stop()
        if self._postgres is not None:
            self._postgres.stop()
        if self._lock is not None:
            (self.data.secrets / _ADDRESSES).unlink(missing_ok=True)
            self.data.remove_socket_dir()
            self._lock.release()
        self._redis = self._postgres = self._lock = None


def running_services(data_dir: Path | None = None) -> ServiceUrls | None:
    """Addresses of the services that a living `kto up` serves from that data folder, or None. Starts nothing."""
    data = DataDir((data_dir or default_data_dir()).resolve())
    addresses = data.secrets / _ADDRESSES
    try:
        if is_locked(data) and addresses.exists():
            return ServiceUrls(**json.loads(addresses.read_text()))
    except PermissionError as error:
        raise from_os_error(error, data.root) from error
    return None

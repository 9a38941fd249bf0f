"""The product on one machine: which processes there are, their environment, and what is checked before they start."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from alembic.util import CommandError
from sqlalchemy import NullPool, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from app.core.db import get_engine, make_engine, session_scope
from app.core.errors import UnavailableError
from app.core.migrate import migrate
from app.core.redis import get_redis
from app.core.storage import data_dir
from app.embedded.paths import DataDir, write_private
from app.embedded.services import EmbeddedServices, running_services
from app.embedded.supervisor import Process
from app.settings import get_settings

_ADDRESS = "web.json"
_TOO_OLD_POSTGRES = 150000


def set_environment(**values: str) -> None:
    """For this process and its children; settings are read again."""
    os.environ.update(values)
    get_settings.cache_clear()
    get_engine.cache_clear()
    get_redis.cache_clear()


def check_database(url: str) -> None:
    """Raises UnavailableError in words for an address that is wrong or a server that is away."""
    remedy = "Check DATABASE_URL, which is written like this: postgresql://user:password@host:5432/database"
    try:
        shown = make_url(url).render_as_string(hide_password=True)
        engine = make_engine(url, connect_args={"connect_timeout": 10}, poolclass=NullPool)
        with engine.connect() as connection:
            version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    except OperationalError as error:
        raise UnavailableError(f"Cannot use the database {shown}: {reason_of(error)}.", remedy=remedy) from error
    except (SQLAlchemyError, ValueError, ImportError) as error:
        raise UnavailableError("DATABASE_URL is not the address of a PostgreSQL database.", remedy=remedy) from error
    if version < _TOO_OLD_POSTGRES:
        raise UnavailableError(f"PostgreSQL {version // 10000} is too old.", remedy="Use version 15 or later.")


def reason_of(error: DBAPIError) -> str:
    """What the server or the network said, without the driver's words around it."""
    first = str(error.orig).strip().splitlines()[0]
    return first.rpartition(" failed: ")[2].removeprefix("FATAL:").strip().removesuffix(".")


def check_redis(url: str) -> None:
    """Raises UnavailableError in words for an address that is wrong or a server that is away."""
    remedy = "Check REDIS_URL, which is written like this: redis://host:6379/0 or unix:///path.sock?db=0"
    try:
        with redis.Redis.from_url(url, socket_timeout=10, socket_connect_timeout=10) as client:
            client.ping()
    except redis.RedisError as error:
        raise UnavailableError(f"Redis does not answer: {str(error).removesuffix('.')}.", remedy=remedy) from error
    except (ValueError, OSError) as error:
        raise UnavailableError("REDIS_URL is not the address of a Redis.", remedy=remedy) from error


def check_services() -> None:
    """For a part that is started alone: both addresses are set and answer. Raises UnavailableError."""
    settings = get_settings()
    missing = [
        name for name, url in (("DATABASE_URL", settings.database_url), ("REDIS_URL", settings.redis_url)) if not url
    ]
    if missing:
        raise UnavailableError(
            f"{' and '.join(missing)} must be set.", remedy="Or start everything on this machine with `kto up`."
        )
    check_database(settings.database_url)
    check_redis(settings.redis_url)


def migrate_in_words(url: str) -> None:
    """Raises UnavailableError for a schema that cannot be brought to this version."""
    try:
        migrate(url)
    except CommandError as error:
        raise UnavailableError(
            f"The database's schema is not known to this version: {error}.",
            remedy="It was made by a newer KTO Studio. Use that version, or another database.",
        ) from error
    except DBAPIError as error:
        raise UnavailableError(
            f"The database cannot be brought to this version's schema: {reason_of(error)}.",
            remedy="Its user must own the database, or be allowed to make tables in it.",
        ) from error


@contextmanager
def services(folder: Path | None = None) -> Iterator[EmbeddedServices]:
    """PostgreSQL and Redis, bundled unless their addresses are set; migrated; the environment points at them.

    ``folder`` holds what belongs to this node alone (lock, logs); by default it is the data folder itself.
    """
    settings = get_settings()
    if settings.database_url:
        check_database(settings.database_url)
    if settings.redis_url:
        check_redis(settings.redis_url)
    root = data_dir()
    with EmbeddedServices(folder or root, database_url=settings.database_url, redis_url=settings.redis_url) as running:
        set_environment(DATABASE_URL=running.database_url, REDIS_URL=running.redis_url, KTO_DATA_DIR=str(root))
        migrate_in_words(running.database_url)
        yield running


@contextmanager
def connected() -> Iterator[None]:
    """For a single command: the configured services, those of a running `kto up`, else our own for a moment."""
    use_running_services()
    settings = get_settings()
    if settings.database_url:
        check_database(settings.database_url)
        yield
        return
    with services():
        yield


def announce(running: EmbeddedServices) -> None:
    """Note where the web server of this data folder listens, for the links that other commands print."""
    settings = get_settings()
    address = {"KTO_HOST": settings.host, "KTO_PORT": str(settings.port), "KTO_PUBLIC_URL": settings.public_url}
    write_private(running.data.secrets / _ADDRESS, json.dumps(address))


def use_running_services() -> None:
    """Fill what is not configured from a living `kto up` on the data folder, if there is one."""
    found = running_services(data_dir())
    if found is None:
        return
    settings = get_settings()
    address = DataDir(data_dir().resolve()).secrets / _ADDRESS
    set_environment(
        DATABASE_URL=settings.database_url or found.database_url,
        REDIS_URL=settings.redis_url or found.redis_url,
        **(json.loads(address.read_text()) if address.exists() else {}),
    )


def celery_argv(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "worker.celery_app", *arguments]


def train_worker_argv(concurrency: int = 1) -> list[str]:
    name = f"train@{os.uname().nodename}"
    return celery_argv("worker", "-Q", "train", "-P", "threads", "-c", str(concurrency), "-n", name, "--without-gossip")


def task_worker_argv() -> list[str]:
    name = f"tasks@{os.uname().nodename}"
    return celery_argv("worker", "-Q", "tasks", "-P", "threads", "-c", "2", "-n", name, "--without-gossip")


def beat_argv() -> list[str]:
    return celery_argv("beat", "--scheduler", "celery.beat:Scheduler", "--pidfile=")


def web_argv(*, reload: bool = False) -> list[str]:
    settings = get_settings()
    argv = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--host", settings.host]
    argv += ["--port", str(settings.port), "--no-server-header", "--timeout-graceful-shutdown", "5"]
    if settings.public_url:
        argv += ["--proxy-headers"]
    return [*argv, "--reload", "--reload-dir", "app", "--reload-dir", "templates"] if reload else argv


def processes(*, reload: bool = False) -> list[Process]:
    """In the order of starting and of stopping."""
    grace = get_settings().stop_grace_seconds + 10.0
    # When we are killed, the services end with us: a worker would wait for them in vain. Its trainer still saves.
    at_once = signal.SIGKILL
    return [
        # The reloading server has a child of its own to end.
        Process("web", web_argv(reload=reload), death_signal=signal.SIGTERM if reload else at_once),
        Process("worker-train", train_worker_argv(), stop_grace_seconds=grace, death_signal=at_once),
        Process("worker-tasks", task_worker_argv(), stop_grace_seconds=grace, death_signal=at_once),
        Process("beat", beat_argv(), death_signal=at_once),
    ]


def base_url() -> str:
    """The address that people type."""
    return get_settings().public_url.rstrip("/") or local_url()


def local_url() -> str:
    """Where this machine reaches the web server: bound to every address, it is also at the loopback one."""
    settings = get_settings()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 -- compared, not bound
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def allow_host(host: str) -> None:
    """A server bound to a named address answers to that name as well."""
    allowed = get_settings().allowed_hosts
    name = f"[{host}]" if ":" in host else host
    if host not in ("0.0.0.0", "::") and name not in allowed:  # noqa: S104 -- compared, not bound
        set_environment(KTO_ALLOWED_HOSTS=json.dumps([*allowed, name]))


def first_start_url() -> str | None:
    """A one-time link that makes the owner, as long as nobody has an account."""
    from app.accounts.links import first_start_needed, make_link

    with session_scope() as db:
        if not first_start_needed(db):
            return None
        return f"{base_url()}/start/{make_link(db, 'first_start')}"

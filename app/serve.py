"""The product on one machine: which processes there are, their environment, and what is checked before they start."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.core.db import get_engine, make_engine, session_scope
from app.core.errors import UnavailableError
from app.core.migrate import migrate
from app.core.redis import get_redis
from app.core.storage import data_dir
from app.embedded.services import EmbeddedServices, running_services
from app.embedded.supervisor import Process
from app.settings import get_settings


def set_environment(**values: str) -> None:
    """For this process and its children; settings are read again."""
    os.environ.update(values)
    get_settings.cache_clear()
    get_engine.cache_clear()
    get_redis.cache_clear()


def check_database(url: str) -> None:
    """Raises UnavailableError in words for an address that is wrong or a server that is away."""
    remedy = "Check DATABASE_URL: postgresql://user:password@host:5432/database."
    try:
        engine = make_engine(url, connect_args={"connect_timeout": 10})
        with engine.connect() as connection:
            version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[-1]
        raise UnavailableError(f"The database does not answer: {reason}", remedy=remedy) from error
    except (SQLAlchemyError, ValueError, ImportError) as error:
        raise UnavailableError("DATABASE_URL is not the address of a PostgreSQL database.", remedy=remedy) from error
    engine.dispose()
    if version < 150000:
        raise UnavailableError(f"PostgreSQL {version // 10000} is too old.", remedy="Use version 15 or later.")


@contextmanager
def services(folder: Path | None = None) -> Iterator[EmbeddedServices]:
    """PostgreSQL and Redis, bundled unless their addresses are set; migrated; the environment points at them.

    ``folder`` holds what belongs to this node alone (lock, logs); by default it is the data folder itself.
    """
    settings = get_settings()
    if settings.database_url:
        check_database(settings.database_url)
    root = data_dir()
    with EmbeddedServices(folder or root, database_url=settings.database_url, redis_url=settings.redis_url) as running:
        set_environment(DATABASE_URL=running.database_url, REDIS_URL=running.redis_url, KTO_DATA_DIR=str(root))
        migrate(running.database_url)
        yield running


@contextmanager
def connected() -> Iterator[None]:
    """For a single command: the configured services, those of a running `kto up`, else our own for a moment."""
    settings = get_settings()
    if settings.database_url:
        check_database(settings.database_url)
        yield
        return
    found = running_services(data_dir())
    if found is not None:
        set_environment(DATABASE_URL=found.database_url, REDIS_URL=found.redis_url)
        yield
        return
    with services():
        yield


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
    return [
        Process("web", web_argv(reload=reload), stop_signal=signal.SIGTERM),
        Process("worker-train", train_worker_argv(), stop_grace_seconds=grace),
        Process("worker-tasks", task_worker_argv(), stop_grace_seconds=grace),
        Process("beat", beat_argv()),
    ]


def base_url() -> str:
    settings = get_settings()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return settings.public_url or f"http://{host}:{settings.port}"


def allow_host(host: str) -> None:
    """A server bound to a named address answers to that name as well."""
    allowed = get_settings().allowed_hosts
    if host not in ("0.0.0.0", "::") and host not in allowed:  # noqa: S104 -- compared, not bound
        set_environment(KTO_ALLOWED_HOSTS=json.dumps([*allowed, host]))


def first_start_url() -> str | None:
    """A one-time link that makes the owner, as long as nobody has an account."""
    from app.accounts.links import first_start_needed, make_link

    with session_scope() as db:
        if not first_start_needed(db):
            return None
        return f"{base_url()}/start/{make_link(db, 'first_start')}"

"""Shared fixtures: one embedded PostgreSQL and Redis for the whole session, a database per test worker, a rollback per test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("KTO_SHARED_DATA", ROOT.parent / "shared" / "data"))
_services: Any = None
_folder: str = ""


def pytest_configure(config: pytest.Config) -> None:
    """Start the services once, in the process that starts the workers; these inherit the addresses."""
    global _services, _folder  # noqa: PLW0603 -- pytest's hooks share nothing else
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    from app.embedded.services import EmbeddedServices

    _folder = tempfile.mkdtemp(prefix="kto-test-")
    Path(_folder).chmod(0o755)
    _services = EmbeddedServices(Path(_folder) / "data", fsync=False)
    _services.__enter__()
    os.environ["KTO_TEST_DATABASE"] = _services.database_url
    os.environ["KTO_TEST_REDIS"] = _services.redis_url


def pytest_unconfigure(config: pytest.Config) -> None:
    if _services is not None:
        _services.__exit__(None, None, None)
        shutil.rmtree(_folder, ignore_errors=True)


class BrowserTogether(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """The tests that share the started demo run in one process, one after another; all others wherever there is room."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if module.startswith("tests/browser/"):
            return "tests/browser"
        return module if module.endswith("_in_browser.py") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> BrowserTogether:
    return BrowserTogether(config, log)


def worker_number() -> int:
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def _with_database(url: str, name: str) -> str:
    from sqlalchemy import make_url

    return make_url(url).set(database=name).render_as_string(hide_password=False)


def create_database(name: str) -> str:
    """An empty database on the test server; returns its URL."""
    admin = create_engine(os.environ["KTO_TEST_DATABASE"], isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    admin.dispose()
    return _with_database(os.environ["KTO_TEST_DATABASE"], name)


@pytest.fixture(scope="session")
def test_redis_url() -> str:
    base = os.environ["KTO_TEST_REDIS"].partition("?")[0]
    return f"{base}?db={worker_number() % 16}"


@pytest.fixture(scope="session")
def database_url() -> str:
    """This worker's own migrated database."""
    from app.core.migrate import migrate

    url = create_database(f"test_{worker_number()}")
    migrate(url)
    return url


@pytest.fixture(scope="session")
def configured(database_url: str, test_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The process's settings point at the test services."""
    from app.settings import get_settings

    data = tmp_path_factory.mktemp("data")
    os.environ.update(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": test_redis_url,
            "KTO_DATA_DIR": str(data),
            "KTO_ALLOWED_HOSTS": '["testserver", "localhost", "127.0.0.1"]',
        }
    )
    get_settings.cache_clear()
    yield
    from app.core.db import get_engine

    if get_engine.cache_info().currsize:
        get_engine().dispose()


@pytest.fixture(scope="session")
def engine(configured: None) -> Iterator[Engine]:
    from app.core.db import get_engine

    engine = get_engine()
    yield engine
    engine.dispose()


@pytest.fixture
def db(engine: Engine) -> Iterator[Session]:
    """A session whose work is rolled back after the test; requests and tasks of the test share its connection."""
    from app.core.db import SessionFactory, new_session

    with engine.connect() as connection:
        transaction = connection.begin()
        SessionFactory.configure(bind=connection, join_transaction_mode="create_savepoint")
        session = new_session()
        try:
            yield session
        finally:
            session.close()
            transaction.rollback()
            SessionFactory.kw.pop("bind", None)
            SessionFactory.kw.pop("join_transaction_mode", None)


@pytest.fixture
def committed_db(engine: Engine) -> Iterator[Engine]:
    """Real commits, for tests with several connections or processes; every table is emptied afterwards."""
    from app.core.db import Base, SessionFactory

    SessionFactory.configure(bind=engine)
    yield engine
    SessionFactory.kw.pop("bind", None)
    names = ", ".join(f'"{table.name}"' for table in Base.metadata.sorted_tables)
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))


@pytest.fixture
def factory(db: Session) -> Any:
    from tests.factory import Factory

    return Factory(db)


@pytest.fixture
def client(db: Session) -> Iterator[TestClient]:
    """Nobody is signed in."""
    from app.main import create_app

    with TestClient(create_app(), base_url="http://testserver", follow_redirects=False) as test_client:
        yield test_client


@pytest.fixture
def sign_in(client: TestClient, db: Session) -> Callable[..., TestClient]:
    """``sign_in(user)`` makes ``client`` that person's browser; every request carries the CSRF header."""
    from app.accounts.sessions import cookie_name, open_login
    from app.core.security import csrf_token, hash_token

    def act(user: Any) -> TestClient:
        token = open_login(db, user)
        db.flush()
        client.cookies.set(cookie_name("session"), token)
        client.headers["X-CSRF-Token"] = csrf_token(hash_token(token))
        return client

    return act

"""The command line: in this process for wrong input, as real processes where starting and ending is what is tested."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner, Result

from app.cli import cli
from app.core.db import SessionFactory, get_engine
from app.core.redis import get_redis
from app.settings import get_settings
from tests.conftest import create_database, worker_number

Kto = Callable[..., Result]


def _forget() -> None:
    """Settings, engine and Redis of the command before."""
    if get_engine.cache_info().currsize:
        get_engine().dispose()
    for cached in (get_settings, get_engine, get_redis):
        cached.cache_clear()
    SessionFactory.kw.pop("bind", None)


@pytest.fixture
def data() -> Iterator[Path]:
    """A data folder to be. Not below pytest's own folder: the database's system user could not enter that one."""
    parent = Path(tempfile.mkdtemp(prefix="kto-cli-", dir="/tmp"))
    parent.chmod(0o711)
    yield parent / "data"
    shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture
def kto(data: Path) -> Iterator[Kto]:
    """Runs ``kto …`` with these environment variables and none of the tests' own."""

    def run(*arguments: str, **env: str) -> Result:
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("KTO_", "DATABASE", "REDIS"))
        }
        clean |= {"KTO_DATA_DIR": str(data), **env}
        with mock.patch.dict(os.environ, clean, clear=True):
            _forget()
            try:
                return CliRunner().invoke(cli, list(arguments))
            finally:
                _forget()

    yield run
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def cli_database(database_url: str) -> str:
    """A migrated database that only these tests use, since commands commit."""
    from app.core.migrate import migrate

    url = create_database(f"test_cli_{worker_number()}")
    migrate(url)
    return url

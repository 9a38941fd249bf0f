import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import redis
import sqlalchemy
from kombu import Connection

from app.core.redis import celery_url
from app.embedded import postgres as postgres_module
from app.embedded.binaries import PostgresBinaries, find_postgres
from app.embedded.errors import EmbeddedError
from app.embedded.services import EmbeddedServices, running_services
from app.embedded.urls import libpq_url
from tests.embedded.conftest import modes_above, processes_on

STRANGER = 54321  # a user id that owns nothing here


def as_stranger(imports: str, code: str, *arguments: str) -> str:
    """Run Python code as another OS user and return its error. Only root can.

    The imports come first: the interpreter may lie in a closed home.
    """
    script = f"import os, sys, {imports}\nos.setgroups([])\nos.setgid({STRANGER})\nos.setuid({STRANGER})\n{code}"
    finished = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    return finished.stderr


def select_one(services: EmbeddedServices) -> int | None:
    with psycopg.connect(libpq_url(services.database_url)) as connection:
        row = connection.execute("SELECT 1").fetchone()
    return row[0] if row else None


def test_starts_and_keeps_data(data_dir: Path) -> None:
    above = modes_above(data_dir)
    began = time.monotonic()
    with EmbeddedServices(data_dir) as services:
        assert time.monotonic() - began < 20
        with psycopg.connect(libpq_url(services.database_url)) as connection:
            connection.execute("CREATE TABLE kept (word text)")
            connection.execute("INSERT INTO kept VALUES ('Ärger')")
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
            assert connection.execute("SELECT upper('ä'), current_user::text").fetchone() == ("Ä", "kto")
            assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'kto'").fetchone() == (False,)
        with redis.Redis.from_url(services.redis_url) as client:
            client.set("volatile", "1")
        url = services.database_url
    assert processes_on(data_dir) == []
    with EmbeddedServices(data_dir) as services:
        assert services.database_url == url
        with psycopg.connect(libpq_url(services.database_url)) as connection:
            assert connection.execute("SELECT word FROM kept").fetchone() == ("Ärger",)
        with redis.Redis.from_url(services.redis_url) as client:
            assert client.get("volatile") is None
    assert modes_above(data_dir) == above


def test_addresses_work_for_sqlalchemy_and_celery(services: EmbeddedServices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    engine = sqlalchemy.create_engine(services.database_url)
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT current_database()")) == "kto"
    engine.dispose()
    broker = celery_url(services.redis_url.replace("db=0", "db=3"))
    with Connection(broker) as connection, connection.SimpleQueue("doorbell") as queue:
        queue.put({"run": 1})
        message = queue.get(timeout=5)
        message.ack()
        assert message.payload == {"run": 1}
        queue.put({"run": 2})
    with redis.Redis.from_url(services.redis_url.replace("db=0", "db=3")) as client:
        assert client.llen("doorbell") == 1
    assert celery_url("redis://host:6379/1") == "redis://host:6379/1"


def test_other_user_is_refused(services: EmbeddedServices) -> None:
    sockets = services.data.socket_dir()
    for service in ("postgres", "redis"):
        assert stat.S_IMODE((sockets / service).stat().st_mode) == 0o700
    for secret in services.data.secrets.iterdir():
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(libpq_url(services.database_url).replace("kto:", "kto:not"))
    if os.geteuid() != 0:
        return
    # With the right password in hand:
    refused = as_stranger("psycopg", "psycopg.connect(sys.argv[1])", libpq_url(services.database_url))
    assert "Permission denied" in refused
    path = str(sockets / "redis" / "redis.sock")
    refused = as_stranger("socket", "socket.socket(socket.AF_UNIX).connect(sys.argv[1])", path)
    assert "Permission denied" in refused
    assert "Permission denied" in as_stranger("time", "os.listdir(sys.argv[1])", str(services.data.logs))
    assert "Permission denied" in as_stranger("time", "os.listdir(sys.argv[1])", str(services.data.postgres))


def test_long_path_gets_a_private_socket_folder(data_dir: Path) -> None:
    deep = data_dir / ("d" * 60) / ("e" * 60)
    data_dir.chmod(0o755)
    deep.parent.mkdir(mode=0o755)
    with EmbeddedServices(deep, fsync=False) as services:
        sockets = services.data.socket_dir()
        assert sockets.parent == Path("/tmp")
        assert stat.S_IMODE(sockets.stat().st_mode) & 0o067 == 0
        assert select_one(services) == 1
    assert not sockets.exists()


def test_second_start_is_told_who_runs(services: EmbeddedServices) -> None:
    with (
        pytest.raises(EmbeddedError, match=rf"already runs on .*process {os.getpid()}"),
        EmbeddedServices(services.data_dir),
    ):
        pass
    urls = running_services(services.data_dir)
    assert urls is not None
    assert (urls.database_url, urls.redis_url) == (services.database_url, services.redis_url)


def test_given_addresses_are_used(data_dir: Path) -> None:
    with EmbeddedServices(data_dir, database_url="postgresql+psycopg://db/kto", redis_url="redis://r:1/0") as services:
        assert services.database_url == "postgresql+psycopg://db/kto"
        assert services.redis_url == "redis://r:1/0"
        assert processes_on(data_dir) == []
        assert not services.data.postgres.exists()
    assert running_services(data_dir) is None


def test_killed_services_come_back(data_dir: Path) -> None:
    with EmbeddedServices(data_dir, fsync=False) as services:
        cluster = services.data.postgres / "data"
        with psycopg.connect(libpq_url(services.database_url), autocommit=True) as connection:
            connection.execute("SET synchronous_commit = on")
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
            os.kill(int((cluster / "postmaster.pid").read_text().split()[0]), 9)
        with redis.Redis.from_url(services.redis_url) as client:
            os.kill(client.info()["process_id"], 9)
        time.sleep(0.2)
        assert services.restart_crashed() == ["redis", "postgres"]
        assert services.restart_crashed() == []
        with psycopg.connect(libpq_url(services.database_url)) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == (7,)


def test_damaged_data_folders_are_explained(data_dir: Path) -> None:
    with EmbeddedServices(data_dir, fsync=False) as services:
        cluster = services.data.postgres / "data"
        password = services.data.secrets / "postgres-admin"
    (cluster / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedError, match=r"PostgreSQL 12 database.*kto backup"), EmbeddedServices(data_dir):
        pass
    (cluster / "PG_VERSION").write_text("18\n")
    right = password.read_text()
    password.write_text("wrong")
    with pytest.raises(EmbeddedError, match="Put back the secrets folder"), EmbeddedServices(data_dir):
        pass
    assert processes_on(data_dir) == []
    password.write_text(right)
    # The lock file of a killed server, whose process id belongs to somebody else by now, does not matter.
    (cluster / "postmaster.pid").write_text(f"{os.getpid()}\n{cluster}\n1700000000\n5432\n/tmp\n\n  0 0\nready\n")
    with EmbeddedServices(data_dir, fsync=False) as services:
        assert select_one(services) == 1


def test_impossible_data_folders_are_named(data_dir: Path) -> None:
    file = data_dir / "file"
    file.write_text("")
    for bad, words in ((file, "is a file"), (file / "below", "part of the path is a file")):
        with pytest.raises(EmbeddedError, match=words), EmbeddedServices(bad):
            pass


@pytest.fixture
def closed_home(data_dir: Path) -> Path:
    home = data_dir / "home"
    home.mkdir(mode=0o700)
    return home


def test_data_folder_out_of_reach(closed_home: Path) -> None:
    """As root the database runs as another user, who must be able to walk to the data."""
    wanted = closed_home / "data"
    if os.geteuid() != 0:
        with EmbeddedServices(wanted, fsync=False) as services:
            assert services.data.guest is None
        return
    closed_home.parent.chmod(0o755)
    wanted.mkdir()
    above = modes_above(wanted)
    with pytest.raises(EmbeddedError, match=rf"cannot enter {closed_home}\."), EmbeddedServices(wanted):
        pass
    assert modes_above(wanted) == above
    with pytest.raises(EmbeddedError, match="holds other files"), EmbeddedServices(closed_home):
        pass
    assert modes_above(wanted) == above


def test_programs_out_of_reach_are_copied(closed_home: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binaries = find_postgres()
    wheel = binaries.prefix.parent
    for part in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        (closed_home / part.name).symlink_to(part)
    hidden = closed_home / wheel.name / binaries.prefix.name
    monkeypatch.setattr(postgres_module, "find_postgres", lambda _major: PostgresBinaries(hidden, binaries.major))
    data_dir.chmod(0o755)
    data = data_dir / "data"
    with EmbeddedServices(data, fsync=False) as services:
        assert (data / "programs").exists() == (os.geteuid() == 0)
        assert select_one(services) == 1
    assert stat.S_IMODE(closed_home.stat().st_mode) == 0o700

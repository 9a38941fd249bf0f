"""The bundled PostgreSQL: reached by a unix socket in a private folder alone, with passwords, never over the network."""

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg
from psycopg import sql

from app.embedded.binaries import PostgresBinaries, find_postgres, reachable_postgres
from app.embedded.errors import EmbeddedError, failed
from app.embedded.paths import DataDir, private_dir
from app.embedded.process import Child, wait_until
from app.embedded.urls import libpq_url, postgres_url
from app.embedded.users import as_user

_ADMIN = "postgres"
_ROLE = "kto"
_DATABASE = "kto"
# Crash recovery replays at most max_wal_size of log, which a slow disk may need minutes for.
_READY_TIMEOUT_SECONDS = 180.0


class Postgres:
    """One cluster in `<data>/postgres`; made at the first start, then kept."""

    def __init__(self, data: DataDir, *, fsync: bool = True) -> None:
        self._data = data
        self._fsync = fsync
        self._folder = data.postgres
        self.cluster = data.postgres / "data"
        self._log = data.logs / "postgres.log"
        self._child: Child | None = None
        self._socket_dir = Path()

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def start(self) -> str:
        """Start, wait until it answers, and return the SQLAlchemy address of the application's database.

        Raises `EmbeddedError` with the end of the log and what to do.
        """
        guest = self._data.guest
        private_dir(self._folder, guest)
        self._socket_dir = private_dir(self._data.socket_dir() / "postgres", guest)
        version_file = self.cluster / "PG_VERSION"
        major = int(version_file.read_text()) if version_file.exists() else None
        binaries = reachable_postgres(find_postgres(major), self._data)
        if major is None:
            self._create_cluster(binaries)
        # Lock files of a killed server. We hold the folder (kto.lock) and have stopped who used it: the process ids in
        # them are dead or belong to others by now.
        for stale in (self.cluster / "postmaster.pid", self._socket_dir / ".s.PGSQL.5432.lock"):
            stale.unlink(missing_ok=True)
        argv = [binaries.program("postgres"), "-D", str(self.cluster), *self._settings()]
        self._child = Child(argv, log=self._log, env={"LC_ALL": "C"}, user=guest, death_signal=signal.SIGINT, cwd="/")
        try:
            self._wait_until_ready(self._child)
            self._create_database()
        except BaseException:
            self.stop()
            raise
        return self._url(_ROLE, _DATABASE)

    def stop(self) -> None:
        """Fast shutdown: connections are cut, everything committed is on disk."""
        if self._child is not None:
            self._child.stop(sig=signal.SIGINT, grace_seconds=30.0)

    def _settings(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": f'"{self._socket_dir}"',
            "unix_socket_permissions": "0700",
            "password_encryption": "scram-sha-256",
            "max_connections": "100",
            "shared_buffers": "128MB",
            "max_wal_size": "1GB",
            "jit": "off",  # short queries: compiling them costs more than it saves
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] ",
        }
        if not self._fsync:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def _create_cluster(self, binaries: PostgresBinaries) -> None:
        """Run initdb into a folder beside the final one, which is renamed when whole: a killed first start leaves nothing."""
        guest = self._data.guest
        if self.cluster.exists():
            raise EmbeddedError(f"{self.cluster} is not a database. Restore a backup into a new data folder.")
        unfinished = self._folder / "data.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        with tempfile.NamedTemporaryFile("w", dir=self._folder, prefix=".password-") as password_file:
            password_file.write(self._data.secret("postgres-admin"))
            password_file.flush()
            if guest is not None:
                shutil.chown(password_file.name, guest.uid, guest.gid)
            argv = [
                binaries.program("initdb"), f"--pgdata={unfinished}", f"--username={_ADMIN}",
                f"--pwfile={password_file.name}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C",
                "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
                *([] if self._fsync else ["--no-sync"]),
            ]  # fmt: skip
            finished = subprocess.run(
                argv,
                **as_user(guest),
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        if finished.returncode != 0:
            raise failed(f"Cannot create the database in {self._folder}.", finished.stderr[-2000:])
        unfinished.rename(self.cluster)

    def _wait_until_ready(self, child: Child) -> None:
        """Wait as pg_ctl does, by the status that the server writes: asking by connecting would fill its log."""
        pid_file = self.cluster / "postmaster.pid"

        def is_ready() -> bool:
            if not child.running:
                raise child.failure(f"PostgreSQL {child.exit_words} at its start.")
            try:
                lines = pid_file.read_text().splitlines()
            except FileNotFoundError:  # not yet written, or already removed by a server that ended
                return False
            return len(lines) > 7 and lines[7].strip() == "ready"

        if not wait_until(is_ready, _READY_TIMEOUT_SECONDS):
            raise child.failure("PostgreSQL does not become ready.")

    def _create_database(self) -> None:
        """The application's role (it may create databases, nothing more) and database, if they are not there."""
        password = self._data.secret("postgres-kto")
        with self._connect_as_admin() as connection:
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (_ROLE,)).fetchone() is None:
                hashed = connection.pgconn.encrypt_password(
                    password.encode(), _ROLE.encode(), b"scram-sha-256"
                ).decode()
                role = sql.Identifier(_ROLE)
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(role, sql.Literal(hashed))
                )
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,)).fetchone() is None:
                names = sql.Identifier(_DATABASE), sql.Identifier(_ROLE)
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))

    def _connect_as_admin(self) -> psycopg.Connection:
        try:
            return psycopg.connect(libpq_url(self._url(_ADMIN, _ADMIN)), autocommit=True, connect_timeout=20)
        except psycopg.OperationalError as error:
            if "password authentication failed" not in str(error):
                raise failed("PostgreSQL cannot be reached.", str(error), log=self._log) from error
            raise EmbeddedError(
                f"The database in {self.cluster} does not accept the password in {self._data.secrets}. "
                "Put back the secrets folder that belongs to it, or restore a backup into a new data folder."
            ) from error

    def _url(self, user: str, database: str) -> str:
        secret = "postgres-admin" if user == _ADMIN else "postgres-kto"
        password = self._data.secret(secret)
        return postgres_url(user=user, password=password, database=database, socket_dir=str(self._socket_dir))

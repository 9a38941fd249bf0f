"""The data folder: where it is, what lies in it, and who may enter.

Only the data folder and what is below it is ever created or changed here; a folder above it never is.
"""

import os
import secrets
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from app.embedded.errors import EmbeddedError
from app.embedded.users import ServiceUser, first_closed_folder

# The kernel's limit is 107 bytes on Linux and 103 on macOS, for "<folder>/<service>/<socket name>".
_SOCKET_PATH_LIMIT = 103
_LONGEST_SOCKET = "/postgres/.s.PGSQL.5432.lock"


def default_data_dir() -> Path:
    """`/var/lib/kto-studio` for root, else `kto-studio` in the user's data home."""
    if os.geteuid() == 0:
        return Path("/var/lib/kto-studio")
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data_home.is_absolute():  # the specification says to ignore a relative one
        data_home = Path.home() / ".local" / "share"
    return data_home / "kto-studio"


def private_dir(path: Path, owner: ServiceUser | None = None) -> Path:
    """Create a 0700 folder, or make an existing one so, owned by `owner` where given."""
    path.mkdir(mode=0o700, exist_ok=True)
    if owner is not None and path.stat().st_uid != owner.uid:
        os.chown(path, owner.uid, owner.gid)
    if stat.S_IMODE(path.stat().st_mode) != 0o700:
        path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Write a 0600 file whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


@dataclass(frozen=True)
class DataDir:
    """The layout below one data folder. `guest` is the system user of the database when we are root."""

    root: Path
    guest: ServiceUser | None = None

    @classmethod
    def open(cls, root: Path, guest: ServiceUser | None = None) -> Self:
        """Create what is missing, or raise `EmbeddedError` for a folder that cannot serve."""
        data = cls(Path(os.path.realpath(root)), guest)
        if not data.root.exists():
            data.root.mkdir(mode=0o755, parents=True)
            data.root.chmod(0o700)
        elif not data.root.is_dir():
            raise EmbeddedError(f"The data folder {data.root} is a file. Choose a folder.")
        if data.root.stat().st_uid != os.geteuid():
            raise EmbeddedError(
                f"The data folder {data.root} belongs to another user. Start as that user, or choose another folder."
            )
        data._let_guest_in()
        for folder in (data.artifacts, data.secrets, data.logs):
            private_dir(folder)
        return data

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def lock_file(self) -> Path:
        return self.root / "kto.lock"

    def secret(self, name: str) -> str:
        """The random secret kept in a 0600 file under that name, made at the first call."""
        path = self.secrets / name
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32))
        return path.read_text()

    def open_dir(self, name: str) -> Path:
        """A folder of ours below the data folder that the database's user may walk through."""
        folder = self.root / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return self._open_to_guest(folder)

    def socket_dir(self) -> Path:
        """A private folder whose sockets have a path short enough: `run`, or one of our own under /tmp that `run` names."""
        self.open_dir("run")
        if len(os.fsencode(self.run)) + len(_LONGEST_SOCKET) <= _SOCKET_PATH_LIMIT:
            return self.run
        note = self.run / "elsewhere"
        folder = Path(note.read_text()) if note.exists() else None
        if folder is None or not _is_our_folder(folder):
            folder = Path(tempfile.mkdtemp(prefix="kto-", dir="/tmp"))
            write_private(note, str(folder))
        return self._open_to_guest(folder)

    def remove_socket_dir(self) -> None:
        """Remove the folder under /tmp, if there is one."""
        note = self.run / "elsewhere"
        if note.exists():
            folder = Path(note.read_text())
            if _is_our_folder(folder):
                shutil.rmtree(folder, ignore_errors=True)
            note.unlink()

    def _let_guest_in(self) -> None:
        """Let the database's user, and nobody else, walk through the data folder, if it cannot yet."""
        closed = first_closed_folder(self.root, self.guest) if self.guest is not None else None
        if self.guest is None or closed is None:
            return
        if closed != self.root:
            raise EmbeddedError(
                f"The data folder {self.root} cannot be used: the system user {self.guest.name!r}, which runs the "
                f"database when you are root, cannot enter {closed}. Choose a data folder that it can reach, such as "
                f"{default_data_dir()}, or start as an ordinary user."
            )
        if any(self.root.iterdir()) and not self.lock_file.exists():
            raise EmbeddedError(
                f"{self.root} holds other files and is closed to the system user {self.guest.name!r}, which runs the "
                "database. Choose an empty folder as the data folder."
            )
        self._open_to_guest(self.root)

    def _open_to_guest(self, folder: Path) -> Path:
        """Nothing changes on a folder that is so already: a database that is shutting down may be working in it."""
        status = folder.stat()
        if self.guest is not None and status.st_gid != self.guest.gid:
            os.chown(folder, -1, self.guest.gid)
        mode = 0o700 if self.guest is None else 0o710
        if stat.S_IMODE(status.st_mode) != mode:
            folder.chmod(mode)
        return folder


def _is_our_folder(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()

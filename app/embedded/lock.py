"""The lock on a data folder: one `kto up` at a time."""

import fcntl
import os

from app.embedded.errors import EmbeddedError
from app.embedded.paths import DataDir


class DataLock:
    """Holds the data folder for this process. The kernel lets go of it when the process ends, however it ends."""

    def __init__(self, data: DataDir) -> None:
        self._fd = os.open(data.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 32).decode().strip() or "unknown"
            os.close(self._fd)
            raise EmbeddedError(
                f"KTO Studio already runs on {data.root} (process {holder}). Stop it first, or choose another folder."
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def is_locked(data: DataDir) -> bool:
    """Whether a living process holds the data folder."""
    try:
        fd = os.open(data.lock_file, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False

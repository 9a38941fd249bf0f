"""What went wrong with a bundled service, in words that say what to do."""

import errno
from pathlib import Path

_REMEDIES = (
    ("No space left on device", "The disk is full. Free some space and start again; nothing that was saved is lost."),
    ("Disk quota exceeded", "The disk quota is used up. Free some space and start again."),
    (
        "could not resize shared memory segment",
        "Shared memory is full. Free /dev/shm, or give the container more of it.",
    ),
    ("could not create shared memory segment", "The system refused shared memory. Raise its limit and start again."),
    ("could not map anonymous shared memory", "There is too little free memory. Stop other programs and start again."),
    ("Cannot allocate memory", "There is too little free memory. Stop other programs and start again."),
    (
        "database files are incompatible",
        "The data folder was made by another version. Use that version, or another folder.",
    ),
    (
        "could not look up effective user ID",
        "PostgreSQL needs a user that the system knows by name. Start as such a user.",
    ),
    ("has wrong ownership", "The data folder belongs to another user. Start as that user, or choose another folder."),
    ("Permission denied", "A file in the data folder cannot be read or written. Check who owns the folder."),
    (
        "could not locate a valid checkpoint record",
        "The database files are damaged. Restore a backup into a new data folder.",
    ),
    ("Read-only file system", "The data folder is on a read-only file system. Choose another folder."),
    (
        "error while loading shared libraries",
        "A system library is missing. Install it, or set DATABASE_URL and REDIS_URL.",
    ),
)
_OS_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space and start again",
    errno.EDQUOT: "the disk quota is used up; free some space and start again",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "not permitted; choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
    errno.EEXIST: "it is a file, not a folder; choose another folder",
}


class EmbeddedError(Exception):
    """A bundled service or a supervised process cannot run; the message is for the user."""


def log_tail(path: Path, lines: int = 12, *, start: int = 0) -> str:
    """The last lines of a log file, from the byte `start` on, or a note that there are none."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(start if start <= size else 0, size - 16_384))
        text = log.read().decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"


def failed(what: str, output: str, *, log: Path | None = None) -> EmbeddedError:
    """An error that names what failed, the remedy when `output` is a known one, and the output itself."""
    remedy = next((words for pattern, words in _REMEDIES if pattern in output), "The lines below say why.")
    where = f"\nLog: {log}" if log else ""
    return EmbeddedError(f"{what} {remedy}{where}\n{output}".rstrip())


def from_os_error(error: OSError, folder: Path) -> EmbeddedError:
    """The same for a failed file operation of our own under the data folder."""
    reason = _OS_REMEDIES.get(error.errno or 0, error.strerror or str(error))
    return EmbeddedError(f"Cannot use {error.filename or folder} for the data folder {folder}: {reason}.")

"""Which system user runs the database when we are root, and what that user can reach."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from app.embedded.errors import EmbeddedError


@dataclass(frozen=True)
class ServiceUser:
    """An unprivileged system user."""

    name: str
    uid: int
    gid: int


class _Credentials(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def as_user(user: ServiceUser | None) -> _Credentials:
    """Arguments for `subprocess.run` that make the child that user; none for ourselves."""
    return {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}


def service_user(owned: Path) -> ServiceUser | None:
    """Who runs the database: None for ourselves; for root the owner of `owned` if it exists, else postgres, else nobody."""
    if os.geteuid() != 0:
        return None
    if owned.exists() and owned.stat().st_uid != 0:
        status = owned.stat()
        return ServiceUser(
            owned.owner() if _has_name(status.st_uid) else str(status.st_uid), status.st_uid, status.st_gid
        )
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServiceUser(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        "PostgreSQL does not run as root, and there is no system user 'postgres' or 'nobody' to run it. "
        "Start as an ordinary user, or set DATABASE_URL."
    )


def first_closed_folder(folder: Path, user: ServiceUser) -> Path | None:
    """The outermost of `folder` and its parents that the user cannot walk through, or None."""
    if _passes("-x", folder, user):
        return None
    return next(step for step in (*reversed(folder.parents), folder) if not _passes("-x", step, user))


def can_read(path: Path, user: ServiceUser) -> bool:
    """Whether the user can open the file: asked of the kernel, so that access lists count too."""
    return _passes("-r", path, user)


def _passes(test: str, path: Path, user: ServiceUser) -> bool:
    finished = subprocess.run(
        ["/bin/sh", "-c", f'test {test} "$1"', "sh", str(path)],
        **as_user(user),
        cwd="/",
        check=False,
    )
    return finished.returncode == 0


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True

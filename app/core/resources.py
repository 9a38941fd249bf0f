"""Where templates, static files and migrations lie: beside ``app`` in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_APP = Path(__file__).resolve().parent.parent


@cache
def resource_dir(name: str) -> Path:
    """The folder ``name`` ("templates", "static", "migrations"). Raises FileNotFoundError when neither place has it."""
    for candidate in (_APP.parent / name, _APP / "_bundle" / name):
        # A wheel installs into site-packages, where another package may own a folder called "static".
        if candidate.is_dir() and (candidate.parent == _APP / "_bundle" or (_APP.parent / "pyproject.toml").is_file()):
            return candidate
    raise FileNotFoundError(f"The folder {name} is neither beside nor inside {_APP}: reinstall KTO Studio.")

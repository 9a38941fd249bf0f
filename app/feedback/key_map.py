"""The keys of Annotate: one press each, changed or switched off by the person who presses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.core.errors import InvalidError
from app.models import User

ACTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "up": ("Desirable", ("j", "ArrowRight")),
    "down": ("Undesirable", ("f", "ArrowLeft")),
    "skip": ("Skip", ("Space",)),
    "undo": ("Undo", ("z", "Backspace")),
    "comment": ("Comment", ("c",)),
    "correct": ("Correction", ("e",)),
    "system": ("System prompt", ("s",)),
    "instructions": ("Instructions", ("i",)),
}
"""Action -> its name, its keys unless changed."""
RESERVED = frozenset("123456789?g[]")
"""Reasons by number, the sheet, and keys that every page has."""
NAMED = {"Space": "Space", "ArrowRight": "→", "ArrowLeft": "←", "ArrowUp": "↑", "ArrowDown": "↓", "Backspace": "⌫"}
ALLOWED_NAMES = frozenset(NAMED)


def single_keys(user: User) -> bool:
    return bool(user.preferences.get("single_keys", True))


def own_keys(user: User) -> dict[str, str]:
    """Action -> the one key that the person chose."""
    chosen = user.preferences.get("keys")
    if not isinstance(chosen, dict):
        return {}
    return {action: key for action, key in chosen.items() if action in ACTIONS and isinstance(key, str) and key}


def keys_of(user: User) -> dict[str, str]:
    """Action -> its keys for ``data-key``, the first of them the one to show; empty where single keys are switched off."""
    if not single_keys(user):
        return dict.fromkeys(ACTIONS, "")
    own = own_keys(user)
    taken = set(own.values())
    return {
        action: own.get(action) or " ".join(key for key in keys if key not in taken)
        for action, (_, keys) in ACTIONS.items()
    }


def shown_key(keys: str) -> str:
    """For a ``<kbd>``."""
    first = keys.partition(" ")[0]
    return NAMED.get(first, first.upper())


def chosen_keys(form: Mapping[str, str]) -> dict[str, str]:
    """Action -> key where it is not the usual one. Raises InvalidError with ``fields`` for keys that cannot be or meet."""
    chosen: dict[str, str] = {}
    errors: dict[str, str] = {}
    wanted = {action: _key(form.get(action, "")) or keys[0] for action, (_, keys) in ACTIONS.items()}
    for action, key in wanted.items():
        if key in RESERVED:
            errors[action] = f"{key} has another meaning on every page"
        elif key not in ALLOWED_NAMES and (len(key) != 1 or not key.isprintable()):
            errors[action] = f"one letter or sign, or one of {', '.join(sorted(ALLOWED_NAMES))}"
        elif list(wanted.values()).count(key) > 1:
            errors[action] = "two actions have this key"
        if key != ACTIONS[action][1][0]:
            chosen[action] = key
    if errors:
        raise InvalidError("The keys do not fit.", fields=errors)
    return chosen


def _key(value: str) -> str:
    if value == " ":
        return "Space"
    value = value.strip()
    named = {name.lower(): name for name in ALLOWED_NAMES}
    return named.get(value.lower(), value.lower())


def key_choice(user: User) -> list[dict[str, Any]]:
    """For the form: every action with its name and its key now."""
    own = own_keys(user)
    return [
        {"action": action, "name": name, "key": own.get(action, keys[0])} for action, (name, keys) in ACTIONS.items()
    ]

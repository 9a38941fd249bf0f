r"""The ``Human:`` / ``Assistant:`` form of hh-rlhf: one string that holds a whole dialogue.

``"Human: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:"`` is three messages, user, assistant, user, and asks for the
fourth. ``format_dialogue`` is the exact inverse of ``parse_dialogue`` (up to the blank line that hh-rlhf puts first): a string
that would not come back unchanged is no dialogue and stays one user message.
"""

from __future__ import annotations

import re
from typing import Any

_END = "\n\nAssistant:"
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant): ")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_NAMES = {role: name for name, role in _ROLES.items()}


def parse_dialogue(text: str) -> list[dict[str, Any]] | None:
    """Chat messages, the last of them the user's; None where ``text`` is an ordinary prompt.

    Two turns of one speaker in a row are one message that keeps the second marker as its text: chat templates want
    speakers to alternate, and nothing is lost.
    """
    body = text.removeprefix("\n\n")
    if not body.startswith("Human: ") or not body.endswith(_END):
        return None
    parts = _TURN.split(body.removesuffix(_END))
    messages: list[dict[str, Any]] = []
    for name, content in zip(parts[1::2], parts[2::2], strict=True):
        role = _ROLES[name]
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{name}: {content}"
        else:
            messages.append({"role": role, "content": content})
    if messages[-1]["role"] != "user" or any(not message["content"].strip() for message in messages):
        return None
    return messages if format_dialogue(messages) == body else None


def format_dialogue(messages: list[dict[str, Any]]) -> str:
    return "\n\n".join(f"{_NAMES[message['role']]}: {message['content']}" for message in messages) + _END

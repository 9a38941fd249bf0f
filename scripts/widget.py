"""Write ``static/widget/v1.js`` from ``v1.source.js``: without comments and needless blanks. Strings stay as they are."""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "static" / "widget"
HEAD = "// KTO Studio widget 1\n"
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`|//[^\n]*|[^"`/]+|/')
_BLANKS = re.compile(r"\s*(=>|\*\*|[!=]=|[=,:;{}()\[\]<>?&|*]|(?<!\+)\+(?!\+)) ?")


def build(source: str) -> str:
    """Good for this one file: it holds no regular expression and no division."""
    parts: list[str] = []
    for token in _TOKEN.findall(source):
        if token.startswith("`"):
            parts.append(token.replace("\n", ""))
        elif token.startswith('"'):
            parts.append(token)
        elif not token.startswith("//"):
            parts.append(_BLANKS.sub(r"\1", re.sub(r"\s+", " ", token)))
    return HEAD + re.sub(r",(?=[}\])])|;(?=})", "", "".join(parts)).replace("; ", ";").strip() + "\n"


if __name__ == "__main__":
    (FOLDER / "v1.js").write_text(build((FOLDER / "v1.source.js").read_text()))
    sys.stdout.write(f"{(FOLDER / 'v1.js').stat().st_size} bytes\n")

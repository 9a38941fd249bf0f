"""One outbound policy: who may make an HTTP client at all, and that it is made through the policy."""

from __future__ import annotations

import re

from tests.conftest import ROOT

CLIENT = re.compile(
    r"\b(?:httpx\.(?:Client|AsyncClient|get|post|put|request|stream)\(|urlopen\(|requests\.(?:get|post)\()"
)
THROUGH_THE_POLICY = re.compile(r"outbound|transport")
ON_THIS_MACHINE = {"worker/demo/story.py"}
"""The demo talks to the installation that it runs in; no user gives that address."""


def test_every_http_client_goes_through_the_policy() -> None:
    found = {}
    for folder in ("app", "worker"):
        for path in (ROOT / folder).rglob("*.py"):
            code = path.read_text()
            if CLIENT.search(code):
                found[str(path.relative_to(ROOT))] = bool(THROUGH_THE_POLICY.search(code))
    assert found, "the pattern finds nothing any more"
    assert [name for name, through in found.items() if not through and name not in ON_THIS_MACHINE] == []

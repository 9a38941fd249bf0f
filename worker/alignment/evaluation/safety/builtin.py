"""The two suites that come with the product: harmful requests, and harmless ones that look dangerous."""

from __future__ import annotations

from functools import cache
from importlib import resources

from worker.alignment.evaluation.suites.format import Suite, parse_suite

HARMFUL = "harmful-requests"
OVER_REFUSAL = "over-refusal"


@cache
def builtin_suite(name: str) -> Suite:
    """HARMFUL or OVER_REFUSAL, from the package's own files."""
    folder = resources.files(__package__).joinpath("data")
    return parse_suite(folder.joinpath(f"{name}.yaml").read_bytes(), folder.joinpath(f"{name}.jsonl").read_bytes())

"""Regular expressions of suites, run by RE2: time linear in the text whatever the pattern."""

from __future__ import annotations

import functools
from typing import Any

import re2

MAX_PATTERN = 2_000
_MAX_MEMORY = 1 << 20  # refuses programs that would make linear slow
_WORDS = {
    "invalid perl operator: (?=": "looks ahead, which needs unbounded time; write the match itself, or two checks",
    "invalid perl operator: (?!": "looks ahead, which needs unbounded time; use a not-regex check for what must be absent",
    "invalid perl operator: (?<": "looks behind, which needs unbounded time; match the text before it as well",
    "invalid escape sequence": "has an escape that is not known here (back-references need unbounded time and are not read)",
    "pattern too large": "grows too large when its repetitions are written out; repeat less",
    "bad repetition operator": "repeats a repetition (as in a**); put the inner one in brackets",
    "invalid repetition size": "repeats over 1000 times; repeat less",
    "invalid nested repetition": "repeats a repetition too often; repeat less",
    "missing )": "misses a closing bracket )",
    "missing ]": "misses a closing bracket ]",
    "unexpected )": "has a closing bracket ) too many",
    "no argument for repetition operator": "repeats nothing: a +, * or ? has nothing before it",
}


class PatternError(ValueError):
    """The message says why, in words that follow “the pattern”."""


@functools.lru_cache(maxsize=512)
def compiled(pattern: str, ignore_case: bool = False) -> Any:
    """A pattern whose ``search`` is linear in the text; ``^`` and ``$`` are the text's ends. Raises PatternError."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"is longer than {MAX_PATTERN:,} characters")
    options = re2.Options()
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    options.case_sensitive = not ignore_case
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        told = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        words = next((words for start, words in _WORDS.items() if start in told), f"cannot be read: {told}")
        raise PatternError(words) from error

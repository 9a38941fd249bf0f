"""Words, sentences and paragraphs of a text, counted in time linear in it."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
_END = re.compile(r"[.?!]+")
_AFTER = frozenset(")\";}]*:@'({[")
"""Punctuation that may stand right after an end of sentence."""
_LONGEST_TOKEN = 60
_BEFORE_PERIOD = """
mr mrs ms dr prof sr jr st vs etc inc ltd co corp gen gov sen rep rev hon col capt lt sgt maj mt ft no dept est approx
jan feb mar apr aug sept oct nov dec e.g i.e u.s u.k a.m p.m u.n d.c b.c a.d ph.d m.d n.y
"""
_STARTING = """
the this that these those it he she they we i you in on at a an and but if when what there here as for with
"""
_ABBREVIATIONS = frozenset(_BEFORE_PERIOD.split())
"""Before a period these do not end a sentence, unless a word follows that starts one."""
_STARTERS = frozenset(_STARTING.split())


def num_words(text: str) -> int:
    """Runs of letters, digits and underscores."""
    return len(_WORD.findall(text))


def num_paragraphs(text: str) -> int:
    """Blocks parted by blank lines."""
    lines = [line.strip() for line in text.splitlines()]
    return sum(1 for i, line in enumerate(lines) if line and (i == 0 or not lines[i - 1]))


def num_sentences(text: str) -> int:
    """Ends at a period, question or exclamation mark with space or closing punctuation after it; what is left counts too.

    Lines alone end nothing. An abbreviation or an initial ends a sentence only before a word that starts one; a number with
    a period (as of a list) only before a word that is not in lower case. This is how Punkt's English model, which IFEval
    counts with, decides in the main.
    """
    text = text.strip()
    count = 0
    last = 0
    for match in _END.finditer(text):
        end = match.end()
        if end == len(text) or not (text[end].isspace() or text[end] in _AFTER):
            continue
        if match.group()[-1] == "." and not _ends(text, match.start(), end):
            continue
        if any(character.isalnum() for character in text[last:end]) or not count:
            count += 1
        last = end
    return count + (1 if any(character.isalnum() for character in text[last:]) else 0)


def _ends(text: str, start: int, end: int) -> bool:
    """Whether the period(s) at start .. end close a sentence."""
    token = text[max(0, start - _LONGEST_TOKEN) : start].rsplit(None, 1)[-1:] or [""]
    word = "" if start and text[start - 1].isspace() else token[0].strip("([{\"'*_\u201c\u2018").lower()
    follow = text[end : end + _LONGEST_TOKEN].split(None, 1)[:1] or [""]
    after = follow[0]
    if end - start > 1:  # an ellipsis
        return after[:1].isupper() and after.strip(",.;:!?").lower() in _STARTERS
    if word.isdigit():
        return not after[:1].islower()
    if word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word != "i"):
        return after[:1].isupper() and after.strip(",.;:!?").lower() in _STARTERS and len(word) != 1
    return True

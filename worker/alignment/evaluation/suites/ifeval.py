"""The checks of the 25 IFEval instructions, written from their public definitions (Zhou et al. 2023, arXiv 2311.07911).

All run in time linear in the text. ``follows`` is the strict verdict; loose also forgives a first or last line and asterisks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from worker.alignment.evaluation.suites.counting import num_sentences, num_words
from worker.alignment.evaluation.suites.languages import language_of

Verdict = Callable[[str, Mapping[str, Any]], bool]
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_ITALIC = re.compile(r"\*[^\n*]*\*")
_BOLD = re.compile(r"\*\*[^\n*]*\*\*")
_STARS = re.compile(r"\s?\*\*\*\s?")
_FENCE = re.compile(r"```(?:json)?", re.IGNORECASE)
_PART = r"[\w$&@#%+=~^|/\\`*<>.\-\u2010\u2013\u2014\u2019]+"
_TOKEN = re.compile(rf"{_PART}(?:'(?!(?:s|m|d|t|ll|re|ve)\b){_PART})*", re.IGNORECASE)
_FIRST_WORD_ENDS = ".,?!'\""


def follows(identity: str, text: str, kwargs: Mapping[str, Any], *, loose: bool = False) -> bool:
    """Whether the text follows the instruction (its arguments already checked). An empty text follows none.

    Raises languages.NoDetectorError for the instructions on language where no detector is installed.
    """
    check = _VERDICTS[identity]
    texts = _variants(text) if loose else [text]
    return any(variant.strip() and check(variant, kwargs) for variant in texts)


def _variants(text: str) -> Iterator[str]:
    lines = text.split("\n")
    for kept in (lines, lines[1:], lines[:-1], lines[1:-1]):
        variant = "\n".join(kept)
        variant = variant if kept is lines else variant.strip()
        yield variant
        yield variant.replace("*", "")


def _related(count: int, wanted: float, relation: str) -> bool:
    return count >= wanted if relation == "at least" else count < wanted


def _existence(text: str, kwargs: Mapping[str, Any]) -> bool:
    low = text.lower()
    return all(keyword.lower() in low for keyword in kwargs["keywords"])


def _frequency(text: str, kwargs: Mapping[str, Any]) -> bool:
    count = text.lower().count(kwargs["keyword"].strip().lower())
    return _related(count, kwargs["frequency"], kwargs["relation"])


def _forbidden(text: str, kwargs: Mapping[str, Any]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in kwargs["forbidden_words"])


def _letters(text: str, kwargs: Mapping[str, Any]) -> bool:
    count = text.lower().count(kwargs["letter"].strip().lower())
    return _related(count, kwargs["let_frequency"], kwargs["let_relation"])


def _paragraphs(text: str, kwargs: Mapping[str, Any]) -> bool:
    parts = _STARS.split(text)
    inner = parts[1:-1]
    if not all(part.strip() for part in inner):
        return False
    return sum(1 for part in parts if part.strip()) == int(kwargs["num_paragraphs"])


def _nth_paragraph(text: str, kwargs: Mapping[str, Any]) -> bool:
    parts = text.split("\n\n")
    count = sum(1 for part in parts if part.strip())
    nth = int(kwargs["nth_paragraph"])
    if count != kwargs["num_paragraphs"] or not 1 <= nth <= count or not parts[nth - 1].strip():
        return False
    word = parts[nth - 1].split()[0].lstrip("'").lstrip('"')
    ends = min((at for mark in _FIRST_WORD_ENDS if (at := word.find(mark)) >= 0), default=len(word))
    return word[:ends].lower() == str(kwargs["first_word"]).lower()


def _placeholders(text: str, kwargs: Mapping[str, Any]) -> bool:
    count = 0
    for line in text.split("\n"):
        at = line.find("[")
        while at >= 0 and (end := line.find("]", at)) >= 0:
            count += 1
            at = line.find("[", end)
    return count >= int(kwargs["num_placeholders"])


def _postscript(text: str, kwargs: Mapping[str, Any]) -> bool:
    marker = kwargs["postscript_marker"].strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _bullets(text: str, kwargs: Mapping[str, Any]) -> bool:
    count = 0
    lines = text.split("\n")
    for number, line in enumerate(lines):
        start = line.lstrip()
        starred = start.startswith("*") and not start.startswith("**") and (len(start) > 1 or number + 1 < len(lines))
        count += starred or start.startswith("-")
    return count == int(kwargs["num_bullets"])


def _constrained(text: str, _kwargs: Mapping[str, Any]) -> bool:
    return any(answer in text for answer in _ANSWERS)


def _highlights(text: str, kwargs: Mapping[str, Any]) -> bool:
    found = [*_ITALIC.findall(text), *_BOLD.findall(text)]
    return sum(1 for part in found if part.strip("*").strip()) >= int(kwargs["num_highlights"])


def _sections(text: str, kwargs: Mapping[str, Any]) -> bool:
    marker = re.escape(kwargs["section_spliter"].strip())
    return len(re.findall(rf"{marker}\s?\d+", text)) >= int(kwargs["num_sections"])


def _json(text: str, _kwargs: Mapping[str, Any]) -> bool:
    bare = text.strip()
    if fence := _FENCE.match(bare):
        bare = bare[fence.end() :]
    try:
        json.loads(bare.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, _kwargs: Mapping[str, Any]) -> bool:
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if start >= 0 and start + 2 < end and line[start:end].lstrip("<").rstrip(">").strip():
            return True
    return False


def _two_responses(text: str, _kwargs: Mapping[str, Any]) -> bool:
    parts = [part.strip() for part in text.split("******")]
    if not all(parts[1:-1]):
        return False
    given = [part for part in parts if part]
    return len(given) == 2 and given[0] != given[1]


def _repeats(text: str, kwargs: Mapping[str, Any]) -> bool:
    return text.strip().lower().startswith(kwargs["prompt_to_repeat"].strip().lower())


def _ends(text: str, kwargs: Mapping[str, Any]) -> bool:
    return text.strip().strip('"').lower().endswith(kwargs["end_phrase"].strip().lower())


def _quoted(text: str, _kwargs: Mapping[str, Any]) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == '"' == bare[-1]


def num_capital_words(text: str) -> int:
    """Words in capitals; a contraction (I'M, DON'T) is two."""
    return sum(match.group().isupper() for match in _TOKEN.finditer(text))


def _capital_words(text: str, kwargs: Mapping[str, Any]) -> bool:
    return _related(num_capital_words(text), kwargs["capital_frequency"], kwargs["capital_relation"])


_VERDICTS: dict[str, Verdict] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": lambda text, kwargs: language_of(text) == kwargs["language"],
    "length_constraints:number_sentences": lambda text, kwargs: _related(
        num_sentences(text), kwargs["num_sentences"], kwargs["relation"]
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda text, kwargs: _related(
        num_words(text), kwargs["num_words"], kwargs["relation"]
    ),
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats,
    "startend:end_checker": _ends,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text, _kwargs: text.isupper() and language_of(text) == "en",
    "change_case:english_lowercase": lambda text, _kwargs: text.islower() and language_of(text) == "en",
    "punctuation:no_comma": lambda text, _kwargs: "," not in text,
}

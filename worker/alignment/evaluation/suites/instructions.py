"""The 25 instructions of IFEval (Zhou et al. 2023, arXiv 2311.07911) and the arguments each one takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

RELATIONS = ("at least", "less than")
Want = Literal["text", "texts", "letter", "count", "relation", "language"]
_MAX_COUNT = 100_000


@dataclass(frozen=True, slots=True)
class Instruction:
    words: str
    arguments: Mapping[str, Want]


INSTRUCTIONS: dict[str, Instruction] = {
    "keywords:existence": Instruction("holds every keyword", {"keywords": "texts"}),
    "keywords:frequency": Instruction(
        "holds the keyword so often", {"keyword": "text", "frequency": "count", "relation": "relation"}
    ),
    "keywords:forbidden_words": Instruction("holds none of the words", {"forbidden_words": "texts"}),
    "keywords:letter_frequency": Instruction(
        "holds the letter so often", {"letter": "letter", "let_frequency": "count", "let_relation": "relation"}
    ),
    "language:response_language": Instruction("is in the language", {"language": "language"}),
    "length_constraints:number_sentences": Instruction(
        "has so many sentences", {"num_sentences": "count", "relation": "relation"}
    ),
    "length_constraints:number_paragraphs": Instruction(
        "has so many paragraphs, parted by ***", {"num_paragraphs": "count"}
    ),
    "length_constraints:number_words": Instruction("has so many words", {"num_words": "count", "relation": "relation"}),
    "length_constraints:nth_paragraph_first_word": Instruction(
        "has so many paragraphs, the nth of which starts with the word",
        {"num_paragraphs": "count", "nth_paragraph": "count", "first_word": "text"},
    ),
    "detectable_content:number_placeholders": Instruction("has so many [placeholders]", {"num_placeholders": "count"}),
    "detectable_content:postscript": Instruction("ends with a postscript", {"postscript_marker": "text"}),
    "detectable_format:number_bullet_lists": Instruction("has exactly so many bullets", {"num_bullets": "count"}),
    "detectable_format:constrained_response": Instruction("is one of three set answers", {}),
    "detectable_format:number_highlighted_sections": Instruction(
        "has so many *highlighted* parts", {"num_highlights": "count"}
    ),
    "detectable_format:multiple_sections": Instruction(
        "has so many sections with the marker", {"section_spliter": "text", "num_sections": "count"}
    ),
    "detectable_format:json_format": Instruction("is JSON", {}),
    "detectable_format:title": Instruction("has a <<title>>", {}),
    "combination:two_responses": Instruction("is two different answers parted by ******", {}),
    "combination:repeat_prompt": Instruction("repeats the request first", {"prompt_to_repeat": "text"}),
    "startend:end_checker": Instruction("ends with the phrase", {"end_phrase": "text"}),
    "startend:quotation": Instruction("stands in double quotation marks", {}),
    "change_case:capital_word_frequency": Instruction(
        "has so many words in capitals", {"capital_frequency": "count", "capital_relation": "relation"}
    ),
    "change_case:english_capital": Instruction("is English in capitals", {}),
    "change_case:english_lowercase": Instruction("is English in lower case", {}),
    "punctuation:no_comma": Instruction("has no comma", {}),
}


def known_id(given: str) -> str | None:
    """The instruction's own name; files of the multilingual edition put ``en:`` before it."""
    name = given.removeprefix("en:")
    return name if name in INSTRUCTIONS else None


def problems_of(identity: str, kwargs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the arguments: (name, message)."""
    wanted = INSTRUCTIONS[identity].arguments
    for name in kwargs:
        if name not in wanted:
            told = ", ".join(wanted) or "none"
            yield name[:60], f"{identity} has no such argument; its arguments are: {told}."
    for name, want in wanted.items():
        if name not in kwargs:
            yield name, f"{identity} needs {name}."
        elif reason := _wrong(kwargs[name], want):
            yield name, reason


def _wrong(value: Any, want: Want) -> str:
    match want:
        case "count":
            right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT
            return "" if right and int(value) == value else "Must be a whole number from 0."
        case "relation":
            return "" if value in RELATIONS else f"Must be {' or '.join(RELATIONS)}."
        case "letter":
            return "" if isinstance(value, str) and len(value.strip()) == 1 else "Must be one character."
        case "language":
            right = isinstance(value, str) and 2 <= len(value) <= 7
            return "" if right else "Must be a code of ISO 639-1, such as de."
        case "texts":
            right = isinstance(value, list) and 0 < len(value) <= 100 and all(isinstance(v, str) and v for v in value)
            return "" if right else "Must be a list of 1 to 100 texts."
        case _:
            return "" if isinstance(value, str) and value.strip() else "Must be a text that is not empty."

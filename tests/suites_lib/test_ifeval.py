from __future__ import annotations

from typing import Any

import pytest

from bench.evaluation_suites import AGREEMENT, FAILING_FOUND, verdicts
from tests.conftest import SHARED_DATA
from worker.alignment.evaluation.suites.counting import num_paragraphs, num_sentences, num_words
from worker.alignment.evaluation.suites.ifeval import follows, num_capital_words
from worker.alignment.evaluation.suites.instructions import INSTRUCTIONS, problems_of

ENGLISH = "The weather in the hills was cold, and we walked home along the river before it got dark."
PLAIN: list[tuple[str, dict[str, Any], str, str]] = [
    # instruction, arguments, a text that follows, one that does not
    ("keywords:existence", {"keywords": ["Sun", "moon"]}, "sunny MOON", "sun"),
    ("keywords:frequency", {"keyword": "ha", "frequency": 2, "relation": "at least"}, "haha", "ha"),
    ("keywords:frequency", {"keyword": "ha", "frequency": 2, "relation": "less than"}, "ha", "haha"),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "rocket", "a Rock."),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 3, "let_relation": "at least"}, "eEe", "ee"),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "at least"}, "# #", "#"),
    ("language:response_language", {"language": "en"}, ENGLISH, "Das ist ein deutscher Satz über das Wetter."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two!", "One, two."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one\n***\n***\ntwo"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "one two", "one two-three"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "later"},
        "one\n\n'Later, two",
        "one\n\nMuch later",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", "[name at place]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP. S. more", "Bye. PS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "p.p.s more", "p.s. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n- b\n* c"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "* a\n**b**", "**b**"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "My answer is perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and * *"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        "SECTION 1\na\nSECTION two",
    ),
    ("detectable_format:json_format", {}, '```JSON\n{"a": 1}\n```', "{'a': 1}"),
    ("detectable_format:title", {}, "<<Ode>>\ntext", "<<>>\ntext"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "say HI. Hello.", "Hello."),
    ("startend:end_checker", {"end_phrase": "The end."}, 'He said: "the end."', "The end. Or not."),
    ("startend:quotation", {}, '"quoted"', '"half'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "WE said NO",
        "We said NO",
    ),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH),
    ("change_case:english_lowercase", {}, ENGLISH.lower(), ENGLISH),
    ("punctuation:no_comma", {}, "a b", "a, b"),
]


@pytest.mark.parametrize(("identity", "kwargs", "good", "bad"), PLAIN)
def test_an_instruction_is_judged(identity: str, kwargs: dict[str, Any], good: str, bad: str) -> None:
    assert not list(problems_of(identity, kwargs))
    assert follows(identity, good, kwargs)
    assert not follows(identity, bad, kwargs)
    assert not follows(identity, " \n", kwargs)
    assert not follows(identity, " \n", kwargs, loose=True)


def test_all_instructions_are_tried() -> None:
    assert len(INSTRUCTIONS) == 25
    assert {identity for identity, *_ in PLAIN} == set(INSTRUCTIONS)


def test_loose_forgives_a_frame_and_asterisks() -> None:
    text = 'Sure, here it is:\n"quoted"\nI hope this helps, bye'
    assert not follows("startend:quotation", text, {})
    assert follows("startend:quotation", text, {}, loose=True)
    assert follows("startend:quotation", '**"quoted"**', {}, loose=True)
    assert not follows("punctuation:no_comma", "a\nb, c\nd", {}, loose=True)


@pytest.mark.parametrize(
    ("identity", "kwargs", "name"),
    [
        ("keywords:frequency", {"keyword": "a", "frequency": -1, "relation": "at least"}, "frequency"),
        ("keywords:frequency", {"keyword": "a", "frequency": 1, "relation": "exactly"}, "relation"),
        ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": "at least"}, "letter"),
        ("keywords:existence", {"keywords": "a"}, "keywords"),
        ("punctuation:no_comma", {"num": 1}, "num"),
    ],
)
def test_wrong_arguments_are_named(identity: str, kwargs: dict[str, Any], name: str) -> None:
    assert [found for found, _ in problems_of(identity, kwargs)] == [name]


@pytest.mark.parametrize("mode", ["strict", "loose"])
def test_released_verdicts_are_reproduced(mode: str) -> None:
    pytest.importorskip("py3langid")
    read = list(verdicts(mode, SHARED_DATA / "ifeval"))
    failing = [verdict for verdict in read if not verdict.released]
    assert len(read) == 834
    assert sum(verdict.ours == verdict.released for verdict in read) >= AGREEMENT * len(read)
    assert sum(not verdict.ours for verdict in failing) >= FAILING_FOUND * len(failing)
    differing = {verdict.instruction for verdict in read if verdict.ours != verdict.released}
    assert differing <= {"keywords:letter_frequency", "change_case:english_capital"}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("no end", 1),
        ("One. Two? Three!", 3),
        ("Mr. Smith met Dr. Jones at 5 p.m. on Friday.", 1),
        ("It costs 3.50 euros. Fine.", 2),
        ("Wait... what? Really!!!", 2),
        ('She said "Stop!" and left. (He stayed.)', 3),
        ("A title\nand a line", 1),
        ("...", 0),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert num_sentences(text) == count


def test_other_counts() -> None:
    assert num_words("well-known, don't") == 4
    assert num_paragraphs("\n a\nb\n \n\nc\n") == 2
    assert num_capital_words("I'M at NASA in the U.S. with Bob") == 4
    assert num_capital_words("DON'T TELL O'BRIEN") == 4

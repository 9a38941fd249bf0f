from __future__ import annotations

import json
import random
import time

import pytest

from worker.alignment.evaluation.suites.format import (
    Suite,
    canonical,
    content_hash,
    dump,
    from_canonical,
    parse_suite,
)
from worker.alignment.evaluation.suites.problems import MAX_PROBLEMS, Problem, SuiteError

HEADER = """\
name: support
kind: eval
description: "What people ask: refunds, returns"
sampling: {n: 4, temperature: 0.5, max_tokens: 64}
samples: samples.jsonl
checks:
  - {type: contains-any, value: [refund, return], weight: 2}
  - {type: judge, rubric: Names the next step, scale: [0, 1]}
gates: {pass_rate: {min_delta: -0.02}, refusal_rate: {max: 0.05}}
"""
SAMPLES = """\
{"id": "r1", "input": "How do I return it?", "target": "by post", "category": "billing", "metadata": {"k": 1}}

{"input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Refund?"}], "checks": ["refusal"]}
"""


def problems(header: object, samples: object = SAMPLES) -> list[Problem]:
    with pytest.raises(SuiteError) as caught:
        parse_suite(header, samples)  # type: ignore[arg-type]
    return caught.value.problems


def told(header: object, samples: object = SAMPLES) -> str:
    return "\n".join(str(problem) for problem in problems(header, samples))


def one_check(check: str) -> str:
    return f"name: x\nchecks:\n  - {check}\n"


def test_a_suite_is_read_whole() -> None:
    suite = parse_suite(HEADER, SAMPLES)
    assert suite.header.sampling.n == 4
    assert suite.header.sampling.top_p == 1.0
    assert [check.type for check in suite.header.checks] == ["contains-any", "judge"]
    assert suite.header.checks[0].weight == 2
    assert suite.header.gates["pass_rate"].min_delta == -0.02
    first, second = suite.samples
    assert first.input == ({"role": "user", "content": "How do I return it?"},)
    assert first.target == ("by post",)
    assert (second.id, second.category, second.checks[0].type) == ("2", "", "refusal")
    assert suite.categories == {"billing": 1, "": 1}


def test_the_hash_knows_content_not_spelling() -> None:
    digest = content_hash(parse_suite(HEADER, SAMPLES))
    reordered = "\n".join(json.dumps(dict(reversed(json.loads(line).items()))) for line in SAMPLES.split("\n") if line)
    spelled = HEADER.replace("kind: eval\n", "").replace("n: 4,", "n: 4, seed: 0, top_p: 1,") + "kind:   eval\n"
    assert content_hash(parse_suite(spelled, reordered)) == digest
    inline = {**json.loads(json.dumps(canonical(parse_suite(HEADER, SAMPLES))["header"])), "samples": None}
    inline["samples"] = [json.loads(line) for line in SAMPLES.split("\n") if line]
    assert content_hash(parse_suite(inline)) == digest
    assert content_hash(parse_suite(HEADER, SAMPLES.replace("by post", "by mail"))) != digest
    assert content_hash(parse_suite(HEADER.replace("weight: 2", "weight: 3"), SAMPLES)) != digest


@pytest.mark.parametrize(
    "value", ["no", "null", "1e3", "2024-01-01", "0x10", "~", "a: b", "- x", "# y", "é\u2028z", "'", "1:30", "true "]
)
def test_what_is_written_back_reads_the_same(value: str) -> None:
    header = {"name": "x", "checks": [{"type": "contains", "value": value}]}
    suite = parse_suite(header, [{"input": value + "!", "category": "no", "target": [value, "b"]}])
    again = parse_suite(*dump(suite))
    assert again == suite
    assert from_canonical(canonical(suite)) == suite


def test_every_problem_is_told_in_one_pass_with_its_line() -> None:
    header = HEADER.replace("contains-any", "contians-any").replace("kind: eval", "kind: evil").replace("n: 4", "m: 4")
    samples = '{"input": "a"}\n{broken\n\n{"input": ""}\n{"id": 1, "input": "b", "category": " ", "tag": 2}\n[1]\n'
    found = {(p.source, p.line, p.field): p.message for p in problems(header, samples)}
    assert set(found) == {
        ("header", 2, "kind"),
        ("header", 4, "sampling.m"),
        ("header", 7, "checks[0].type"),
        ("samples", 2, ""),
        ("samples", 4, "input"),
        ("samples", 5, "category"),
        ("samples", 5, "tag"),
        ("samples", 6, ""),
    }
    assert "did you mean contains-any?" in found["header", 7, "checks[0].type"]
    assert "Not JSON" in found["samples", 2, ""]


def test_ids_are_told_apart() -> None:
    assert "line 2: id: 7 is taken by line 1." in told(HEADER, '{"id": 7, "input": "a"}\n{"id": "7", "input": "b"}\n')


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(?=a)b", "looks ahead"),
        ("(?<!a)b", "looks behind"),
        (r"(a)\\1", "back-references"),
        ("((a{100}){100}){100}", "repeat"),
        ("(a", "closing bracket"),
        ("a**", "repetition"),
    ],
)
def test_a_regex_that_is_not_linear_is_refused_in_words(pattern: str, words: str) -> None:
    assert words in told(one_check(f'{{type: regex, value: "{pattern}"}}'))


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("{type: contains}", "needs value, or a target"),
        ("{type: contains, valu: x}", "did you mean value?"),
        ("{type: contains, value: ''}", "not empty"),
        ("{type: contains, value: x, weight: -1}", "0 to 1000"),
        ("{type: word-count}", "needs min or max"),
        ("{type: word-count, min: 5, max: 3}", "above max"),
        ("{type: language, value: german}", "two-letter"),
        ("{type: pii-free, kinds: [emial]}", "did you mean email?"),
        ("{type: is-json, schema: {type: strng}}", "Not a JSON schema"),
        ("{type: is-json, schema: {$ref: 'http://localhost/x'}}", "nothing is fetched"),
        ("{type: is-json, schema: {$ref: '#/$defs/none'}}", "not in the schema"),
        ("{type: is-json, schema: {pattern: '(?=a)'}}", "looks ahead"),
        ("{type: ifeval, instruction_id: 'punctuation:no_coma'}", "did you mean punctuation:no_comma?"),
        ("{type: ifeval, instruction_id: 'keywords:existence'}", "needs keywords"),
        ("{type: judge, rubric: r, scale: [1, 1]}", "lowest first"),
        ("{type: judge, rubric: r, scale: [1, 10], pass_at: 11}", "on the scale"),
        ("{value: x}", "with a type"),
    ],
)
def test_a_check_that_says_something_wrong(check: str, words: str) -> None:
    assert words in told(one_check(check), json.dumps({"input": "a", "checks": [_plain(check)]}))


def _plain(check: str) -> object:
    import yaml

    return yaml.safe_load(check)


@pytest.mark.parametrize(
    ("header", "samples", "words"),
    [
        ("name: x", '{"input": "a"}', "nothing would be scored"),
        ("name: x\nkind: diversity", '{"input": "a"}', "category: Is missing"),
        (
            "name: x\nkind: diversity",
            '{"input": "a", "category": "c", "metadata": {"open_ended": "yes"}}',
            "true or false",
        ),
        ("name: x\nchecks: [refusal]\nsampling: {n: 2, temperature: 0}", '{"input": "a"}', "answers are the same"),
        ("name: x\nchecks: [refusal]\ngates: {pass: {min: 1}}", '{"input": "a"}', "did you mean pass_rate?"),
        ("name: x\nchecks: [refusal]\nquality: [{type: judge, rubric: r}]", '{"input": "a"}', "without a model"),
        ("name: x\nchecks: [refusal]", '{"input": [{"role": "assistant", "content": "a"}]}', "message of the user"),
        ("name: x\nchecks: [refusal]", '{"input": "a", "id": "x\\u0000"}', "cannot be stored"),
        ("name: x\nchecks: [refusal]", '{"input": "\\ud800"}', "cannot be stored"),
        ("name: x\nchecks: [refusal]", '{"input": "a", "metadata": {"a": NaN}}', "NaN is not a number"),
        ("name: x\nchecks: [refusal]", '{"input": "a", "input": "b"}', "Given twice: input"),
        ("name: x\nchecks: [refusal]", "", "not one sample"),
        ("name: x\nname: y\nchecks: [refusal]", '{"input": "a"}', "Given twice"),
        ("name: x\nchecks: [contains]", '{"input": "a"}', "compares with it"),
        ("name: x\nchecks: [refusal]", "[" * 50_000, "Nested deeper"),
        ("name: x\nchecks: [refusal]\nsamples: [{input: a}]", '{"input": "a"}', "keep one"),
        ("- a\n- b", '{"input": "a"}', "Must be a mapping"),
        ("", '{"input": "a"}', "Must be a mapping"),
        ("name: [", '{"input": "a"}', "Not YAML"),
    ],
)
def test_what_a_suite_must_not_say(header: str, samples: str, words: str) -> None:
    assert words in told(header, samples)


def test_a_file_of_another_kind_is_not_read_to_its_end() -> None:
    assert len(problems(HEADER, "nonsense\n" * 5_000)) == MAX_PROBLEMS + 1


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("a: &a [x, x]\nname: [*a, *a]", "Anchors"),
        ("name: !!python/object/apply:os.system [ls]", "Tags"),
        ("name: " + "[" * 5_000 + "]" * 5_000, "Nested deeper"),
        ("name: " + "x" * (1 << 20), "Larger than 1 MiB"),
        ("checks: [" + "a," * 100_000 + "]", "More than 50,000 values"),
        ("a: 1\n" * 20_000, "Given twice"),
        ("".join(f"k{i}: 1\n" for i in range(20_000)), "more keys are unknown"),
        (b"name: \xff", "UTF-8"),
    ],
)
def test_yaml_bombs_are_refused_at_once(header: str | bytes, words: str) -> None:
    start = time.process_time()
    assert words in told(header)
    assert time.process_time() - start < 2


def test_a_red_team_suite_needs_no_checks() -> None:
    assert parse_suite("name: x\nkind: redteam", '{"input": "a"}').samples[0].checks == ()


TOKENS = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    '"',
    "\n",
    "- ",
    "&a ",
    "*a",
    "!!x ",
    "1e999",
    "9" * 30,
    "NaN",
    "\x00",
    "\ud800",
]


def test_nothing_but_a_suite_error_comes_out() -> None:
    rng = random.Random(0)
    read = 0
    for _ in range(400):
        texts = []
        for text in (HEADER, SAMPLES):
            letters = list(text)
            for _ in range(rng.randrange(4)):
                at = rng.randrange(len(letters) + 1)
                letters[at : at + rng.randrange(3)] = rng.choice(TOKENS)
            texts.append("".join(letters))
        try:
            suite = parse_suite(*texts)
        except SuiteError:
            continue
        else:
            read += 1
            assert isinstance(suite, Suite)
            assert content_hash(parse_suite(*dump(suite))) == content_hash(suite)
    assert 20 < read < 380

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.conftest import SHARED_DATA
from worker.alignment.evaluation.suites.format import content_hash, dump, parse_suite
from worker.alignment.evaluation.suites.importers import FORMATS, Imported, import_suite
from worker.alignment.evaluation.suites.problems import SuiteError


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def imported(content: str | bytes, **options: Any) -> Imported:
    result = import_suite({"file": content}, name="x", **options)
    assert result.format in FORMATS
    assert content_hash(parse_suite(*dump(result.suite))) == content_hash(result.suite)
    return result


def reasons(result: Imported) -> str:
    return "\n".join(map(str, result.skipped))


def test_inspect() -> None:
    result = imported(
        lines(
            {"input": "Capital of France?", "target": "Paris", "id": "fr", "metadata": {"category": "geo"}},
            {
                "input": [{"role": "user", "content": [{"type": "text", "text": "2+2"}], "source": "input"}],
                "target": ["4"],
            },
            {"input": "Pick", "choices": ["red", "blue"], "target": "B"},
            {"input": [{"role": "user", "content": [{"type": "image", "image": "x.png"}]}], "target": "x"},
            {"input": "Run", "target": "x", "sandbox": "docker"},
        )
    )
    first, second, third = result.suite.samples
    assert (result.format, first.id, first.category, first.target) == ("inspect", "fr", "geo", ("Paris",))
    assert first.checks[0].type == "icontains-any"
    assert second.input[0]["content"] == "2+2"
    assert third.input[0]["content"].endswith("A) red\nB) blue\n\nAnswer with the letter alone.")
    assert third.checks[0].options["value"] == r"^\W*[B](?:\W|$)"
    assert "line 4" in reasons(result)
    assert "sandbox" in reasons(result)


def test_inspect_csv() -> None:
    result = imported('input,target,choices\n"What, now?",blue,"[""red"",""blue""]"\nq,,\n')
    first, second = result.suite.samples
    assert first.checks[0].type == "regex"
    assert second.checks[0].type == "judge"
    assert any("without a target" in note for note in result.notes)


def test_openai_evals_with_their_registry() -> None:
    registry = (
        "cities:\n  id: cities.v0\n  description: Cities\n  metrics: [accuracy]\n"
        "cities.v0:\n  class: evals.elsuite.basic.includes:Includes\n  args: {samples_jsonl: c.jsonl, ignore_case: true}\n"
    )
    rows = lines(
        {
            "input": [{"role": "system", "content": "s"}, {"role": "user", "content": "q", "name": "u"}],
            "ideal": ["a", "b"],
        },
        {"input": "q2", "ideal": []},
    )
    result = import_suite({"r.yaml": registry, "c.jsonl": rows}, name="x")
    assert result.suite.header.description == "Cities"
    assert result.suite.samples[0].input[1] == {"role": "user", "content": "q"}
    assert result.suite.samples[0].checks[0].type == "icontains-any"
    assert "no ideal answer" in reasons(result)
    assert imported(rows).suite.samples[0].checks[0].type == "starts-with"
    custom = registry.replace("evals.elsuite.basic.includes:Includes", "my.code:Runs")
    assert "is code" in import_suite({"r": custom, "c": rows}, name="x").notes[0]


PROMPTFOO = """
description: Support
prompts:
  - "Reply to {{who}}: {{ text }}"
  - '[{"role": "system", "content": "Be kind"}, {"role": "user", "content": "{{text}}"}]'
  - file://prompt.txt
defaultTest:
  assert: [{type: not-contains, value: As an AI}]
tests:
  - description: refunds
    vars: {who: Ann, text: [first, second]}
    metadata: {category: billing}
    assert:
      - {type: icontains, value: "{{who}}"}
      - {type: javascript, value: output.length > 3}
      - {type: contains-any, value: "x, y"}
      - {type: llm-rubric, value: Is polite, threshold: 0.7, weight: 2}
      - {type: similar, value: z}
      - {type: regex, value: "(?=a)"}
      - {type: equals, value: {a: 1}}
      - {type: not-is-refusal}
  - vars: {text: alone}
    assert: [{type: python, value: "len(output)"}]
  - vars: {who: "{% raw %}", text: c}
    options: {transform: output.trim()}
"""


def test_promptfoo() -> None:
    result = imported(PROMPTFOO)
    samples = {sample.id: sample for sample in result.suite.samples}
    assert list(samples) == ["t1-1", "t1-2", "t1-3", "t1-4", "t2-2"]
    assert samples["t1-2"].input[0]["content"] == "Reply to Ann: second"
    assert [message["role"] for message in samples["t1-3"].input] == ["system", "user"]
    assert samples["t1-1"].category == "billing"
    assert [check.type for check in samples["t1-1"].checks] == [
        "not-contains",
        "icontains",
        "contains-any",
        "judge",
        "is-json",
        "not-refusal",
    ]
    judge = samples["t1-1"].checks[3]
    assert (judge.weight, judge.options["pass_at"]) == (2, 0.7)
    assert samples["t1-1"].checks[2].options["value"] == ["x", "y"]
    told = reasons(result)
    for words in (
        "(javascript); nothing uploaded is run",
        "embeddings",
        "looks ahead",
        "another file",
        "no value",
        "by code",
    ):
        assert words in told
    assert told.count("embeddings") == 1


def test_promptfoo_that_multiplies_is_bounded() -> None:
    many = {f"v{i}": list(range(10)) for i in range(12)}
    data = {"prompts": ["{{v0}}"], "tests": [{"vars": many, "assert": [{"type": "is-json"}]}]}
    result = import_suite({"p": json.dumps(data, indent=1)}, name="x")
    assert len(result.suite.samples) == 5000
    assert "More than 5,000" in reasons(result)


def test_ifeval_file() -> None:
    result = imported((SHARED_DATA / "ifeval" / "en_input_data.jsonl").read_bytes())
    assert (result.format, len(result.suite.samples), result.skipped) == ("ifeval", 541, ())
    assert sum(len(sample.checks) for sample in result.suite.samples) == 834
    bad = imported(
        lines(
            {"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"relation": None}], "key": 3},
            {"prompt": "p", "instruction_id_list": ["keywords:sing"], "kwargs": [{}]},
            {"prompt": "p", "instruction_id_list": ["keywords:existence"], "kwargs": [None]},
        )
    )
    assert len(bad.suite.samples) == 1
    assert "keywords:sing" in reasons(bad)
    assert "line 3" in reasons(bad)


def test_mt_bench_file_says_what_it_leaves_out() -> None:
    result = imported((SHARED_DATA / "mt_bench" / "question.jsonl").read_bytes())
    assert (result.format, len(result.suite.samples), len(result.skipped)) == ("mt-bench", 80, 80)
    assert result.suite.samples[0].checks[0].type == "judge"
    assert result.suite.samples[0].metadata["later_turns"]
    assert "First turns only" in result.notes[0]


def test_harness_log_and_plain_questions() -> None:
    result = imported(
        lines(
            {"doc_id": 1, "doc": {"subject": "algebra"}, "target": "7", "arguments": {"gen_args_0": {"arg_0": "3+4="}}},
            {"doc_id": 2, "doc": {}, "target": 0, "arguments": [["q", " a"], ["q", " b"]]},
        )
    )
    assert (result.format, result.suite.samples[0].category) == ("lm-eval", "algebra")
    assert "likelihood" in reasons(result)
    result = imported(
        lines(
            {"question": "1+1?", "answer": "one and one\n#### 2"},
            {"question": "a?", "answer": 1, "choices": ["x", "y"]},
        )
    )
    assert [sample.checks[0].type for sample in result.suite.samples] == ["numeric", "regex"]
    assert result.suite.samples[0].target == ("2",)


def test_prompts_by_category_become_a_diversity_suite() -> None:
    result = imported(lines({"category": "letters", "prompts": ["a", "b"], "domain": "mail", "open_ended": True}))
    assert result.suite.header.kind == "diversity"
    assert result.suite.categories == {"letters": 2}
    assert result.suite.samples[0].metadata == {"domain": "mail", "open_ended": True}


def test_broken_lines_are_listed_and_the_rest_is_kept() -> None:
    result = imported('{"question": "a", "answer": "b"}\nbroken\n{"question": "", "answer": "b"}\n[1]\n')
    assert len(result.suite.samples) == 1
    assert [skipped.line for skipped in result.skipped] == [2, 4, 3]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "plain words",
        '{"foo": 1}',
        "foo: 1",
        b"\xff\xfe",
        "[",
        "[1, 2]",
        '{"question": ""}',
        "a,b\n1,2",
        "tests: []",
    ],
)
def test_what_is_no_suite_is_refused_in_words(content: str | bytes) -> None:
    with pytest.raises(SuiteError) as caught:
        import_suite({"file": content}, name="x")
    assert all(problem.message for problem in caught.value.problems)


ROWS: list[Any] = [
    {"input": "q", "target": "a", "choices": ["a", "b"], "metadata": {"category": "c"}},
    {"input": [{"role": "user", "content": "q"}], "ideal": ["a"]},
    {"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {"turns": ["a", "b"], "question_id": 1, "reference": ["x"]},
    {"doc": {}, "arguments": {"gen_args_0": {"arg_0": "p"}}, "target": "x"},
    {"category": "c", "prompts": ["a"], "domain": "d"},
    {"prompts": ["{{a}}"], "tests": [{"vars": {"a": [1, "x"]}, "assert": [{"type": "is-json", "weight": 2}]}]},
]


def _spoiled(value: Any, rng: random.Random) -> Any:
    if rng.random() < 0.08:
        return rng.choice([None, True, 0, 1.5, "", "x", [], {}, [1], {"a": 1}, 1e300, 10**30, [None], [[]], [{}]])
    if isinstance(value, dict):
        return {key: _spoiled(inner, rng) for key, inner in value.items()}
    return [_spoiled(inner, rng) for inner in value] if isinstance(value, list) else value


def test_a_spoiled_file_is_read_or_refused_never_broken() -> None:
    rng = random.Random(3)
    read = 0
    for _ in range(600):
        row = rng.choice(ROWS)
        rows = [_spoiled(row, rng) for _ in range(2)]
        content = json.dumps(rows[0], indent=1) if "tests" in row else "\n".join(map(json.dumps, rows))
        try:
            read += bool(import_suite({"file": content}, name="x").suite.samples)
        except SuiteError:
            continue
    assert 200 < read < 600

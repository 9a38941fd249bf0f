"""Every importer on a file of its product, in each packing; and bad files."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.core.errors import InvalidError, TooLargeError
from app.feedback.imports.formats import FORMATS, checked_rows, columns_of, detect
from app.feedback.imports.mapping import guess
from app.feedback.imports.reading import opened
from app.feedback.imports.values import Options
from app.feedback.schemas import FeedbackItem
from app.settings import get_settings
from tests.imports.fixtures import FIXTURES


def read(content: bytes, name: str = "", **options: Any) -> tuple[str, list[FeedbackItem], list[str]]:
    """Format, items, reasons."""
    file = io.BytesIO(content)
    chosen = detect(file, name)
    with opened(file, name) as source:
        rows = [found for _, found in checked_rows(source, chosen, Options(**options))]
    return (
        chosen.name,
        [row for row in rows if isinstance(row, FeedbackItem)],
        [row for row in rows if isinstance(row, str)],
    )


def texts(item: FeedbackItem) -> tuple[list[str], str, bool | None]:
    return [part["content"] for part in item.prompt], item.completion[-1]["content"], item.label


def packings(data: Any) -> dict[str, bytes]:
    listed = data if isinstance(data, list) else [data]
    return {
        "array": json.dumps(listed).encode(),
        "pretty": json.dumps(data, indent=2).encode(),
        "lines": "\n".join(json.dumps(each) for each in listed).encode(),
        "gzip": gzip.compress(json.dumps(listed).encode()),
        "two arrays": b"\n".join(json.dumps(part).encode() for part in (listed[:1], listed[1:])),
    }


@pytest.mark.parametrize("packing", ["array", "pretty", "lines", "gzip", "two arrays"])
@pytest.mark.parametrize("name", list(FIXTURES))
def test_recognised_and_read_alike_in_every_packing(name: str, packing: str) -> None:
    found, items, reasons = read(packings(FIXTURES[name])[packing])
    assert found == name
    whole = read(packings(FIXTURES[name])["array"])
    assert (items, reasons) == whole[1:]
    assert items


def test_open_webui() -> None:
    _, items, reasons = read(packings(FIXTURES["open_webui"])["array"])
    assert texts(items[0]) == (["When is Easter?", "In spring.", "Which month in 2024?"], "April.", False)
    first = items[0]
    assert (first.model, first.rater, first.reasons, first.comment) == (
        "helper:8b",
        "user-7",
        ["not_factual"],
        "Wrong month.",
    )
    assert (first.conversation_id, first.completion_id, first.external_id) == ("chat-1", "m4", "fb-1")
    assert first.occurred_at is not None
    assert first.occurred_at.timestamp() == 1730000060
    assert reasons == ["has no rating"]


def test_librechat() -> None:
    _, items, reasons = read(packings(FIXTURES["librechat"])["pretty"])
    assert [texts(item) for item in items] == [(["How long must dough rest?"], "An hour at least.", True)]
    assert (items[0].reasons, items[0].comment, items[0].model) == (["accurate_reliable"], "Worked.", "m-4")
    assert reasons == ["the question of this answer is not in the file"]


def test_langfuse() -> None:
    _, items, reasons = read(packings(FIXTURES["langfuse"])["lines"])
    assert [texts(item) for item in items] == [
        (["Is tea dry?"], "Before it is brewed.", True),
        (["Is tea dry?"], "No.", False),
    ]
    assert [item.rater for item in items] == ["u-3", "u-3"]
    assert (items[1].model, items[1].conversation_id) == ("m-2", "sess-1")
    assert reasons == [
        "the score similarity is 0.83, which is no thumb",
        "the trace t9 of this score is not in the file; put traces and scores into one file",
    ]
    assert len(read(packings(FIXTURES["langfuse"])["lines"], question="user-feedback")[2]) == 1


def test_a_downloaded_trace_of_langfuse() -> None:
    trace = {"id": "t1", "projectId": "p", "input": "Q?", "output": "A.", "observations": [],
             "scores": [{"id": "s", "name": "thumb", "value": 0, "dataType": "BOOLEAN", "stringValue": "False"}]}  # fmt: skip
    _, items, reasons = read(json.dumps(trace).encode())
    assert ([texts(item) for item in items], reasons) == ([(["Q?"], "A.", False)], [])


def test_langsmith() -> None:
    _, items, reasons = read(packings(FIXTURES["langsmith"])["array"])
    assert [texts(item) for item in items] == [
        (["Be kind.", "Name a tree."], "Oak.", True),
        (["Name a bird."], "Wren.", False),
    ]
    assert (items[0].model, items[0].rater, items[0].conversation_id) == ("m-5", "ann", "th-1")
    assert items[1].correction == [{"role": "assistant", "content": "Eagle."}]
    assert reasons == ["the feedback length is 0.4, which is no thumb"]


def test_argilla() -> None:
    _, items, reasons = read(packings(FIXTURES["argilla"])["array"])
    assert [(texts(item)[2], item.rater, item.comment) for item in items] == [
        (True, "u1", "Short."),
        (False, "u2", None),
        (None, None, None),
    ]
    assert (items[0].model, items[0].metadata) == ("m-1", {"run": 3})
    assert reasons == ["no answer is a thumb (stars: 4)"]


def test_label_studio() -> None:
    _, items, reasons = read(packings(FIXTURES["label_studio"])["array"])
    assert [texts(item) for item in items] == [(["Spell cat."], "c-a-t", True)]
    assert (items[0].rater, items[0].comment, items[0].category) == ("5", "Clear.", "spelling")
    assert reasons == ["no choice is a thumb (Purple)"]
    assert read(packings(FIXTURES["label_studio"])["array"], down="purple")[2] == []


USER, YES, NO = (
    {"role": "user", "content": "Is it?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "assistant", "content": "No."},
)
TRL: dict[str, dict[str, Any]] = {
    "unpaired": {"prompt": "Is it?", "completion": "Yes.", "label": True},
    "unpaired conversational": {"prompt": [USER], "completion": [YES], "label": True},
    "paired": {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No."},
    "paired conversational": {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
    "implicit prompt": {"chosen": [USER, YES], "rejected": [USER, NO]},
    "repeated prompt": {"prompt": [USER], "chosen": [USER, YES], "rejected": [USER, NO]},
}


@pytest.mark.parametrize("form", list(TRL))
@pytest.mark.parametrize("packing", ["lines", "parquet"])
def test_trl(form: str, packing: str) -> None:
    buffer = io.BytesIO(json.dumps(TRL[form]).encode())
    if packing == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([TRL[form]]), buffer)
    found, items, reasons = read(buffer.getvalue())
    assert (found, reasons) == ("parquet" if packing == "parquet" else "jsonl", [])
    assert texts(items[0]) == (["Is it?"], "Yes.", True)
    if "chosen" in TRL[form]:
        assert texts(items[1]) == (["Is it?"], "No.", False)
        assert [item.metadata["pair_side"] for item in items] == ["chosen", "rejected"]
        assert len({item.metadata["pair"] for item in items}) == 1


def test_csv() -> None:
    text = 'Question;Answer;Vote;Who;x\r\n"Is\nit?";Ja, „gut“;👍;ann;1\r\n\'=1;b;down;;\r\n;;;;\r\na;b;1\r\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        found, items, reasons = read(text.encode(encoding), "v.csv", mapping={"prompt": "Question", "completion": "Answer", "label": "Vote", "rater": "Who"})  # fmt: skip
        assert found == "csv"
        assert [texts(item) for item in items] == [(["Is\nit?"], "Ja, „gut“", True), (["=1"], "b", False)]
        assert (items[0].metadata, items[0].rater, items[1].rater) == ({"x": "1"}, "ann", None)
        assert reasons == ["has 3 cells, the header has 5"]
    assert texts(read("prompt\tcompletion\tlabel\ncafé\té\tgood\n".encode("cp1252"), "a.tsv")[1][0]) == (
        ["café"],
        "é",
        True,
    )


def test_columns_are_guessed() -> None:
    assert guess(["Question", "Model Answer", "response", "thumbs", "user-id", "created at"]) == {
        "prompt": "Question",
        "completion": "response",
        "label": "thumbs",
        "rater": "user-id",
        "occurred_at": "created at",
    }
    file = io.BytesIO(b'{"a": 1}\n{"b": 2}\n')
    assert columns_of(file, FORMATS["jsonl"], Options()) == ["a", "b"]


def test_a_value_across_windows_and_a_long_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.feedback.imports import records

    monkeypatch.setattr(records, "_STEP", 7)
    rows = [{"prompt": f"q{n} ] }}, é", "completion": "a" * n, "label": 1} for n in range(1, 40)]
    _, items, reasons = read(json.dumps(rows, ensure_ascii=False).encode())
    assert (len(items), reasons) == (39, [])
    long = json.dumps({"prompt": "x" * 1_000_000, "completion": "a", "label": 1}).encode()
    assert read(long + b"\n" + json.dumps(rows[0]).encode())[2][0].startswith(
        "prompt: the prompt has 1,000,000 characters"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"a":' + b'{"a":' * 100_000, "nested too deeply"),
        (b"[{}, {]", "The file is no JSON at line 1"),
        (b'[{"prompt": "\xff"}]', "not UTF-8"),
        (b"PAR1" + b"\x00" * 100, "The Parquet file is damaged"),
        (b"a;b\n1;2\n\xff\xfe\x00;\n", "binary|not"),
    ],
)
def test_broken_files_are_refused_in_words(content: bytes, words: str) -> None:
    with pytest.raises(InvalidError, match=words):
        read(content)


def test_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_settings(), "max_import_bytes", 100_000)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["x" * 1000] * 5000}), buffer, use_dictionary=False, compression="zstd")
    assert len(buffer.getvalue()) < 100_000
    with pytest.raises(InvalidError, match="unpacks to more than"):
        read(buffer.getvalue())
    with pytest.raises(TooLargeError):
        read(gzip.compress(b'{"prompt": "q", "completion": "a"}\n' * 100_000))
    truncated = pq_file()[:-20]
    with pytest.raises(InvalidError, match="damaged"):
        read(truncated)


def pq_file() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["q"], "completion": ["a"]}), buffer)
    return buffer.getvalue()

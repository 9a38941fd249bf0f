"""Files: every line is accounted for, and a bad file leaves nothing."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc

import pytest
from sqlalchemy import func, select

from app.core.errors import InvalidError, TooLargeError
from app.feedback.importers import import_file
from app.models import AuditEntry, Completion, Import, Prompt, Rating
from app.settings import get_settings
from tests.conftest import SHARED_DATA

GOOD = {"prompt": "How long?", "completion": "Three days.", "label": True}


def lines(*rows, encoding="utf-8") -> io.BytesIO:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    return io.BytesIO(text.encode(encoding))


def counts(entry: Import) -> tuple[int, int, int, int]:
    return entry.num_created, entry.num_updated, entry.num_duplicate, entry.num_rejected


def stored(db) -> list[int]:
    tables = (Prompt, Completion, Rating, Import, AuditEntry)
    return [db.scalar(select(func.count()).select_from(table)) for table in tables]


def test_every_line_is_accounted_for(db, factory):
    project, user = factory.project(), factory.user()
    file = lines(
        GOOD,
        "",
        {**GOOD, "source": "panel", "pair_id": "p1", "metadata": {"score": 3}, "rater": "r"},
        "{broken",
        {**GOOD, "completion": ""},
        GOOD,
        "[1]",
        {**GOOD, "label": False, "rater": "r"},
        {**GOOD, "label": None, "completion": "To be judged."},
    )
    entry = import_file(db, project, file, filename="../a/b.jsonl", user=user)
    assert counts(entry) == (3, 1, 1, 3)
    assert entry.filename == "b.jsonl"
    assert [row["line"] for row in entry.rejected] == [4, 5, 7]
    assert entry.rejected[0]["reason"].startswith("is no JSON: Expecting property name")
    assert entry.rejected[1]["reason"] == "completion: the completion is empty"
    assert entry.rejected[2]["reason"].startswith("is no JSON object")
    extra = db.scalar(select(Rating.extra).where(Rating.rater == "r").order_by(Rating.id))
    assert extra == {"source": "panel", "pair_id": "p1", "score": 3}
    assert db.scalar(select(AuditEntry.action)) == "feedback.imported"


def test_a_second_import_changes_nothing_even_after_a_changed_mind(db, factory):
    project = factory.project()
    rows = [{**GOOD, "rater": "r"}, {**GOOD, "rater": "r", "label": False}, GOOD]
    assert counts(import_file(db, project, lines(*rows))) == (2, 1, 0, 0)
    assert counts(import_file(db, project, lines(*rows))) == (0, 0, 3, 0)
    assert db.scalar(select(Rating.value).where(Rating.rater == "r", Rating.is_current)) is False


def test_byte_order_mark_gzip_and_paths(db, factory, tmp_path):
    project = factory.project()
    assert counts(import_file(db, project, lines({**GOOD, "prompt": "é"}, encoding="utf-8-sig"))) == (1, 0, 0, 0)
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(gzip.compress(lines(GOOD).getvalue()))
    entry = import_file(db, project, path)
    assert (counts(entry), entry.filename) == ((1, 0, 0, 0), "f.jsonl.gz")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "The file is empty"),
        (b"\n \n", "The file is empty"),
        (b"one line\nand another\n", "All 2 rows were rejected. Line 1: is no JSON"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "The file is binary"),
        (b"PK\x03\x04\x14\x00", "The file is a ZIP archive"),
        (b"PAR1 and no more", "The Parquet file is damaged"),
        (json.dumps(GOOD).encode("utf-16"), "The file is UTF-16"),
        (json.dumps(GOOD).encode("utf-32"), "The file is UTF-32"),
        (json.dumps([GOOD]).encode()[:-1] + b", {", "The file is no JSON at line 1"),
        (json.dumps(GOOD).encode() + b'\n{"prompt": "caf\xe9"}', "Line 2 is not UTF-8 (byte 0xe9 at 16)"),
        (json.dumps({**GOOD, "label": "x"}).encode(), "The only row was rejected. Line 1: label: 'x' is no label"),
        (gzip.compress(json.dumps(GOOD).encode() * 50, mtime=0)[:-9], "The gzip file is damaged"),
        (b"\x1f\x8bnonsense", "The gzip file is damaged"),
        (b"[" * 100_000, "The file is empty"),
        (b'{"a":' * 100_000, "rejected"),
    ],
)
def test_bad_files_say_what_to_do_and_leave_nothing(db, factory, content, words):
    project = factory.project()
    before = stored(db)
    with pytest.raises(InvalidError) as caught:
        import_file(db, project, io.BytesIO(content))
    assert words in caught.value.message
    assert caught.value.remedy.endswith("Nothing was imported.")
    assert words in caught.value.fields["file"]
    assert stored(db) == before


def test_an_error_late_in_the_file_takes_all_of_it_back(db, factory, monkeypatch):
    from app.feedback.imports import counting

    monkeypatch.setattr(counting, "CHUNK_ROWS", 2)
    project = factory.project()
    before = stored(db)
    rows = [json.dumps({**GOOD, "prompt": f"Q{n}"}).encode() for n in range(5)]
    with pytest.raises(InvalidError, match="Line 6 is not UTF-8"):
        import_file(db, project, io.BytesIO(b"\n".join([*rows, b"\xff"])))
    assert stored(db) == before


def test_too_large(db, factory, monkeypatch):
    project = factory.project()
    monkeypatch.setattr(get_settings(), "max_import_bytes", 1000)
    bomb = gzip.compress(b" " * 50_000)
    for file in (lines(*[GOOD] * 30), io.BytesIO(bomb)):
        with pytest.raises(TooLargeError, match="larger than"):
            import_file(db, project, file)
    assert stored(db)[:4] == [0, 0, 0, 0]


def test_a_line_that_is_too_long_is_one_rejected_row(db, factory, monkeypatch):
    from app.feedback.imports import records

    monkeypatch.setattr(records, "MAX_VALUE_BYTES", 1000)
    entry = import_file(db, factory.project(), lines({**GOOD, "completion": "x" * 3500}, GOOD))
    assert counts(entry) == (1, 0, 0, 1)
    assert entry.rejected == [{"line": 1, "reason": "is longer than 0 MiB"}]


def test_no_such_file(db, factory, tmp_path):
    with pytest.raises(InvalidError, match="is no file"):
        import_file(db, factory.project(), tmp_path / "none.jsonl")


def test_hostile_rows_are_rejected_one_by_one(db, factory):
    file = lines(
        GOOD,
        '{"prompt": "a\\u0000", "completion": "b", "label": 1}',
        '{"prompt": "a", "completion": "\\ud800", "label": 1}',
        '{"prompt": "a", "completion": "b", "label": 1, "k\\u0000": 1}',
        '{"prompt": "a", "completion": "b", "label": 1, "score": NaN}',
        '{"prompt": "a", "completion": "b", "label": 1, "n": %s}' % ("9" * 5000),
        '{"prompt": "a", "completion": "b", "label": 1, "source": 1, "metadata": {"source": 2}}',
        '{"prompt": [{"role": "user", "content": [{"type": "image_url"}]}], "completion": "b", "label": 1}',
    )
    entry = import_file(db, factory.project(), file)
    assert counts(entry) == (1, 0, 0, 7)
    db.expire(entry)
    assert [row["line"] for row in entry.rejected] == [2, 3, 4, 5, 6, 7, 8]


def test_the_real_sample_whole(db, factory):
    project = factory.project()
    path = SHARED_DATA / "kto_sample.jsonl"
    first = import_file(db, project, path)
    assert first.num_created + first.num_duplicate + first.num_rejected == 7827
    assert first.num_updated == 0
    assert all(row["line"] and row["reason"] for row in first.rejected)
    assert len(first.rejected) == first.num_rejected == 0
    current = db.execute(
        select(Rating.value, func.count()).where(Rating.project_id == project.id, Rating.is_current).group_by("value")
    )
    with path.open() as file:
        labels = [json.loads(line)["label"] for line in file]
    assert dict(current.all()) == {True: labels.count(True), False: labels.count(False)}
    turns = select(func.max(func.jsonb_array_length(Prompt.messages)))
    assert db.scalar(turns) > 3, "dialogues became messages"
    second = import_file(db, project, path)
    assert counts(second) == (0, 0, 7827, 0)


def test_memory_stays_flat(db, factory, tmp_path, monkeypatch):
    """Ten chunks may not cost much more than two."""
    from app.feedback.imports import counting

    monkeypatch.setattr(counting, "CHUNK_ROWS", 200)
    peaks = []
    for size in (400, 2000):
        path = tmp_path / f"{size}.jsonl"
        with path.open("w") as file:
            for number in range(size):
                file.write(json.dumps({**GOOD, "prompt": f"Question {number}?", "completion": "word " * 40}) + "\n")
        tracemalloc.start()
        import_file(db, factory.project(), path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 2**20

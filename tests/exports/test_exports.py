"""Exports: read back by the libraries that will read them, the same bytes every time, flat memory."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tracemalloc
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.core.errors import InvalidError, NotFoundError
from app.datasets import exports, service
from app.datasets.export_rows import LabelRow, pairs
from app.feedback.importers import import_file
from app.models import AuditEntry, Role
from tests.imports.support import jsonl

TOOL = [
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": {"q": "é"}}}],
    },
    {"role": "tool", "content": "found", "tool_call_id": "c1"},
    {"role": "assistant", "content": "There."},
]


@pytest.fixture
def labelled(db: Session, factory: Any) -> Any:
    """40 prompts with a desirable and an undesirable answer each; one with a tool call, one a formula."""
    project = factory.project()
    rows = [
        {"prompt": f"Question {number}?", "completion": f"{word} {number}", "label": word == "Yes", "category": "c"}
        for number in range(40)
        for word in ("Yes", "No")
    ]
    rows[0]["completion"], rows[1]["completion"] = TOOL, "=1+1"
    rows[2]["prompt"] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Zürich: wo?"}]
    import_file(db, project, jsonl(rows))
    return project


def whole(project: Any, kind: str, file_format: str, **more: Any) -> bytes:
    return b"".join(exports.export(project, kind=kind, file_format=file_format, **more).chunks)


def test_kto_rows_are_what_was_collected(labelled: Any) -> None:
    rows = [json.loads(line) for line in whole(labelled, "kto", "jsonl").splitlines()]
    assert len(rows) == 80
    assert all(list(row) == ["prompt", "completion", "label"] for row in rows)
    assert sum(row["label"] for row in rows) == 40
    assert TOOL in [row["completion"] for row in rows]
    table = pq.read_table(io.BytesIO(whole(labelled, "kto", "parquet")))
    assert table.column_names == ["prompt", "completion", "label"]
    assert [row["label"] for row in table.to_pylist()] == [row["label"] for row in rows]
    call = next(row["completion"][0] for row in table.to_pylist() if row["completion"][0]["tool_calls"])
    assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {"q": "é"}
    assert [row["prompt"][-1]["content"] for row in table.to_pylist()] == [row["prompt"][-1]["content"] for row in rows]


def test_dpo_pairs_share_their_prompt(labelled: Any) -> None:
    rows = [json.loads(line) for line in whole(labelled, "dpo", "jsonl").splitlines()]
    assert len(rows) == 39, "one prompt of 40 has a completion of its own"
    for row in rows:
        assert list(row) == ["prompt", "chosen", "rejected"]
    table = pq.read_table(io.BytesIO(whole(labelled, "dpo", "parquet")))
    assert table.num_rows == 39
    assert {row["rejected"][0]["content"][:2] for row in table.to_pylist()} == {"No", "=1"}


def test_at_most_four_pairs_a_prompt_and_each_completion_as_seldom_as_can_be() -> None:
    def row(name: str, label: bool, prompt: str = "p") -> LabelRow:
        return LabelRow(prompt, name, label, None, prompt, "train")

    for ups, downs in [(1, 1), (1, 6), (2, 2), (3, 2), (2, 3), (5, 5), (6, 1), (0, 3)]:
        rows = [row(f"u{n}", True) for n in range(ups)] + [row(f"d{n}", False) for n in range(downs)]
        found = [(pair.chosen, pair.rejected) for pair in pairs(iter(rows))]
        assert len(found) == min(4, ups * downs), (ups, downs)
        assert len(set(found)) == len(found), "no pair twice"
        assert all(up[0] == "u" and down[0] == "d" for up, down in found)
        for side in (0, 1):
            used = [pair[side] for pair in found]
            counts = [used.count(name) for name in set(used)]
            assert not counts or max(counts) - min(counts) <= 1
    mixed = [row("u", True, "a"), row("d", False, "b"), row("d2", False, "a2")]
    assert list(pairs(iter(mixed))) == [], "prompts are not mixed"


def test_csv_keeps_formulas_harmless_and_comes_back(labelled: Any, db: Session, factory: Any) -> None:
    data = whole(labelled, "labels", "csv")
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    assert len(rows) == 80
    assert any(row["completion"] == "'=1+1" for row in rows)
    assert not any(row[name].startswith(("=", "+", "-", "@")) for row in rows for name in row)
    back = import_file(db, factory.project(), io.BytesIO(data), filename="labels.csv")
    assert (back.num_created, back.num_rejected) == (80, 0)
    ratings = list(csv.DictReader(io.StringIO(whole(labelled, "ratings", "csv").decode())))
    assert len(ratings) == 80
    assert {row["value"] for row in ratings} == {"up", "down"}


@pytest.mark.parametrize(("kind", "file_format"), [("kto", "jsonl"), ("kto", "parquet"), ("dpo", "jsonl"), ("dpo", "parquet"), ("labels", "csv")])  # fmt: skip
def test_a_snapshot_gives_the_same_bytes_also_after_more_ratings(
    labelled: Any, db: Session, kind: str, file_format: str
) -> None:
    snapshot = service.freeze(db, labelled)
    first = hashlib.sha256(whole(labelled, kind, file_format, snapshot=snapshot)).hexdigest()
    import_file(db, labelled, jsonl([{"prompt": "New?", "completion": "New.", "label": True}]))
    assert hashlib.sha256(whole(labelled, kind, file_format, snapshot=snapshot)).hexdigest() == first
    if file_format == "jsonl":
        assert whole(labelled, kind, file_format, snapshot=snapshot).startswith(
            whole(labelled, kind, file_format, snapshot=snapshot, side="train")
        )


def test_long_texts_make_small_row_groups(db: Session, factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project = factory.project()
    rows = [{"prompt": f"{n}", "completion": "é" * 1000, "label": True} for n in range(25)]
    import_file(db, project, jsonl([dict(row, completion=f"{n} {row['completion']}") for n, row in enumerate(rows)]))
    monkeypatch.setattr(exports, "_ROW_GROUP_CHARS", 10_000)
    file = pq.ParquetFile(io.BytesIO(whole(project, "kto", "parquet")))
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [10, 10, 5]
    assert len({row["completion"][0]["content"] for row in file.read().to_pylist()}) == 25


def test_what_there_is_not(labelled: Any, factory: Any, db: Session) -> None:
    with pytest.raises(NotFoundError, match="nothing to export"):
        whole(factory.project(), "kto", "jsonl")
    for kind, file_format in (("sft", "jsonl"), ("kto", "csv")):
        with pytest.raises(InvalidError):
            exports.export(labelled, kind=kind, file_format=file_format)
    with pytest.raises(InvalidError, match="no such export"):
        exports.export(labelled, kind="ratings", file_format="csv", snapshot=service.freeze(db, labelled))


def test_the_page_and_its_downloads(labelled: Any, db: Session, factory: Any, sign_in: Any) -> None:
    browser = sign_in(factory.member(labelled, Role.LEAD))
    base = f"/p/{labelled.slug}/export"
    assert "For DPO" in browser.get(base).text
    snapshot = service.freeze(db, labelled)
    assert snapshot.content_hash[:8] in browser.get(f"{base}?snapshot={snapshot.content_hash}").text
    answer = browser.get(f"{base}/download?kind=dpo&format=parquet&snapshot={snapshot.content_hash}")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].endswith('-dpo.parquet"')
    assert answer.content == whole(labelled, "dpo", "parquet", snapshot=snapshot)
    assert browser.get(f"{base}/download?kind=sft").status_code == 422
    assert db.query(AuditEntry).filter_by(action="labels.exported").count() == 1
    assert sign_in(factory.member(labelled, Role.VIEWER)).get(base).status_code == 403


def test_memory_stays_flat(db: Session, factory: Any) -> None:
    """Ten times the rows may not cost much more memory."""
    peaks = []
    for number in (4_000, 40_000):
        project = factory.project()
        fill(db, project.id, number)
        list(exports.export(project, kind="kto", file_format="jsonl").chunks)
        tracemalloc.start()
        rows = sum(chunk.count(b"\n") for chunk in exports.export(project, kind="kto", file_format="jsonl").chunks)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert rows == number
    assert peaks[1] < 1.5 * peaks[0] + 2**20


def fill(db: Session, project_id: int, number: int) -> None:
    for statement in (
        """INSERT INTO prompts (project_id, content_hash, messages, root)
           SELECT :p, 'p' || n, jsonb_build_array(jsonb_build_object('role', 'user', 'content', 'Question ' || n)), md5(n::text)
           FROM generate_series(1, :n) n""",
        """INSERT INTO completions (project_id, prompt_id, content_hash, messages, text)
           SELECT :p, id, content_hash, jsonb_build_array(jsonb_build_object('role', 'assistant', 'content', 'Answer ' || id)), 'a'
           FROM prompts WHERE project_id = :p""",
        """INSERT INTO ratings (project_id, completion_id, source, rater, value)
           SELECT :p, id, 'import', 'r', id % 2 = 0 FROM completions WHERE project_id = :p""",
    ):
        db.execute(text(statement), {"p": project_id, "n": number})

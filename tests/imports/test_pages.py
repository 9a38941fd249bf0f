"""The way of a file through the browser: form, draft, progress, result."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.storage import artifact_path
from app.feedback.imports import drafts, runner
from app.models import Completion, Import, Prompt, Rating, Role
from tests.imports.support import jsonl, row

CSV = b"question;answer;vote;who\nHow long?;Three days.;up;ann\nAnd then?;Wait.;sideways;bob\nWhy?;Because.;down;\n"


@pytest.fixture
def lead(factory: Any, sign_in: Any) -> Any:
    project = factory.project()
    return project, sign_in(factory.member(project, Role.LEAD))


def upload(browser: Any, project: Any, content: bytes, name: str, **form: str) -> Any:
    return browser.post(f"/p/{project.slug}/sources/import", files={"file": (name, io.BytesIO(content))}, data=form)


def test_a_csv_file_is_mapped_started_and_stored(db: Session, lead: Any) -> None:
    project, browser = lead
    answer = upload(browser, project, CSV, "votes.csv")
    assert answer.status_code == 303, answer.text
    url = answer.headers["location"]
    page = browser.get(url).text
    assert "1 row of 3 would be left out" in page
    assert "is no label" in page
    assert re.search(r'<option value="question" selected>', page)
    entry = db.scalars(select(Import)).one()
    path = artifact_path(entry.path or "")
    assert (entry.status, path.read_bytes()) == ("draft", CSV)
    assert db.scalars(select(Prompt)).all() == []

    form = {
        "format": "csv",
        "encoding": "utf-8-sig",
        "delimiter": ";",
        "down": "down, sideways",
        "map_prompt": "question",
        "map_completion": "answer",
        "map_label": "vote",
        "map_rater": "who",
    }
    assert browser.post(f"{url}/change", data=form).status_code == 303
    assert "Every row fits." in browser.get(url).text
    wrong = browser.post(f"{url}/change", data={**form, "map_rater": "nobody"})
    assert wrong.status_code == 422
    assert "choose one of the file" in wrong.text

    assert browser.post(f"{url}/start", data=form).headers["location"] == url
    assert "Waiting for a worker" in browser.get(url).text
    assert "Waiting for a worker" in browser.get(f"{url}/progress").text
    assert browser.post(f"{url}/start", data=form).headers["location"] == url, "a double click is harmless"
    assert browser.post(f"{url}/change", data=form).status_code == 409
    runner.run_import(entry.id)
    over = browser.get(f"{url}/progress", headers={"HX-Request": "true"})
    assert over.headers["HX-Redirect"] == url
    page = browser.get(url).text
    assert "Every row was taken." in page
    assert not path.exists()
    ratings = db.execute(select(Rating.rater, Rating.value).order_by(Rating.id)).all()
    assert [tuple(each) for each in ratings] == [("ann", True), ("bob", False), ("anonymous:down", False)]


def test_rejected_rows_as_csv(db: Session, lead: Any) -> None:
    project, browser = lead
    answer = upload(
        browser, project, jsonl([row(1), {"prompt": "a", "completion": "b", "label": "=1+1"}]).read(), "f.jsonl"
    )
    url = answer.headers["location"]
    browser.post(f"{url}/start")
    runner.run_import(int(url.rpartition("/")[2]))
    listed = browser.get(f"{url}/rejected.csv")
    assert listed.headers["content-type"].startswith("text/csv")
    assert listed.text.splitlines()[0] == "line,reason"
    assert listed.text.splitlines()[1].startswith("2,\"label: '=1+1' is no label")
    assert "Rejected rows" in browser.get(url).text


def test_a_draft_is_discarded_and_its_file_with_it(db: Session, lead: Any) -> None:
    project, browser = lead
    url = upload(browser, project, CSV, "votes.csv").headers["location"]
    path = artifact_path(db.scalars(select(Import.path)).one() or "")
    assert path.exists()
    browser.post(f"{url}/cancel")
    assert "nothing of it was stored" in browser.get(url).text
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"", "", "choose a file"),
        (b"PK\x03\x04zip", "a.zip", "The file is a ZIP archive"),
        (b'[{"prompt": "a"', "a.json", "The file is no JSON at line 1"),
        (b"a,a\n1,2\n", "a.csv", "The column a stands twice"),
        (b"PAR1truncated", "a.parquet", "The Parquet file is damaged"),
        (b"\x1f\x8bnonsense", "a.gz", "The gzip file is damaged"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "a.png", "The file is binary"),
    ],
)
def test_bad_files_leave_nothing(db: Session, lead: Any, content: bytes, name: str, words: str) -> None:
    project, browser = lead
    before = set(artifact_path("imports").glob("*"))
    answer = upload(browser, project, content, name)
    assert answer.status_code == 422
    assert words in answer.text
    assert db.scalars(select(Import)).all() == []
    assert set(artifact_path("imports").glob("*")) == before


def test_no_good_row_cannot_be_started_unseen(db: Session, lead: Any) -> None:
    project, browser = lead
    url = upload(browser, project, b'{"prompt": "a"}\n', "a.jsonl").headers["location"]
    page = browser.get(url).text
    assert "No row of those looked at can be stored." in page
    assert re.search(r"formaction=\"[^\"]+/start\" disabled", page)


def test_other_projects_and_roles(db: Session, lead: Any, factory: Any, sign_in: Any) -> None:
    project, browser = lead
    url = upload(browser, project, CSV, "votes.csv").headers["location"]
    number = url.rpartition("/")[2]
    other = factory.project()
    stranger = sign_in(factory.member(other, Role.LEAD))
    assert stranger.post(f"/p/{other.slug}/sources/imports/{number}/start").status_code == 404
    assert stranger.get(url).status_code == 404
    viewer = sign_in(factory.member(project, Role.VIEWER))
    assert viewer.get(url).status_code == 200
    assert viewer.post(f"{url}/start").status_code == 403
    assert db.scalars(select(Completion)).all() == []


def test_a_large_file_is_looked_at_in_part(db: Session, lead: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "LOOK_ROWS", 5)
    project, browser = lead
    rows: list[Any] = [row(number) for number in range(9)]
    url = upload(browser, project, jsonl([*rows, "{"]).read(), "f.jsonl").headers["location"]
    page = browser.get(url).text
    assert "The first 5 rows fit." in page
    assert "Check the whole file" in page
    browser.post(f"{url}/check")
    runner.run_import(int(url.rpartition("/")[2]))
    page = browser.get(url).text
    assert "1 row of 10 would be left out" in page
    assert "Check the whole file" not in page


def test_sources_says_of_each_import_where_it_is(db: Session, lead: Any, factory: Any, sign_in: Any) -> None:
    project, browser = lead
    for name in ("draft", "queued", "staging", "publishing", "stopping", "succeeded", "failed", "cancelled"):
        db.add(
            Import(
                project_id=project.id,
                filename=f"{name}.csv",
                source="import",
                status="staging" if name == "stopping" else name,
                cancel_requested=name == "stopping",
                size_bytes=1000,
                bytes_read=425,
                num_rows=100,
                num_rejected=20,
                num_published=40,
                num_created=77 if name == "succeeded" else 0,
            )
        )
    db.flush()
    page = browser.get(f"/p/{project.slug}/sources").text
    told = dict(re.findall(r"(\w+)\.csv</a></th><td><span[^>]*>.*?(?:</svg>|</span>)([^<]+)</span>", page))
    assert told == {
        "draft": "not started",
        "queued": "queued",
        "staging": "checking 42 %",
        "publishing": "publishing 50 %",
        "stopping": "stopping",
        "succeeded": "succeeded",
        "failed": "failed",
        "cancelled": "cancelled",
    }
    assert page.count('<td class="num">77</td>') == 1
    paths = [f"/p/{project.slug}/sources", f"/p/{project.slug}/readiness"]
    link = f'href="/p/{project.slug}/export"'
    assert all(link in browser.get(path).text for path in paths)
    viewer = sign_in(factory.member(project, Role.VIEWER))
    assert not any(link in viewer.get(path).text for path in paths)

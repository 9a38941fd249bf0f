"""The pages, as a browser without script sees them, and the parts that the script asks for."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import pytest
from sqlalchemy import func, select

from app.feedback.queue_fill import queue_completions
from app.feedback.schemas import parse_item
from app.feedback.service import ingest
from app.models import AnnotationSlot, ApiKey, Import, Rating, Role

PART = {"X-Annotate-Part": "1"}


@pytest.fixture
def project(factory):
    return factory.project()


@pytest.fixture
def lead(factory, project):
    return factory.member(project)


def queued(db, factory, project, size=3) -> list[Any]:
    rows = [factory.completion(project, f"Answer **{n}**.", category="refunds") for n in range(size)]
    queue_completions(db, project, [row.id for row in rows])
    return rows


def first_match(pattern: str, page: str) -> str:
    found = re.search(pattern, page)
    assert found is not None
    return found[found.re.groups]


def slot_on(page) -> int | None:
    found = re.search(r'data-slot="(\d+)"', page.text)
    return int(found[1]) if found else None


def test_the_loop_without_script(db, factory, project, lead, sign_in):
    queued(db, factory, project, 2)
    client, base = sign_in(lead), f"/p/{project.slug}/annotate"
    assert client.get(base).headers["location"] == f"{base}/main"
    assert "Start" in client.get(f"{base}/main").text
    assert db.scalar(select(func.count(AnnotationSlot.claimed_by))) == 0, "looking claims nothing"
    assert client.post(f"{base}/main/claim").status_code == 303
    page = client.get(f"{base}/main")
    assert "<strong>0</strong>" in page.text
    slot = slot_on(page)
    sent = client.post(
        f"{base}/main/verdict", data={"slot": slot, "value": "up", "reason": ["tone"], "comment": " Good. "}
    )
    assert sent.status_code == 303
    page = client.get(f"{base}/main")
    assert "Saved: desirable." in page.text
    assert slot_on(page) not in (slot, None)
    row = db.scalar(select(Rating))
    assert (row.value, row.reasons, row.comment, row.rater) == (True, ["tone"], "Good.", f"user:{lead.id}")
    client.post(f"{base}/main/verdict", data={"slot": slot_on(page), "value": "skip"})
    page = client.get(f"{base}/main")
    assert "Nothing left for you here." in page.text
    client.post(f"{base}/main/undo")
    assert slot_on(client.get(f"{base}/main")) is not None


def test_the_parts_hold_the_next_item(db, factory, project, lead, sign_in):
    queued(db, factory, project, 3)
    client, base = sign_in(lead), f"/p/{project.slug}/annotate/main"
    parts = client.post(f"{base}/claim", headers=PART)
    first, second = (int(slot) for slot in re.findall(r'data-slot="(\d+)"', parts.text))
    parts = client.post(f"{base}/verdict", headers=PART, data={"slot": first, "value": "down"})
    assert parts.status_code == 200
    shown = [int(slot) for slot in re.findall(r'data-slot="(\d+)"', parts.text)]
    assert shown[0] == second
    assert len(shown) == 2
    assert client.post(f"{base}/heartbeat").json() == {"held": 2, "done": 1, "total": 3}
    parts = client.post(f"{base}/undo", headers=PART)
    assert slot_on(parts) == first
    assert client.post(f"{base}/heartbeat").json() == {"held": 3, "done": 0, "total": 3}
    assert client.post(f"{base}/release").status_code == 204
    assert db.scalar(select(func.count(AnnotationSlot.claimed_by))) == 0


def test_a_lost_lease_is_told(db, factory, project, lead, sign_in):
    queued(db, factory, project, 1)
    other = factory.member(project)
    base = f"/p/{project.slug}/annotate/main"
    slot = slot_on(sign_in(lead).post(f"{base}/claim", headers=PART))
    client = sign_in(other)
    lost = client.post(f"{base}/verdict", headers=PART, data={"slot": slot, "value": "up"})
    assert lost.status_code == 409
    assert "Someone else has this one now. Next." in lost.text
    assert client.post(f"{base}/verdict", data={"slot": slot, "value": "up"}).status_code == 303
    assert db.scalar(select(func.count()).select_from(Rating)) == 0


def test_who_may_annotate(factory, project, sign_in):
    base = f"/p/{project.slug}"
    assert sign_in(factory.member(project, Role.VIEWER)).get(f"{base}/annotate").status_code == 403
    annotator = sign_in(factory.member(project, Role.ANNOTATOR))
    assert "No queue yet" in annotator.get(f"{base}/annotate").text
    assert annotator.get(f"{base}/completions").status_code == 200
    for path in ("/queues", "/sources", "/sources/import"):
        assert annotator.get(base + path).status_code == 403
    assert sign_in(factory.user()).get(f"{base}/completions").status_code == 404


def test_queues(db, factory, project, lead, sign_in):
    factory.completion(project)
    client, base = sign_in(lead), f"/p/{project.slug}/queues"
    assert "No queue yet" in client.get(base).text
    assert client.post(f"{base}/fill").status_code == 303
    assert db.scalar(select(func.count()).select_from(AnnotationSlot)) == 1
    assert client.post(f"{base}/overlap", data={"overlap": "3"}).status_code == 303
    assert db.scalar(select(func.count()).select_from(AnnotationSlot)) == 3
    bad = client.post(f"{base}/overlap", data={"overlap": "many"})
    assert bad.status_code == 422
    assert "a number from 1 to 10" in bad.text
    client.post(f"{base}/main/edit", data={"name": "Main", "overlap": "3", "instructions": "Is it **true**?"})
    assert "<strong>true</strong>" in client.get(f"/p/{project.slug}/annotate/main").text


def test_completions_by_filter_and_page(db, factory, project, lead, sign_in):
    up = factory.completion(project, "Up text", category="a", model="m1")
    down = factory.completion(project, "Down 100% text", category="b", model="m2")
    tied = factory.completion(project, "Tied text", category="b")
    bare = factory.completion(project, "Bare text")
    factory.completion(factory.project(), "Foreign text")
    factory.rating(up)
    factory.rating(down, False)
    factory.rating(tied)
    factory.rating(tied, False, rater="r2")
    client, base = sign_in(lead), f"/p/{project.slug}/completions"
    rows = {"Up": up, "Down": down, "Tied": tied, "Bare": bare}

    def found(query: str) -> set[str]:
        text = client.get(f"{base}{query}").text
        assert "Foreign" not in text
        return {name for name in rows if f"{base}/{rows[name].id}" in text}

    assert found("") == set(rows)
    assert found("?category=b") == {"Down", "Tied"}
    assert found("?model=m2") == {"Down"}
    assert found("?state=desirable") == {"Up"}
    assert found("?state=undesirable") == {"Down"}
    assert found("?state=tied") == {"Tied"}
    assert found("?state=unrated") == {"Bare"}
    assert found("?q=100%25") == {"Down"}
    assert found("?q=_") == set()
    assert found("?q=nothing") == set()
    assert found(f"?cursor={tied.id}") == {"Up", "Down"}
    assert client.get(f"{base}?cursor=x").status_code == 422


def test_older_completions_are_a_page_away(factory, project, lead, sign_in):
    for number in range(51):
        factory.completion(project, f"Answer {number}.", category="c & d")
    client, base = sign_in(lead), f"/p/{project.slug}/completions"
    page = client.get(f"{base}?category=c+%26+d").text
    older = first_match(r'href="(\?[^"]*cursor=\d+)"', page).replace("&amp;", "&")
    assert "Answer 0." in client.get(base + older).text


def test_one_completion_is_rated_and_taken_back(db, factory, project, lead, sign_in):
    completion = factory.completion(project, "<script>alert(1)</script> **fine**")
    client, url = sign_in(lead), f"/p/{project.slug}/completions/{completion.id}"
    assert "<script>alert" not in client.get(url).text
    client.post(f"{url}/rate", data={"value": "up"})
    assert 'aria-pressed="true"' in client.get(url).text
    client.post(f"{url}/rate", data={"value": "down"})
    assert db.scalars(select(Rating.value).where(Rating.is_current)).all() == [False]
    client.post(f"{url}/rate", data={"value": "down"})
    assert db.scalars(select(Rating.value).where(Rating.is_current)).all() == []
    assert client.post(f"{url}/rate", data={"value": "sideways"}).status_code == 422
    other = factory.completion(factory.project())
    assert client.get(f"/p/{project.slug}/completions/{other.id}").status_code == 404
    assert client.post(f"/p/{project.slug}/completions/{other.id}/rate", data={"value": "up"}).status_code == 404
    assert client.get(f"/p/{project.slug}/completions/{2**70}").status_code == 422


def test_a_conversation_shows_its_turns(db, factory, project, lead, sign_in):
    item = {"prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "One <b>"},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "track", "arguments": "{}"}}]},
            {"role": "tool", "content": "Sent."}], "completion": "It is on its way."}  # fmt: skip
    result = ingest(db, project, [parse_item(item)], "shop")[0]
    page = sign_in(lead).get(f"/p/{project.slug}/completions/{result.output_id}").text
    for words in ("System prompt, 2 words", "One &lt;b&gt;", "track({})", "Tool", "Sent.", "It is on its way."):
        assert words in page


def test_a_key_is_shown_once_and_revoked(db, project, lead, sign_in):
    client, base = sign_in(lead), f"/p/{project.slug}/sources"
    page = client.post(f"{base}/keys", data={"name": "Shop", "expires_in_days": "30", "scope": ["feedback:write"]})
    token = first_match(r"kto_[\w-]{30,}", page.text)
    assert f"Bearer {token}" in page.text
    assert token not in client.get(base).text
    key = db.scalar(select(ApiKey))
    assert key.scopes == ["feedback:write"]
    bad = client.post(f"{base}/keys", data={"name": "", "expires_in_days": "x"})
    assert bad.status_code == 422
    assert "1 to 100 characters" in bad.text
    assert "1 to 3650 days" in bad.text
    assert client.post(f"{base}/keys/{key.id}/revoke").status_code == 303
    db.refresh(key)
    assert key.revoked_at is not None


def test_import_a_file(db, project, lead, sign_in):
    """Looked at first; the worker's part is in tests/imports."""
    client, base = sign_in(lead), f"/p/{project.slug}/sources"
    rows = [{"prompt": "Q", "completion": "A", "label": 1}, {"prompt": "Q", "completion": "", "label": 1}]
    content = "\n".join(json.dumps(row) for row in rows)
    sent = client.post(f"{base}/import", files={"file": ("thumbs.jsonl", content)})
    assert sent.status_code == 303
    result = client.get(sent.headers["location"])
    assert "thumbs.jsonl" in result.text
    assert "the completion is empty" in result.text
    assert "thumbs.jsonl" in client.get(base).text
    assert db.scalar(select(func.count()).select_from(Rating)) == 0
    assert client.post(f"{base}/import").status_code == 422
    refused = client.post(f"{base}/import", files={"file": ("a.bin", b"\x00\x01")})
    assert refused.status_code == 422
    assert "The file is binary" in refused.text
    empty = client.post(f"{base}/import", files={"file": ("a.jsonl", b"")})
    assert "No row of those looked at can be stored" in client.get(empty.headers["location"]).text
    assert client.get(f"{base}/imports/{2**31 - 1}").status_code == 404


def test_api_docs_are_plain_and_whole(client):
    page = client.get("/api/v1/docs")
    assert page.status_code == 200
    for words in ("Send one thumb", "POST /api/v1/feedback/batch", "completion_id", "Authorization: Bearer $KTO_KEY"):
        assert words in page.text
    assert "style=" not in page.text


def test_a_packed_file_in_the_browser(sign_in, factory, db):
    project = factory.project()
    browser = sign_in(factory.member(project, Role.LEAD))
    packed = gzip.compress(b'{"prompt": "How?", "completion": "So.", "label": true}\n')
    answer = browser.post(f"/p/{project.slug}/sources/import", files={"file": ("f.jsonl.gz", packed)})
    assert answer.status_code == 303
    assert [row.status for row in db.scalars(select(Import))] == ["draft"]
    assert "How?" in browser.get(answer.headers["location"]).text


def test_nothing_of_an_upload_is_read_before_the_person_is_known(client, project, monkeypatch):
    read = []
    monkeypatch.setattr("starlette.formparsers.MultiPartParser.parse", lambda _: read.append(True))
    answer = client.post(f"/p/{project.slug}/sources/import", files={"file": ("f.jsonl", b"{}\n" * 1000)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert not read


def test_an_annotator_sees_others_verdicts_only_after_the_own_one(db: Any, factory: Any, sign_in: Any) -> None:
    project = factory.project()
    completion = factory.completion(project, text="Judge me")
    factory.rating(completion, value=True).comment = "swayed by this"
    db.flush()
    browser = sign_in(factory.member(project, Role.ANNOTATOR))
    base = f"/p/{project.slug}/completions"
    assert "swayed by this" not in browser.get(f"{base}/{completion.id}").text
    assert "hidden" in browser.get(base).text
    assert "Judge me" in browser.get(f"{base}?state=undesirable").text, "a filter by verdict would tell it"
    assert browser.post(f"{base}/{completion.id}/rate", data={"value": "down"}).status_code == 303
    assert "swayed by this" in browser.get(f"{base}/{completion.id}").text
    lead = sign_in(factory.member(project, Role.LEAD))
    assert "swayed by this" in lead.get(f"{base}/{completion.id}").text
    assert "Judge me" not in lead.get(f"{base}?state=unrated").text

"""The widget's file, publishable keys from pages and from elsewhere, and what browsers ask before."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from app.accounts.keys import create_key, revoke_key
from app.feedback.widget import PATH, integrity, snippet
from app.models import Completion, Rating
from scripts.widget import build

ROOT = Path(__file__).resolve().parents[2]
PAGE, OTHER = "https://shop.example.org", "https://evil.example.org"
THUMB = {"completion_id": "msg-1", "rater": "c-81", "label": True}


@pytest.fixture
def project(factory: Any) -> Any:
    return factory.project()


@pytest.fixture
def made(db: Any, project: Any, factory: Any) -> tuple[Any, str]:
    factory.completion(project).external_id = "msg-1"
    db.flush()
    return create_key(db, project, "Shop pages", kind="publishable", origins=[PAGE])


def head(token: str, origin: str | None = PAGE) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **({"Origin": origin} if origin else {})}


def test_the_file_is_small_and_kept_for_good(client: Any) -> None:
    answer = client.get(PATH, headers={"Accept-Encoding": "identity"})
    assert answer.status_code == 200
    assert len(answer.content) <= 3000
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "set-cookie" not in answer.headers
    assert answer.text == build((ROOT / "static/widget/v1.source.js").read_text()), "run scripts/widget.py"


def test_its_address_never_holds_anything_else() -> None:
    digest = hashlib.sha256((ROOT / "static/widget/v1.js").read_bytes()).hexdigest()
    assert digest == "97b283d6f5705972aa363abfd4b5ec30130f914e7985a0d57f7fed90334cd7ab", (
        "pages name the hash of this version: put another content at v2.js"
    )


def test_the_snippet_names_key_source_and_hash(made: tuple[Any, str]) -> None:
    text = snippet(made[0], "https://kto.example.org")
    assert f'data-kto-key="{made[1]}" data-kto-source="shop-pages"' in text
    assert re.search(r'src="https://kto\.example\.org/widget/v1\.js" crossorigin integrity="sha384-[\w+/=]{64}"', text)
    assert integrity() in text


def test_a_page_of_its_origin_gives_changes_and_takes_back(
    client: Any, db: Any, project: Any, made: tuple[Any, str]
) -> None:
    sent = client.post("/api/v1/feedback", json=THUMB, headers=head(made[1]))
    assert sent.status_code == 201, sent.text
    assert sent.headers["access-control-allow-origin"] == PAGE
    assert "origin" in sent.headers["vary"].lower()
    assert "access-control-allow-credentials" not in sent.headers
    assert "Retry-After" in sent.headers["access-control-expose-headers"]
    row = db.scalar(select(Rating).where(Rating.is_current))
    assert (row.value, row.rater, row.source) == (True, "c-81", "shop-pages")
    own = "/api/v1/feedback/shop-pages/msg-1:c-82"
    assert client.put(own, json={**THUMB, "rater": "c-82", "label": False}, headers=head(made[1])).status_code == 201
    gone = client.delete(own, headers=head(made[1]))
    assert gone.status_code == 204
    assert gone.headers["access-control-allow-origin"] == PAGE
    db.expire_all()
    assert db.scalars(select(Rating.rater).where(Rating.is_current)).all() == ["c-81"]


@pytest.mark.parametrize("origin", [None, OTHER, "null", PAGE + ":8443", "http://shop.example.org", PAGE.upper(), ""])
def test_from_anywhere_else_it_is_refused(origin: str | None, client: Any, db: Any, made: tuple[Any, str]) -> None:
    answer = client.post("/api/v1/feedback", json=THUMB, headers=head(made[1], origin))
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert answer.json()["error"]["remedy"]
    assert db.scalar(select(func.count()).select_from(Rating)) == 0


def test_it_reads_nothing_and_stores_no_outputs(client: Any, db: Any, made: tuple[Any, str]) -> None:
    key = head(made[1])
    before = db.scalar(select(func.count()).select_from(Completion))
    whole = {"prompt": "How?", "completion": "So.", "label": True}
    answers = {
        "list": client.get("/api/v1/feedback", headers=key),
        "batch": client.post("/api/v1/feedback/batch", json={"items": [THUMB]}, headers=key),
        "output": client.post("/api/v1/feedback", json=whole, headers=key),
        "correction": client.post(
            "/api/v1/feedback", json={**THUMB, "label": False, "correction": "Better."}, headers=key
        ),
        "outputs": client.post("/api/v1/completions/batch", json={"items": [whole]}, headers=key),
        "links": client.post("/api/v1/feedback/links", json={"completion_id": "msg-1"}, headers=key),
        "other source": client.put("/api/v1/feedback/annotation/x", json=THUMB, headers=key),
    }
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(answers, 403)
    assert db.scalar(select(func.count()).select_from(Completion)) == before
    assert db.scalar(select(func.count()).select_from(Rating)) == 0


def test_mistakes_are_readable_in_the_page(client: Any, made: tuple[Any, str]) -> None:
    long = client.post("/api/v1/feedback", json={**THUMB, "comment": "x" * 2001}, headers=head(made[1]))
    assert long.status_code == 422
    assert "comment" in long.json()["error"]["fields"]
    assert long.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/api/v1/feedback", "POST"), ("/api/v1/feedback/shop-pages/msg-1:c-81", "PUT, DELETE")],
)
def test_preflight(path: str, methods: str, client: Any, db: Any, project: Any, made: tuple[Any, str]) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    answer = client.options(path, headers={**ask, "Origin": PAGE})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-methods"] == methods
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers
    for origin in OTHER, "*", "", "null", "%", "é":
        refused = client.options(path, headers={**ask, "Origin": origin.encode()})
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
    revoke_key(db, project, made[0].id)
    assert client.options(path, headers={**ask, "Origin": PAGE}).status_code == 403


@pytest.mark.parametrize(
    "path", ["/api/v1/feedback/batch", "/api/v1/completions/batch", "/api/v1/feedback/1", "/login"]
)
def test_other_routes_answer_no_preflight(path: str, client: Any, made: tuple[Any, str]) -> None:
    ask = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    answer = client.options(path, headers=ask)
    assert answer.status_code in {404, 405}
    assert "access-control-allow-origin" not in answer.headers

"""The Sources page: what came in from where, keys in their forms, what waits for its output."""

from __future__ import annotations

import html
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.accounts.keys import create_key
from app.core.clock import utcnow
from app.feedback.arrivals import arrivals
from app.models import ApiKey, PendingFeedback, Rating, Role, Webhook


@pytest.fixture
def project(factory: Any) -> Any:
    return factory.project()


@pytest.fixture
def base(project: Any, factory: Any, sign_in: Any) -> str:
    sign_in(factory.member(project))
    return f"/p/{project.slug}/sources"


def _rated(
    db: Any, factory: Any, project: Any, source: str, hours: float, value: bool = True, rater: str = "r"
) -> Rating:
    row: Rating = factory.rating(factory.completion(project), value, rater, source)
    row.created_at = utcnow() - timedelta(hours=hours)
    db.flush()
    return row


def test_arrivals_by_source_and_hour(db: Any, factory: Any, project: Any) -> None:
    for hours, value in [(0.1, True), (0.2, False), (5.5, True), (23.9, True), (30, False), (24 * 8, True)]:
        _rated(db, factory, project, "shop", hours, value)
    superseded = _rated(db, factory, project, "shop", 1.5, False)
    superseded.is_current = False
    _rated(db, factory, project, "annotation", 50)
    _rated(db, factory, factory.project(), "elsewhere", 1)
    create_key(db, project, "Shop")
    create_key(db, project, "New app")
    create_key(db, project, "reader", ["feedback:read"])
    found = arrivals(db, project, db.scalars(select(ApiKey)).all())
    assert [source.name for source in found] == ["shop", "annotation", "new-app"]
    shop, annotation, fresh = found
    assert shop.by_hour == [1, *[0] * 17, 1, 0, 0, 0, 1, 2]
    assert (shop.today, shop.ups, shop.downs) == (5, 3, 2)
    assert shop.share_up == pytest.approx(0.6)
    assert shop.key is not None
    assert (annotation.today, annotation.share_up, annotation.key) == (0, 1.0, None)
    assert (fresh.last_at, fresh.share_up) == (None, None)


def test_a_card_waits_until_the_first_rating_is_there(
    db: Any, factory: Any, project: Any, base: str, client: Any
) -> None:
    made = client.post(f"{base}/keys", data={"name": "Shop", "scope": ["feedback:write"]})
    card = client.get(f"{base}/arrivals/shop").text
    assert "waiting for the first rating" in card
    assert 'hx-trigger="every 3s"' in card
    token = html.unescape(made.text).partition("Bearer ")[2].partition('"')[0]
    item = {"prompt": "How?", "completion": "So.", "label": "up"}
    sent = client.post("/api/v1/feedback", json=item, headers={"Authorization": f"Bearer {token}"})
    assert sent.status_code == 201
    card = client.get(f"{base}/arrivals/shop").text
    assert "arrived" in card
    assert "hx-get" not in card
    assert "100.0" in card
    assert client.get(f"{base}/arrivals/nobody").status_code == 404


def test_a_secret_key_is_shown_once_with_three_examples(base: str, client: Any) -> None:
    form = {
        "name": "Shop",
        "scope": ["feedback:write", "feedback:read"],
        "rate_per_minute": "50",
        "expires_in_days": "",
    }
    page = html.unescape(client.post(f"{base}/keys", data=form).text)
    token = page.partition("Bearer ")[2].partition('"')[0]
    assert token.startswith("kto_")
    assert page.count(token) == 4, "the key, curl, Python, JavaScript"
    assert "50 a minute" in page
    assert "send feedback; read feedback back" in page
    assert token not in client.get(base).text


def test_a_publishable_key_comes_with_its_snippet_again_and_again(base: str, client: Any, db: Any) -> None:
    form = {"pub_name": "Shop pages", "origins": "https://Shop.example.org/\nhttp://localhost:3000"}
    page = html.unescape(client.post(f"{base}/keys/publishable", data=form).text)
    key = db.scalar(select(ApiKey))
    assert key.origins == ["https://shop.example.org", "http://localhost:3000"]
    assert f'data-kto-key="{key.public_token}" data-kto-source="shop-pages"' in page
    again = html.unescape(client.get(base).text)
    assert f'data-kto-key="{key.public_token}"' in again
    assert "600 a minute" in again


@pytest.mark.parametrize(
    ("path", "form", "shown"),
    [
        ("/keys", {"name": "", "scope": []}, ["1 to 100 characters", "at least one of"]),
        ("/keys", {"name": "ok", "scope": ["feedback:write"], "rate_per_minute": "many"}, ["1 to 1,000,000", "many"]),
        ("/keys/publishable", {"pub_name": "ok", "origins": "https://*.org"}, ["wildcard", "https://*.org"]),
        ("/keys/publishable", {"pub_name": "ok", "origins": "shop.org/x"}, ["is no origin", "shop.org/x"]),
        ("/keys/publishable", {"pub_name": "ok"}, ["1 to 20 origins"]),
        (
            "/keys/publishable",
            {"pub_name": "ok", "origins": "https://a.org", "pub_days": "-4"},
            ["1 to 3650 days", "-4"],
        ),
    ],
)
def test_a_form_that_does_not_fit_comes_back_as_typed(
    path: str, form: dict[str, Any], shown: list[str], base: str, client: Any, db: Any
) -> None:
    answer = client.post(base + path, data=form)
    assert answer.status_code == 422
    for words in shown:
        assert words in html.unescape(answer.text)
    assert db.scalar(select(ApiKey.id)) is None


def test_rotating_by_the_page(base: str, client: Any, db: Any, project: Any) -> None:
    key, _ = create_key(db, project, "Shop")
    wrong = client.post(f"{base}/keys/{key.id}/rotate", data={"overlap_hours": "soon"})
    assert wrong.status_code == 422
    assert "soon" in wrong.text
    page = client.post(f"{base}/keys/{key.id}/rotate", data={"overlap_hours": "48"})
    assert "The old key goes on for 48 hours." in page.text
    assert page.text.count("kto_") > 4
    assert len(db.scalars(select(ApiKey)).all()) == 2
    client.post(f"{base}/keys/{key.id}/revoke")
    ended = client.post(f"{base}/keys/{key.id}/rotate", data={"overlap_hours": "1"})
    assert ended.status_code == 409


def test_what_waits_for_its_output_is_listed_after_7_days(base: str, client: Any, db: Any, project: Any) -> None:
    assert "None. A thumb may come before its output" in client.get(base).text
    for number, days in ((1, 0), (2, 8), (3, 9)):
        row = PendingFeedback(
            project_id=project.id,
            source="shop",
            rater=f"c-{number}",
            completion_external_id=f"msg-<{number}>",
            item={},
            created_at=utcnow() - timedelta(days=days),
        )
        db.add(row)
    db.flush()
    page = client.get(base).text
    assert "2 thumbs have waited over 7 days for their output." in page
    assert "3 thumbs in all" in page
    assert page.index("msg-&lt;3&gt;") < page.index("msg-&lt;2&gt;")
    assert "msg-&lt;1&gt;" not in page


def test_the_card_of_webhooks_counts_them(base: str, client: Any, db: Any, project: Any) -> None:
    assert "Add a webhook" in client.get(base).text
    for enabled in True, False:
        db.add(
            Webhook(
                project_id=project.id, url="https://a.example", events=["run.finished"], secret=b"x", is_enabled=enabled
            )
        )
    db.flush()
    page = client.get(base).text
    assert "2 webhooks, 1 switched on." in page
    assert f"{base}/webhooks" in page


def test_a_viewer_sees_it_without_its_actions(factory: Any, project: Any, sign_in: Any, db: Any) -> None:
    create_key(db, project, "Shop")
    page = sign_in(factory.member(project, Role.VIEWER)).get(f"/p/{project.slug}/sources").text
    assert "Shop" in page
    for action in ("Create a key", "Rotate", "Revoke", "Import a file"):
        assert action not in page

"""API keys: what they may do, from where, how they end and how one replaces another."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.accounts.keys import create_key, revoke_key, rotate_key
from app.accounts.origins import parse_origin
from app.core.clock import utcnow
from app.core.errors import ConflictError, InvalidError, NotFoundError
from app.core.security import hash_token
from app.models import ApiKey, AuditEntry

PAGE = "https://shop.example.org"


@pytest.fixture
def project(factory: Any) -> Any:
    return factory.project()


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("https://shop.example.org", "https://shop.example.org"),
        (" HTTPS://Shop.Example.org:443/ ", "https://shop.example.org"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://intranet:80", "http://intranet"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_origins_are_stored_as_browsers_send_them(typed: str, stored: str) -> None:
    assert parse_origin(typed) == stored


@pytest.mark.parametrize(
    "typed",
    [
        "*",
        "https://*.example.org",
        "shop.example.org",
        "https://shop.example.org/path",
        "https://shop.example.org?x=1",
        "https://u:p@shop.example.org",
        "ftp://shop.example.org",
        "null",
        "https://",
        "https://a..b",
        "https://shop.example.org:99999",
        "https://shop.example.org:x",
        "javascript:alert(1)",
        "https://sh op.example.org",
        "https://x\x00.org",
        "https://" + "a" * 400,
    ],
)
def test_what_is_no_origin_is_refused_in_words(typed: str, db: Any, project: Any) -> None:
    with pytest.raises(InvalidError) as refused:
        create_key(db, project, "web", kind="publishable", origins=[typed])
    assert "origin" in refused.value.fields["origins"] or "write" in refused.value.fields["origins"]
    assert db.scalar(select(ApiKey.id).where(ApiKey.project_id == project.id)) is None


def test_a_publishable_key_only_writes_feedback_and_may_be_shown_again(db: Any, project: Any) -> None:
    key, token = create_key(
        db, project, "web", ["feedback:read", "version:read"], kind="publishable", origins=[PAGE, PAGE + "/"]
    )
    assert token.startswith("kto_pub_")
    assert (key.public_token, key.scopes, key.origins) == (token, ["feedback:write"], [PAGE])
    secret, other = create_key(db, project, "server")
    assert other.startswith("kto_")
    assert not other.startswith("kto_pub_")
    assert secret.public_token is None
    with pytest.raises(InvalidError) as refused:
        create_key(db, project, "", kind="publishable", rate_per_minute=0)
    assert set(refused.value.fields) == {"name", "origins", "rate_per_minute"}


def test_a_rotated_key_goes_on_for_the_overlap(db: Any, project: Any, client: Any) -> None:
    old, before = create_key(
        db, project, "web", kind="publishable", origins=[PAGE], rate_per_minute=7, expires_in_days=None
    )
    new, after = rotate_key(db, project, old.id, overlap_hours=2)
    assert after != before
    for name in ("name", "scopes", "origins", "kind", "rate_per_minute"):
        assert getattr(new, name) == getattr(old, name)
    assert new.public_token == after
    assert new.expires_at is None, "the old one did not expire by itself"
    assert old.expires_at is not None
    assert timedelta(hours=1.9) < old.expires_at - utcnow() < timedelta(hours=2.1)
    entry = db.scalar(select(AuditEntry).where(AuditEntry.action == "key.rotated"))
    assert entry.details["replaces"] == old.prefix


def test_a_rotated_key_keeps_its_lifetime_and_never_lives_longer(db: Any, project: Any) -> None:
    old, _ = create_key(db, project, "server", expires_in_days=30)
    old.expires_at = utcnow() + timedelta(hours=1)
    old.created_at = old.expires_at - timedelta(days=30)
    new, _ = rotate_key(db, project, old.id, overlap_hours=24)
    assert old.expires_at < utcnow() + timedelta(hours=1.1)
    assert new.expires_at is not None
    assert timedelta(days=29.9) < new.expires_at - utcnow() < timedelta(days=30.1)


def test_what_cannot_be_rotated(db: Any, project: Any, factory: Any) -> None:
    key, _ = create_key(db, project, "server")
    with pytest.raises(NotFoundError):
        rotate_key(db, factory.project(), key.id)
    for hours in (-1, 24 * 30 + 1):
        with pytest.raises(InvalidError) as refused:
            rotate_key(db, project, key.id, overlap_hours=hours)
        assert "overlap_hours" in refused.value.fields
    rotate_key(db, project, key.id, overlap_hours=0)
    with pytest.raises(ConflictError):
        rotate_key(db, project, key.id)
    other, _ = create_key(db, project, "other")
    revoke_key(db, project, other.id)
    with pytest.raises(ConflictError):
        rotate_key(db, project, other.id)


def test_both_keys_work_during_the_overlap_and_one_afterwards(db: Any, project: Any, client: Any) -> None:
    old, before = create_key(db, project, "server")
    _, after = rotate_key(db, project, old.id)

    def status(token: str) -> int:
        return client.get("/api/v1/feedback", headers={"Authorization": f"Bearer {token}"}).status_code  # type: ignore[no-any-return]

    assert [status(before), status(after)] == [200, 200]
    old.expires_at = utcnow() - timedelta(seconds=1)
    db.flush()
    assert [status(before), status(after)] == [401, 200]


def test_tokens_are_stored_as_hashes(db: Any, project: Any) -> None:
    key, token = create_key(db, project, "server")
    assert key.key_hash == hash_token(token)
    assert token not in repr({column.name: getattr(key, column.key) for column in ApiKey.__mapper__.columns})
    assert token.startswith(key.prefix)

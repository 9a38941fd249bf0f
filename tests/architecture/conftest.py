from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session

from tests.architecture.walk import Furnished, furnish


@pytest.fixture
def furnished(db: Session, factory: Any, tmp_path: Path) -> Furnished:
    return furnish(db, factory, tmp_path)


@pytest.fixture
def visitor(db: Session) -> Iterator[TestClient]:
    """Sees the page of an unexpected error instead of its exception."""
    from app.main import create_app

    app = create_app()
    with TestClient(app, base_url="http://testserver", follow_redirects=False, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def enter(visitor: TestClient, db: Session) -> Callable[[Any], TestClient]:
    """``enter(user)`` makes ``visitor`` that person's browser."""
    from app.accounts.sessions import cookie_name, open_login
    from app.core.security import csrf_token, hash_token

    def act(user: Any) -> TestClient:
        token = open_login(db, user)
        db.flush()
        visitor.cookies.set(cookie_name("session"), token)
        visitor.headers["X-CSRF-Token"] = csrf_token(hash_token(token))
        return visitor

    return act

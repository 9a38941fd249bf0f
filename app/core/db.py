"""Engine, session factory and the declarative base.

Services never commit: a request commits in ``get_db`` and a task in ``session_scope``, at the edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy import DateTime, Engine, MetaData, create_engine, event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Session, SessionTransaction, sessionmaker

from app.core.errors import UnavailableError
from app.settings import get_settings

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 -- SQLAlchemy's own declarative form
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[Any]: JSONB(none_as_null=True),
    }


def normalise_database_url(url: str) -> str:
    """Accept postgres:// and postgresql:// and name the driver that we ship."""
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url


def make_engine(url: str, **options: Any) -> Engine:
    """Errors do not show their statement's values: these would be in the logs, hashes of passwords and keys among them."""
    return create_engine(normalise_database_url(url), pool_pre_ping=True, hide_parameters=True, **options)


@lru_cache(maxsize=1)
def get_engine() -> Engine:
    url = get_settings().database_url
    if not url:
        raise UnavailableError("No database is configured.", remedy="Set DATABASE_URL, or start with `kto up`.")
    return make_engine(url, pool_size=10, max_overflow=10)


SessionFactory = sessionmaker(expire_on_commit=False, autoflush=True)


def new_session() -> Session:
    if SessionFactory.kw.get("bind") is None:  # sessionmaker itself writes bind=None
        SessionFactory.configure(bind=get_engine())
    return SessionFactory()


@contextmanager
def session_scope() -> Iterator[Session]:
    """One transaction of a task or command: commits at the end, rolls back on any error."""
    session = new_session()
    session.info["forgets"] = True
    try:
        yield session
        session.commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        session.close()


def get_db() -> Iterator[Session]:
    """FastAPI dependency; use it as ``Db`` so that it commits before the response is sent: a 2xx is durable."""
    with session_scope() as session:
        yield session


Db = Annotated[Session, Depends(get_db, scope="function")]


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Run ``action`` once this transaction is durable; dropped when it, or the savepoint that this is in, rolls back.

    For enqueueing and publishing.
    """
    session.info.setdefault("after_commit", []).append((session.get_nested_transaction(), action))


@event.listens_for(SessionFactory, "after_commit")
def _run_actions(session: Session) -> None:
    if session.in_nested_transaction():
        return  # SQLAlchemy tells of released savepoints as well
    for _, action in session.info.pop("after_commit", []):
        action()


@event.listens_for(SessionFactory, "after_rollback")
def _drop_actions(session: Session) -> None:
    undone = session.get_nested_transaction()
    kept = session.info.pop("after_commit", [])
    if undone is None:
        if session.info.get("forgets"):
            session.expunge_all()  # else its rows expire, and the error page could not name the person and the project
    else:
        session.info["after_commit"] = [item for item in kept if not _is_within(item[0], undone)]


def _is_within(savepoint: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while savepoint is not None and savepoint is not outer:
        savepoint = savepoint.parent
    return savepoint is outer

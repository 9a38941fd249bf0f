"""Alembic environment: runs under an advisory lock with statement and lock timeouts."""

from __future__ import annotations

from alembic import context
from sqlalchemy import NullPool, text

import app.models  # noqa: F401 -- fills the metadata
from app.core.db import Base, make_engine
from app.settings import get_settings

LOCK_ID = 0x4B544F  # "KTO": two processes never migrate at once


def run() -> None:
    url = context.config.get_main_option("sqlalchemy.url") or get_settings().database_url
    engine = make_engine(url, poolclass=NullPool)  # nothing stays open after an error
    with engine.connect() as connection:
        connection.execute(text("SET lock_timeout = '10s'"))
        connection.execute(text("SET statement_timeout = '10min'"))
        connection.execute(text("SELECT pg_advisory_lock(:id)"), {"id": LOCK_ID})
        connection.commit()
        context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
        with context.begin_transaction():
            context.run_migrations()


run()

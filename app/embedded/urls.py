"""Addresses of the services in the forms their clients want. No other module is imported here."""

from urllib.parse import quote


def postgres_url(*, user: str, password: str, database: str, socket_dir: str) -> str:
    """SQLAlchemy address over a unix socket. The port is named so that a PGPORT in the environment is not used."""
    return (
        f"postgresql+psycopg://{quote(user, safe='')}:{quote(password, safe='')}@/{quote(database, safe='')}"
        f"?host={quote(socket_dir, safe='/')}&port=5432"
    )


def libpq_url(database_url: str) -> str:
    """The address as libpq, psycopg and pg_dump take it: without SQLAlchemy's driver name."""
    scheme, separator, rest = database_url.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"


def redis_socket_url(path: str, db: int = 0) -> str:
    """Address of a unix socket as redis-py takes it."""
    return f"unix://{quote(path, safe='/')}?db={db}"

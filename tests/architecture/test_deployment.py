"""The files that start the product elsewhere: parsed, complete, and nothing open by default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import create_engine, inspect, text

from app.settings import Settings
from tests.conftest import create_database

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


def test_services(compose: dict[str, Any]) -> None:
    assert {"postgres", "redis", "migrate", "web", "worker"} <= set(compose["services"])
    for name in ("postgres", "redis", "web", "worker"):
        assert compose["services"][name]["healthcheck"]["test"], name
    assert compose["services"]["migrate"]["restart"] == "no"
    for name in ("web", "worker"):
        assert compose["services"][name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert {volume.partition(":")[0] for volume in compose["services"]["web"]["volumes"] if volume[0].isalpha()} <= set(
        compose["volumes"]
    )


def test_ports_are_local(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(str(port).startswith("127.0.0.1:") for port in published)


def test_every_variable_is_a_setting(compose: dict[str, Any]) -> None:
    known = {
        field.validation_alias if isinstance(field.validation_alias, str) else f"KTO_{name.upper()}"
        for name, field in Settings.model_fields.items()
    }
    for service in ("migrate", "web", "worker"):
        environment = compose["services"][service]["environment"]
        assert set(environment) <= known
        assert {"DATABASE_URL", "REDIS_URL", "KTO_SECRET_KEY", "KTO_DATA_DIR"} <= set(environment)


def test_no_secret_has_a_default() -> None:
    raw = (ROOT / "docker-compose.yml").read_text()
    for variable in ("POSTGRES_PASSWORD", "KTO_SECRET_KEY"):
        uses = re.findall(r"\$\{" + variable + r"([^}]*)\}", raw)
        assert uses
        assert all(use.startswith(":?") for use in uses)


def test_gpu_override() -> None:
    worker = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]["worker"]
    assert worker["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_dockerfile_copies_what_the_wheel_needs() -> None:
    lines = (ROOT / "Dockerfile").read_text()
    for name in ("app", "worker", "templates", "static", "migrations", "requirements.lock", "setup.py"):
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", lines, re.MULTILINE), name
    assert re.search(r"^USER kto$", lines, re.MULTILINE)


def test_migrations_from_empty_match_the_models(configured: None) -> None:
    from alembic import command

    from app.core.migrate import alembic_config, migrate

    url = create_database("test_migrations")
    migrate(url)
    command.check(alembic_config(url))  # raises when autogenerate would add or drop anything
    engine = create_engine(url)
    assert "runs" in inspect(engine).get_table_names()
    command.downgrade(alembic_config(url), "base")
    with engine.connect() as connection:
        left = connection.execute(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")).scalar_one()
    engine.dispose()
    assert left == 1, "only alembic's own table is left"

"""Made-up requests after the OpenAPI document, right ones and wrong ones: no call fails inside, no answer is undocumented."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import update

from app.core.db import session_scope
from app.models import ApiKey
from tests.client.conftest import Studio, away, studio  # noqa: F401 -- fixtures

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 8
"""For each operation, of the right and of the wrong ones."""
DOCUMENT = "/api/v1/openapi.json"


def _check(token: str, strategy: st.SearchStrategy[Any]) -> None:
    @seed(20260101)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def try_one(case: Any) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        case.call_and_validate(headers=headers, checks=CHECKS)

    run: Callable[[], None] = try_one
    run()


def test_no_made_up_call_of_the_api_fails_inside(studio: Studio) -> None:  # noqa: F811 -- the fixture
    with session_scope() as db:
        db.execute(update(ApiKey).values(rate_per_minute=1_000_000))
    schema = schemathesis.openapi.from_url(studio.url + DOCUMENT)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 8
    failed: list[str] = []
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                _check(studio.key, operation.as_strategy(generation_mode=mode))
            except FailureGroup as group:
                failed += [f"{operation.label}: {error}" for error in group.exceptions]
    assert not failed, "\n\n".join(failed)

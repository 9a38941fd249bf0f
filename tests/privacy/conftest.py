"""An artifacts folder of its own for each test: erasing is judged by what lies in all of it."""

from __future__ import annotations

import shutil

import pytest

from app.core.storage import artifacts_root


@pytest.fixture(autouse=True)
def _empty_artifacts(configured: None) -> None:
    shutil.rmtree(artifacts_root(), ignore_errors=True)

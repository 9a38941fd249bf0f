"""Every page, full of the demo's data: accessible, quiet console, no sideways scroll, in light and dark, on desk and phone."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import Product, axe, open_context, watch

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PROJECT = "/p/demo-assistant"
PAGES = (
    "/projects",
    "/account",
    "/workers",
    "/styleguide",
    "/api/v1/docs",
    f"{PROJECT}/",
    f"{PROJECT}/annotate/main",
    f"{PROJECT}/completions",
    f"{PROJECT}/sources",
    f"{PROJECT}/sources/import",
    f"{PROJECT}/readiness",
    f"{PROJECT}/snapshots",
    f"{PROJECT}/runs",
    f"{PROJECT}/runs/new",
    f"{PROJECT}/runs/1",
    f"{PROJECT}/evaluations",
    f"{PROJECT}/evaluations/1",
    f"{PROJECT}/evaluations/1/diversity",
    f"{PROJECT}/evaluations/1/diversity/table",
    f"{PROJECT}/evaluations/1/completions",
    f"{PROJECT}/versions",
    f"{PROJECT}/versions/1/card",
    f"{PROJECT}/settings",
)


@pytest.mark.parametrize("path", PAGES)
def test_page(browser: Browser, product: Product, owner_state: Any, path: str) -> None:
    for scheme, width in (("light", 1440), ("dark", 390)):
        context = open_context(
            browser, product, owner_state, viewport={"width": width, "height": 844}, color_scheme=scheme
        )
        page = context.new_page()
        problems = watch(page)
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == 200, path
        page.wait_for_timeout(150)
        assert not axe(page), f"{path}, {scheme}"
        sideways = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert sideways <= 0, f"{path} scrolls sideways by {sideways} px at {width}"
        assert not problems
        context.close()


@pytest.mark.parametrize("path", ["/login", "/start/not-a-link"])
def test_page_before_sign_in(browser: Browser, product: Product, path: str) -> None:
    context = open_context(browser, product, [])
    page = context.new_page()
    page.goto(path)
    assert not axe(page)
    context.close()


def test_not_found_is_in_words(page: Page) -> None:
    answer = page.context.request.get(f"{PROJECT}/runs/999999")
    assert answer.status == 404
    assert "Traceback" not in answer.text()

"""The diversity page in a real Chromium under the product's CSP: cursor, keys, search, samples in place, axe, no sideways scroll."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import BrowserContext, Page, sync_playwright
from sqlalchemy import Engine

from app.models import Role
from tests.browser.conftest import CHROMIUM_FLAGS, axe, watch
from tests.evaluations import large
from tests.evaluations.support import run_in

pytestmark = pytest.mark.browser


@pytest.fixture
def address(committed_db: Engine, tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A served run with seven alarms, and its lead's cookie."""
    from app.accounts.sessions import cookie_name, open_login
    from app.core.db import new_session
    from app.main import create_app
    from tests.factory import Factory

    with new_session() as db:
        factory = Factory(db)
        project = factory.project()
        run = run_in(factory, project)
        large.record_run(factory, run, tmp_path, steps=(80, 160, 240), scale=7)
        token = open_login(db, factory.member(project, Role.LEAD))
        url = f"/p/{project.slug}/evaluations/{run.id}/diversity"
        db.commit()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        root = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield root + url, {"name": cookie_name("session"), "value": token, "url": root}
        server.should_exit = True
        thread.join()


def _page(context: BrowserContext, url: str, cookie: Any) -> tuple[Page, list[str]]:
    context.add_cookies([cookie])
    page = context.new_page()
    problems = watch(page)
    page.goto(url)
    return page, problems


def _cursor_follows_pointer_and_keys(page: Page) -> None:
    page.wait_for_selector("[data-heat][data-ready]")
    box = page.locator("[data-heat] svg").bounding_box()
    assert box is not None
    tip = page.locator("[data-heat-tip]")
    page.mouse.move(box["x"] + 62 * box["width"] / 1136, box["y"] + 90 * box["height"] / 160)
    tip.wait_for(state="visible")
    assert "Advice" in tip.inner_text()
    page.mouse.move(5, 5)
    tip.wait_for(state="hidden")
    page.focus("[data-heat]")
    page.keyboard.press("ArrowRight")
    said = page.locator("[data-heat-say]")
    first = said.inner_text()
    assert "Advice. Step 240." in first
    page.keyboard.press("ArrowRight")
    assert said.inner_text() != first
    page.keyboard.press("ArrowUp")
    assert "Step 160." in said.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def _alarms_open_their_samples(page: Page) -> None:
    page.keyboard.press("n")
    page.wait_for_selector('#samples h2 >> text="Banking requests, task 1"')
    page.keyboard.press("n")
    page.wait_for_selector("#samples h2 >> text=Creative writing")
    assert "category=Creative+writing" in page.url
    assert "at=240" in page.url
    selected = page.locator(".div-table tr[aria-selected=true]")
    assert selected.count() == 1
    assert "Creative writing" in selected.inner_text()
    page.keyboard.press("Shift+N")
    page.wait_for_selector("#samples h2 >> text=Banking requests")
    page.focus("[data-heat]")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_selector('#samples [aria-current] >> text="160"')
    page.click("#samples a:has-text('Prompt 1')")
    page.wait_for_selector("#samples .note >> text=prompt 1 of 2")


def _search_dims_the_rest(page: Page) -> None:
    page.keyboard.press("/")
    page.keyboard.type("persu")
    veil = page.locator(".hm-veil")
    assert veil.get_attribute("d").count("M") == len(_names(page)) - 2  # type: ignore[union-attr]
    page.keyboard.press("Enter")
    page.wait_for_selector("h2:has-text('Found by “persu”')")
    assert "q=persu" in page.url


def _names(page: Page) -> list[str]:
    names: list[str] = page.evaluate(
        "fetch(document.querySelector('[data-heat]').dataset.cells).then(a => a.json()).then(c => c.names)"
    )
    return names


def test_the_map_answers_and_every_form_of_the_page_is_accessible(address: tuple[str, dict[str, Any]]) -> None:
    url, cookie = address
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["KTO_CHROMIUM"], args=CHROMIUM_FLAGS)
        with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
            page, problems = _page(context, url, cookie)
            _cursor_follows_pointer_and_keys(page)
            _alarms_open_their_samples(page)
            _search_dims_the_rest(page)
            assert problems == []
        for width, scheme, query in (
            (1440, "dark", ""),
            (390, "light", ""),
            (390, "dark", "?domain=Persuasion"),
            (1000, "light", ""),
        ):
            with browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme) as context:  # type: ignore[arg-type]
                page, problems = _page(context, url + query, cookie)
                page.click("details.decide summary >> nth=0")
                assert axe(page) == []
                sideways = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert sideways <= 0, f"{sideways} px at {width}"
                assert problems == []
        browser.close()

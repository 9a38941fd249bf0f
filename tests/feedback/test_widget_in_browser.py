"""The widget and the example of the docs in a real Chromium: pages of two other origins, one of them listed in the key."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy import Engine, text

from tests.browser.conftest import CHROMIUM_FLAGS, axe, until, watch

pytestmark = pytest.mark.browser
DOCS = Path(__file__).resolve().parents[2] / "docs" / "widget.md"


@dataclass
class Site:
    """Pages of another origin, under a strict policy of their own."""

    address: str
    pages: dict[str, tuple[str, str]] = field(default_factory=dict)
    policy: str = ""


@contextmanager
def site() -> Iterator[Site]:
    found = Site("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = found.pages.get(self.path, ("text/plain", ""))
            self.send_response(200)
            self.send_header("Content-Type", kind + "; charset=utf-8")
            self.send_header("Content-Security-Policy", found.policy)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class World:
    studio: str
    listed: Site
    stranger: Site
    engine: Engine
    token: str

    def rows(self) -> list[tuple[Any, ...]]:
        query = "SELECT value, comment, rater, source, is_current, retracted_at IS NOT NULL FROM ratings ORDER BY id"
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]


def _server(studio: socket.socket) -> tuple[uvicorn.Server, threading.Thread]:
    from app.main import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [studio]})
    thread.start()
    while not server.started:
        time.sleep(0.02)
    return server, thread


@pytest.fixture
def world(committed_db: Engine) -> Iterator[World]:
    from app.accounts.keys import create_key
    from app.core.db import new_session
    from app.feedback.widget import snippet
    from tests.factory import Factory

    with site() as listed, site() as stranger, socket.socket() as studio, new_session() as db:
        studio.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{studio.getsockname()[1]}"
        factory = Factory(db)
        project = factory.project()
        factory.completion(project).external_id = "msg-5521"
        factory.completion(project, "Another.").external_id = "msg-2"
        key, token = create_key(db, project, "Shop", kind="publishable", origins=[listed.address])
        page = f"<!doctype html><html lang=en><title>Shop</title><main><h1>Shop</h1>{snippet(key, address)}</main>"
        db.commit()
        for place in listed, stranger:
            place.policy = f"default-src 'none'; script-src 'self' {address}; connect-src {address}"
            place.pages["/"] = ("text/html", page)
        server, thread = _server(studio)
        yield World(address, listed, stranger, committed_db, token)
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=os.environ["KTO_CHROMIUM"], args=CHROMIUM_FLAGS)
        yield started
        started.close()


def _open(browser: Browser, url: str) -> tuple[Page, list[str]]:
    page = browser.new_context(viewport={"width": 390, "height": 600}).new_page()
    page.set_default_timeout(10_000)
    problems = watch(page)
    page.goto(url)
    page.get_by_role("button", name="Thumb up").wait_for()
    return page, problems


def _pressed(page: Page) -> list[str | None]:
    return [page.get_by_role("button", name=name).get_attribute("aria-pressed") for name in ("Thumb up", "Thumb down")]


def test_up_then_down_with_a_comment_then_taken_back(browser: Browser, world: World) -> None:
    page, problems = _open(browser, world.listed.address + "/")
    up, down = page.get_by_role("button", name="Thumb up"), page.get_by_role("button", name="Thumb down")
    assert _pressed(page) == ["false", "false"]
    assert page.get_by_label("Comment").is_hidden()
    up.click()
    expect(page.get_by_role("status")).to_have_text("Saved")
    assert world.rows() == [(True, None, "customer-81", "shop", True, False)]
    down.focus()
    page.keyboard.press("Enter")
    expect(down).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Comment").fill("It was late.")
    with page.expect_response(
        lambda answer: answer.request.method == "PUT" and "late" in (answer.request.post_data or "")
    ):
        page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Saved")
    assert world.rows()[-1] == (False, "It was late.", "customer-81", "shop", True, False)
    assert [row[4] for row in world.rows()].count(True) == 1
    assert axe(page) == []
    box = up.bounding_box()
    assert box is not None
    assert min(box["width"], box["height"]) >= 24
    page.reload()
    expect(page.get_by_role("button", name="Thumb down")).to_have_attribute("aria-pressed", "true")
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        page.get_by_role("button", name="Thumb down").click()
    expect(page.get_by_role("status")).to_have_text("Saved")
    assert _pressed(page) == ["false", "false"]
    assert [row[4] for row in world.rows()].count(True) == 0
    assert world.rows()[-1][5]
    assert problems == []
    page.context.close()


def test_a_page_of_another_origin_is_refused_and_says_so(browser: Browser, world: World) -> None:
    page, problems = _open(browser, world.stranger.address + "/")
    page.get_by_role("button", name="Thumb up").click()
    expect(page.get_by_role("status")).to_have_text("Not saved")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    assert world.rows() == []
    assert any("CORS" in problem or "blocked" in problem for problem in problems)
    page.context.close()


def test_what_was_not_sent_is_kept_and_sent_later(browser: Browser, world: World) -> None:
    page, _ = _open(browser, world.listed.address + "/")
    page.route("**/api/v1/feedback/**", lambda route: route.abort())
    page.get_by_role("button", name="Thumb up").click()
    expect(page.get_by_role("status")).to_have_text("Not saved")
    assert _pressed(page) == ["true", "false"]
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("status")).to_have_text("Not saved")
    assert world.rows() == []
    page.unroute("**/api/v1/feedback/**")
    page.reload()
    expect(page.get_by_role("status")).to_have_text("Saved")
    assert [row[0] for row in world.rows()] == [True]
    page.context.close()


def test_quick_clicks_end_with_the_last_one(browser: Browser, world: World) -> None:
    page, problems = _open(browser, world.listed.address + "/")
    for name in ("Thumb up", "Thumb down", "Thumb up", "Thumb down", "Thumb up"):
        page.get_by_role("button", name=name).click()
    expect(page.get_by_role("status")).to_have_text("Saved")
    until(page, "!Object.values(localStorage).some(value => value.includes('unsent'))")
    assert [row[0] for row in world.rows() if row[4]] == [True]
    assert problems == []
    page.context.close()


def test_in_a_shadow_root_and_for_a_visitor_without_a_name(browser: Browser, world: World) -> None:
    script = f"""
        import {{ watch }} from "{world.studio}/widget/v1.js";
        const root = document.querySelector("main").appendChild(document.createElement("div")).attachShadow({{ mode: "open" }});
        watch(root);
        const row = document.createElement("p");
        row.dataset.ktoCompletion = "msg-2";
        root.append(row);
    """
    world.listed.pages["/shadow.js"] = ("text/javascript", script)
    body = (
        world.listed.pages["/"][1]
        .replace("<div data-kto", "<div data-x")
        .replace("</main>", "</main><script type=module src=/shadow.js></script>")
    )
    world.listed.pages["/shadow"] = ("text/html", body)
    page, problems = _open(browser, world.listed.address + "/shadow")
    page.get_by_role("button", name="Thumb down").click()
    expect(page.get_by_role("status")).to_have_text("Saved")
    ((value, _, rater, *_rest),) = world.rows()
    assert value is False
    assert re.fullmatch(r"web0\.\d+", rater)
    assert problems == []
    page.context.close()


def test_the_example_of_the_docs(browser: Browser, world: World) -> None:
    (code,) = re.findall(r"```js\n(.*?)```", DOCS.read_text(), re.DOTALL)
    page, problems = _open(browser, world.listed.address + "/")
    constants = f'const KTO_ADDRESS = "{world.studio}", KTO_KEY = "{world.token}";'
    sent = page.evaluate(f"async () => {{ {constants}\n{code}\nreturn sendThumb('msg-5521', false); }}")
    assert sent["status"] == "created"
    assert world.rows() == [(False, None, "customer-81", "shop", True, False)]
    assert problems == []
    page.context.close()

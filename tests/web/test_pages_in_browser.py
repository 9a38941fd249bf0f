"""The component sheet in a real Chromium under the product's CSP: no error, no axe violation, no sideways scroll."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.conftest import until
from tests.web.site import site

pytestmark = pytest.mark.browser
AXE = next((Path(__file__).resolve().parents[1] / "vendor").glob("axe-core-*")) / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(site(), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = playwright.chromium.launch(executable_path=os.environ["KTO_CHROMIUM"], args=flags)
        yield chromium
        chromium.close()


def _open(browser: Browser, url: str, *, width: int = 1440, theme: Any = "light") -> tuple[Page, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(url)
    page.wait_for_selector(".plot canvas")
    return page, problems


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_component_sheet(browser: Browser, address: str, theme: str, width: int) -> None:
    page, problems = _open(browser, f"{address}/styleguide", width=width, theme=theme)
    assert problems == []
    assert page.evaluate("document.documentElement.dataset.bsTheme") == theme
    page.evaluate(AXE.read_text())
    result = page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
    assert [(v["id"], v["nodes"][0]["html"]) for v in result["violations"]] == []
    page.close()


@pytest.mark.parametrize("width", [320, 820, 1100, 1200, 1920])
def test_no_sideways_scroll(browser: Browser, address: str, width: int) -> None:
    page, _ = _open(browser, f"{address}/styleguide", width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_a_chosen_theme_is_kept(browser: Browser, address: str) -> None:
    page, problems = _open(browser, f"{address}/styleguide")
    page.click("[data-theme-toggle]")
    page.reload()
    assert page.evaluate("document.documentElement.dataset.bsTheme") == "dark"
    page.click(".menu > summary")
    assert page.get_attribute("[data-theme-set=dark]", "aria-pressed") == "true"
    page.click("[data-theme-set=auto]")
    assert page.evaluate("document.documentElement.dataset.bsTheme") == "light"
    assert problems == []
    page.close()


def test_keys_and_dialogs(browser: Browser, address: str) -> None:
    page, problems = _open(browser, f"{address}/styleguide")
    page.keyboard.press("?")
    assert page.is_visible("#k-keys")
    assert page.inner_text("[data-page-keys]").split("\n")[0] == "On this page"
    page.keyboard.press("Escape")
    assert not page.is_visible("#k-keys")
    page.click("text=Cancel run >> nth=0")
    assert page.evaluate("document.activeElement.textContent") == "Keep as it is"
    page.keyboard.press("Enter")
    assert not page.is_visible("#sheet-cancel")
    page.focus("#f-beta")
    page.keyboard.press("?")
    assert page.input_value("#f-beta").count("?") == 1
    assert not page.is_visible("#k-keys")
    page.evaluate("document.activeElement.blur()")
    with page.expect_navigation(url="**/p/helpdesk/runs"):
        page.keyboard.press("g")
        page.keyboard.press("r")
    assert [p for p in problems if "404" not in p] == []
    page.close()


def test_curves_follow_live_events(browser: Browser, address: str) -> None:
    page, problems = _open(browser, f"{address}/styleguide")
    now = "[data-chart] >> nth=0 >> [data-now]"
    before = page.inner_text(now)
    detail = {"type": "metrics", "data": {"step": 710, "time": 1_790_003_550, "values": {"loss": 9.0}}}
    page.evaluate("detail => document.dispatchEvent(new CustomEvent('k:live', {detail}))", detail)
    until(page, f"document.querySelector('[data-chart] [data-now]').innerText !== {json.dumps(before)}")
    page.fill("[data-smoothing]", "0")
    assert page.inner_text(now) == "9.000"
    page.click("[data-axis=time]")
    assert page.get_attribute("[data-axis=time]", "aria-pressed") == "true"
    assert problems == []
    page.close()


def test_zoom_holds_while_points_arrive(browser: Browser, address: str) -> None:
    page, problems = _open(browser, f"{address}/styleguide")
    box = page.locator(".plot .u-over").first.bounding_box()
    assert box is not None
    page.evaluate(
        "window.ranges = () => window.uPlot.sync('k-charts').plots.map(u => [u.scales.x.min, u.scales.x.max])"
    )
    assert page.evaluate("ranges()[0]") == [0, 1038]
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 20, steps=4)
    page.mouse.up()
    low, high = page.evaluate("ranges()[0]")
    assert 180 < low < high < 440
    detail = {"type": "metrics", "data": {"step": 711, "time": None, "values": {"loss": 0.4}}}
    page.evaluate("detail => document.dispatchEvent(new CustomEvent('k:live', {detail}))", detail)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate("ranges()[0]") == [low, high]
    page.mouse.dblclick(box["x"] + 50, box["y"] + 20)
    assert page.evaluate("ranges()") == [[0, 1038]] * 3
    assert problems == []
    page.close()


def test_live_parts_arrive_by_stream(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}/live/good")
    page.wait_for_selector("#out >> text=part after nothing")
    page.wait_for_selector("[data-live-word] >> text=/reconnecting, last \\d\\d:\\d\\d:\\d\\d/")
    page.wait_for_selector("#out >> text=part after 7")  # the reconnection says what it has seen
    page.close()


def test_live_parts_fall_back_to_polling(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}/live/no-such-stream")
    page.wait_for_selector("#out >> text=polled", timeout=10_000)
    page.wait_for_selector("[data-live-word] >> text=finished", timeout=10_000)
    page.close()


def test_htmx_sends_the_csrf_token_and_errors_have_their_place(browser: Browser, address: str) -> None:
    page = browser.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{address}/live/good")
    page.click("#echo")
    page.wait_for_selector("#answer >> text=token-1")
    page.click("#refuse")
    page.wait_for_selector("#k-errors >> text=Some values do not fit.")
    assert page.inner_text("#answer") == "token-1"
    assert problems == []
    page.close()

"""The product as the demo starts it, in a real Chromium. Any console error or CSP violation fails the test that saw it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
AXE = (ROOT / "tests" / "vendor" / "axe-core-4.14.1" / "axe.min.js").read_text()
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@dataclass
class Product:
    """A started demo: where it is served, what it printed, and its data folder."""

    url: str
    data: Path
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)


def clean_environment() -> dict[str, str]:
    """Without the addresses of the test services: the demo brings its own."""
    own = ("DATABASE_URL", "REDIS_URL")
    return {name: value for name, value in os.environ.items() if name not in own and not name.startswith("KTO_")}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The whole demo, for real: pre-training, feedback, snapshot, run, evaluation, promotion. Minutes, once."""
    # Not below pytest's own folder: the database's system user could not enter that one.
    data = Path(tempfile.mkdtemp(prefix="kto-demo-", dir="/tmp")) / "data"
    data.parent.chmod(0o711)
    if known := os.environ.get(
        "KTO_TEST_MODEL"
    ):  # a demo model of an earlier run: saves its pre-training while writing tests
        shutil.copytree(known, data / "models" / "demo-base")
        data.chmod(0o711)
    port = free_port()
    command = [sys.executable, "-m", "worker.demo.loop", "--port", str(port), "--data", str(data)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    started = Product(f"http://127.0.0.1:{port}", data, process)

    assert process.stdout is not None

    def read() -> None:
        for line in process.stdout or ():
            started.lines.append(line.rstrip())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    deadline = time.monotonic() + 900
    while not re.search(r"Serving at|did not finish", started.output):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail("The demo did not come up:\n" + started.output[-4000:])
        time.sleep(0.2)
    yield started
    process.terminate()
    process.wait(timeout=120)
    reader.join(timeout=10)
    process.stdout.close()
    shutil.rmtree(data.parent, ignore_errors=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module: while it is open, no other test of this process may run an event loop of its own."""
    path = os.environ.get("KTO_CHROMIUM")
    assert path, "KTO_CHROMIUM is not set: run the tests by `make test`"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def owner_state(product: Product) -> Any:
    """Cookies of the demo's owner, signed in through the one-time link that the demo printed."""
    link = re.findall(r"One-time sign-in: (\S+)", product.output)[-1]
    with httpx.Client() as client:
        form = client.get(link)
        found = re.search(r'name="csrf_token" value="([0-9a-f]+)"', form.text)
        assert found, form.text[:500]
        answer = client.post(link, data={"csrf_token": found.group(1)})
        assert answer.status_code == 303, answer.text[:500]
        return [{"name": cookie.name, "value": cookie.value, "url": product.url} for cookie in client.cookies.jar]


def watch(page: Page) -> list[str]:
    """What went wrong in this page's console, as it comes."""
    problems: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            problems.append(f"{page.url}: {message.text}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
    return problems


def until(page: Page, expression: str) -> None:
    """Playwright's own wait evaluates text inside the page, which the CSP forbids."""
    deadline = time.monotonic() + 10
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.02)


def open_context(browser: Browser, product: Product, cookies: list[Any], **options: Any) -> BrowserContext:
    context = browser.new_context(base_url=product.url, **options)
    context.add_cookies(cookies)
    context.set_default_timeout(20_000)
    return context


@pytest.fixture
def page(browser: Browser, product: Product, owner_state: Any) -> Iterator[Page]:
    context = open_context(browser, product, owner_state, viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    problems = watch(opened)
    yield opened
    context.close()
    assert not problems, "console errors: " + "; ".join(problems)


def axe(page: Page) -> list[str]:
    """Serious and critical violations of WCAG 2.0 to 2.2 A and AA. axe comes in by the debugger, so the CSP stays on."""
    page.evaluate(AXE)
    found = page.evaluate(
        "async () => (await axe.run(document, {runOnly: ['wcag2a','wcag2aa','wcag21a','wcag21aa','wcag22aa']})).violations"
        ".filter(v => ['serious','critical'].includes(v.impact))"
        ".map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.target.join(' ') + ' ' + (n.failureSummary || '')).join(' | '))"
    )
    return list(found)

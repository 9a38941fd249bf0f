"""The annotation page in a real Chromium under the product's CSP: keys, undo, offline, a lost lease, swipes, hostile text."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy import Engine, func, select, update

from app.core.clock import utcnow
from app.core.db import session_scope
from app.feedback.queue_fill import default_queue, queue_completions
from app.models import AnnotationSlot, Rating, Role
from tests.browser.conftest import axe, browser, until, watch
from tests.feedback.hostile import HOSTILE

__all__ = ["browser"]
pytestmark = pytest.mark.browser


@dataclass
class Served:
    root: str
    path: str
    cookies: dict[str, Any]

    @property
    def url(self) -> str:
        return self.root + self.path


def furnish(texts: tuple[str, ...], categories: tuple[str, ...] = ("refund timing",)) -> tuple[str, dict[str, str]]:
    from app.accounts.sessions import open_login
    from app.core.db import new_session
    from tests.factory import Factory

    with new_session() as db:
        factory = Factory(db)
        project = factory.project("Helpdesk assistant")
        rows = [
            factory.completion(project, text, prompt=f"Question {n}?", category=categories[n % len(categories)])
            for n, text in enumerate(texts)
        ]
        default_queue(db, project)
        queue_completions(db, project, [row.id for row in rows])
        tokens = {name: open_login(db, factory.member(project, Role.ANNOTATOR, name)) for name in ("Ines", "Omar")}
        path = f"/p/{project.slug}/annotate/main"
        db.commit()
    return path, tokens


@pytest.fixture
def served(committed_db: Engine, request: pytest.FixtureRequest) -> Iterator[Served]:
    from app.accounts.sessions import cookie_name
    from app.main import create_app

    texts = getattr(request, "param", tuple(f"Answer **{n}** to the question." for n in range(30)))
    path, tokens = furnish(texts)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        root = f"http://127.0.0.1:{listener.getsockname()[1]}"
        cookies = {
            name: {"name": cookie_name("session"), "value": token, "url": root} for name, token in tokens.items()
        }
        yield Served(root, path, cookies)
        server.should_exit = True
        thread.join()


def visit(
    browser: Browser, served: Served, who: str = "Ines", **options: Any
) -> tuple[BrowserContext, Page, list[str]]:
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    context.set_default_timeout(10_000)
    context.add_cookies([served.cookies[who]])
    page = context.new_page()
    problems = watch(page)
    page.goto(served.url)
    expect(page.locator("#item [data-slot]")).to_have_count(1)
    return context, page, problems


def slot_on(page: Page) -> str:
    return page.locator("#item [data-slot]").get_attribute("data-slot") or ""


def press(page: Page, key: str, *, more: bool = True) -> str:
    """Presses and waits for the next item; returns the slot that was judged. ``more``: there is a next one."""
    before = slot_on(page)
    page.keyboard.press(key)
    expect(page.locator(f'#item [data-slot="{before}"]')).to_have_count(0)
    if more:
        expect(page.locator("#item [data-slot]")).to_have_count(1)
    return before


def settled(page: Page) -> None:
    until(page, "!Object.keys(localStorage).some((key) => key.startsWith('kto-outbox'))")


NEXT_IS_THERE = "document.getElementById('next').content.children.length === 1"


def verdicts() -> list[tuple[bool, list[Any], str | None]]:
    with session_scope() as db:
        query = select(Rating.value, Rating.reasons, Rating.comment).where(Rating.is_current).order_by(Rating.id)
        return [tuple(row) for row in db.execute(query)]


def test_keys_undo_and_reload(browser: Browser, served: Served) -> None:
    context, page, problems = visit(browser, served)
    press(page, "j")
    page.keyboard.press("1")
    page.keyboard.press("4")
    page.keyboard.press("c")
    page.keyboard.type("jfz")
    page.keyboard.press("Enter")
    press(page, "f")
    page.keyboard.press("2")
    press(page, "Space")
    last = press(page, "ArrowRight")
    settled(page)
    assert verdicts() == [(True, [], None), (False, ["wrong_fact", "tone"], "jfz"), (True, [], None)]
    assert "4 of 30" in page.locator("#progress").inner_text()
    page.reload()
    expect(page.locator("#history li")).to_have_count(4)
    assert "4 today" in page.locator("#pace").inner_text()
    page.keyboard.press("z")
    expect(page.locator(f'#item [data-slot="{last}"]')).to_have_count(1)
    for _ in range(3):
        before = slot_on(page)
        page.keyboard.press("z")
        expect(page.locator(f'#item [data-slot="{before}"]')).to_have_count(0)
    page.keyboard.press("z")
    expect(page.locator("#saved")).to_have_text("There is nothing to undo.")
    assert verdicts() == []
    with session_scope() as db:
        assert db.scalar(select(func.count(AnnotationSlot.done_at))) == 0
        assert db.scalar(select(func.count()).select_from(Rating)) == 3, "the history stays"
    page.keyboard.press("i")
    expect(page.locator("dialog#instructions")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#k-keys")).to_contain_text("Undesirable")
    page.keyboard.press("Escape")
    assert axe(page) == []
    context.close()
    assert not problems


def test_leaving_gives_the_items_back(browser: Browser, served: Served) -> None:
    context, page, _ = visit(browser, served)
    press(page, "j")
    settled(page)
    page.goto(served.root + "/projects")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with session_scope() as db:
            if db.scalar(select(func.count(AnnotationSlot.claimed_by))) == 0:
                break
        time.sleep(0.05)
    else:
        pytest.fail("still claimed")
    context.close()


def test_offline_is_kept_and_sent_once(browser: Browser, served: Served) -> None:
    context, page, _ = visit(browser, served)
    settled(page)
    until(page, NEXT_IS_THERE)
    context.set_offline(True)
    press(page, "j")
    press(page, "f", more=False)
    expect(page.locator("#waiting")).to_contain_text("2 kept on this device")
    assert verdicts() == []
    context.set_offline(False)
    settled(page)
    expect(page.locator("#waiting")).to_be_hidden()
    assert [value for value, _, _ in verdicts()] == [True, False]
    expect(page.locator("#item [data-slot]")).to_have_count(1)
    context.close()


def test_a_verdict_whose_answer_was_lost_counts_once(browser: Browser, served: Served) -> None:
    context, page, _ = visit(browser, served)
    lost = {"number": 0}

    def lose(route: Any) -> None:
        lost["number"] += 1
        if lost["number"] == 1:
            route.fetch()  # the server has it, the page never hears
            route.abort()
        else:
            route.continue_()

    page.route("**/verdict", lose)
    press(page, "j")
    settled(page)
    assert lost["number"] == 2
    assert [value for value, _, _ in verdicts()] == [True]
    context.close()


def test_a_lost_lease(browser: Browser, served: Served) -> None:
    context, page, _ = visit(browser, served)
    until(page, NEXT_IS_THERE)
    slot = slot_on(page)
    with session_scope() as db:
        db.execute(update(AnnotationSlot).values(claimed_until=utcnow(), claimed_by=None))
        other = db.scalar(select(AnnotationSlot.id).where(AnnotationSlot.id == int(slot)))
        assert other is not None
    theirs, second, _ = visit(browser, served, "Omar")
    assert slot_on(second) == slot
    press(page, "j")
    expect(page.locator("#saved")).to_have_text("Someone else has this one now. Next.")
    expect(page.locator("#item [data-slot]")).to_have_count(1)
    assert slot_on(page) != slot
    settled(page)
    assert verdicts() == []
    context.close()
    theirs.close()


def test_own_keys(browser: Browser, served: Served) -> None:
    context, page, problems = visit(browser, served)
    page.goto(served.root + "/account/keys")
    page.fill('[name="up"]', "d")
    page.fill('[name="down"]', "d")
    page.get_by_role("button", name="Save the keys").click()
    expect(page.locator("main")).to_contain_text("two actions have this key")
    page.fill('[name="down"]', "a")
    page.get_by_role("button", name="Save the keys").click()
    expect(page.locator("#toasts")).to_contain_text("Keys saved.")
    page.goto(served.url)
    press(page, "d")
    press(page, "a")
    settled(page)
    assert [value for value, _, _ in verdicts()] == [True, False]
    before = slot_on(page)
    page.keyboard.press("j")
    assert slot_on(page) == before
    page.goto(served.root + "/account/keys")
    page.uncheck('[name="single_keys"]')
    page.get_by_role("button", name="Save the keys").click()
    expect(page.locator("#toasts")).to_contain_text("Keys saved.")
    page.goto(served.url)
    expect(page.locator("#item [data-slot]")).to_have_count(1)
    before = slot_on(page)
    page.keyboard.press("d")
    assert slot_on(page) == before
    context.close()
    assert not [text for text in problems if "422" not in text]


SWIPE = """([from, to, back]) => {
  const target = document.querySelector('#item .completion-block');
  const at = (x) => new Touch({identifier: 1, target, clientX: x, clientY: 300});
  const fire = (kind, x) => target.dispatchEvent(new TouchEvent(kind, {bubbles: true,
    touches: kind === 'touchend' ? [] : [at(x)], changedTouches: [at(x)]}));
  fire('touchstart', from); fire('touchmove', to);
  const side = document.getElementById('swipe').className + ' ' + document.getElementById('swipe').dataset.side;
  if (back !== null) fire('touchmove', back);
  fire('touchend', back ?? to);
  return side;
}"""


def test_swipes_on_a_phone(browser: Browser, served: Served) -> None:
    context, page, problems = visit(browser, served, viewport={"width": 390, "height": 844}, has_touch=True)
    before = slot_on(page)
    assert page.evaluate(SWIPE, [100, 300, 110]).endswith("decides des")
    assert slot_on(page) == before, "moved back: cancelled"
    assert page.evaluate(SWIPE, [100, 150, None]).endswith(" des")
    assert slot_on(page) == before, "too short"
    page.evaluate(SWIPE, [100, 300, None])
    expect(page.locator(f'#item [data-slot="{before}"]')).to_have_count(0)
    page.evaluate(SWIPE, [300, 100, None])
    settled(page)
    assert [value for value, _, _ in verdicts()] == [True, False]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
    assert not problems


@pytest.mark.parametrize("served", [HOSTILE], indirect=True)
def test_hostile_text_stays_inert(browser: Browser, served: Served) -> None:
    context, page, problems = visit(browser, served, viewport={"width": 390, "height": 844})
    strangers: list[str] = []
    page.on("request", lambda made: None if made.url.startswith(served.root) else strangers.append(made.url))
    for number in range(len(HOSTILE)):
        found = page.evaluate(
            """() => ({hacked: window.hacked ?? null, wide: document.documentElement.scrollWidth,
            slots: document.querySelectorAll('[data-slot]').length, forms: document.querySelectorAll('#verdict-form').length,
            hooks: document.querySelectorAll('.model-text :is([data-key], [data-dialog], [data-slot], [hx-get], [hx-post], [id],'
              + '[name], [style], [onclick], script, style, iframe, img, form, button, link, base, svg)').length,
            overlap: document.querySelector('.verdict').getBoundingClientRect().bottom <= innerHeight})"""
        )
        assert found == {"hacked": None, "wide": 390, "slots": 1, "forms": 1, "hooks": 0, "overlap": True}, number
        press(page, "j", more=number < len(HOSTILE) - 1)
        settled(page)
    expect(page.locator("#item")).to_contain_text("Nothing left for you here.")
    assert len(verdicts()) == len(HOSTILE)
    assert strangers == []
    context.close()
    assert not problems

"""The path of a lead in a real browser: import, label by keyboard, freeze, launch, watch, evaluate, promote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Product

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PROJECT = "/p/demo-assistant"


def test_the_demo_told_its_story(product: Product) -> None:
    assert "Done in" in product.output
    assert re.search(r"Version 1 \(step \d+\)", product.output)
    shares = [int(share) for share in re.findall(r"Desirable share of sampled completions \w+: (\d+)%", product.output)]
    assert len(shares) == 2
    before, after = shares
    assert after >= before + 15, "alignment visibly changes behaviour"


def test_the_link_serves_once(product: Product, page: Page) -> None:
    used = re.findall(r"One-time sign-in: (\S+)", product.output)[-1]
    answer = page.context.request.get(used)
    assert answer.status in (404, 410)


def test_import_label_freeze_launch_watch_evaluate_promote(page: Page, tmp_path: Path) -> None:
    source = tmp_path / "more.jsonl"
    rows = [
        {
            "prompt": f"Name something to do on day {number}.",
            "completion": f"Walk {number} miles. That is all I can say.",
            "category": "days",
            **({"label": number % 2 == 0} if number < 8 else {}),
        }
        for number in range(20)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + "not json\n")

    page.goto(f"{PROJECT}/sources/import")
    page.set_input_files("input[type=file]", source)
    page.get_by_role("button", name="Upload and look").click()
    page.get_by_role("button", name="Start the import").click()
    expect(page.get_by_text(re.compile(r"21")).first).to_be_visible()
    expect(page.locator("main")).to_contain_text("20")

    label_ten(page)

    page.goto(f"{PROJECT}/readiness")
    page.get_by_role("button", name="Freeze a snapshot").first.click()
    page.wait_for_url(f"**{PROJECT}/snapshots/*")

    page.get_by_role("link", name="Launch run").click()
    page.wait_for_url("**/runs/new?**")
    launch(page)
    watch(page)
    run_url = page.url

    page.goto(run_url.replace("/runs/", "/evaluations/"))
    expect(page.locator("svg[role=img]").first).to_be_visible()

    page.goto(run_url)
    page.get_by_role("button", name="Make a version").first.click()
    page.wait_for_url(re.compile(f"{PROJECT}/versions"))
    promote(page)


def label_ten(page: Page) -> None:
    page.goto(f"{PROJECT}/annotate")
    page.wait_for_url(f"**{PROJECT}/annotate/*")
    seen = set()
    for number in range(10):
        shown = page.locator("[data-slot]").first
        slot = shown.get_attribute("data-slot")
        assert slot not in seen, "the same item twice"
        seen.add(slot)
        page.keyboard.press("j" if number % 2 else "f")
        expect(page.locator(f'[data-slot="{slot}"]')).to_have_count(0)
    page.keyboard.press("z")
    expect(page.locator(f'[data-slot="{slot}"]')).to_have_count(1)
    page.keyboard.press("j")
    expect(page.locator(f'[data-slot="{slot}"]')).to_have_count(0)


def launch(page: Page) -> None:
    for name, value in {
        "max_steps": "6",
        "interval_steps": "3",
        "learning_rate": "0.001",
        "max_new_tokens": "16",
        "samples_per_prompt": "2",
        "prompts_per_category": "1",
    }.items():
        field = page.locator(f'[name="{name}"]')
        field.evaluate("node => { const box = node.closest('details'); if (box) box.open = true; }")
        field.fill(value)
    page.get_by_role("button", name=re.compile("^Launch")).first.click()
    page.wait_for_url(re.compile(rf"{PROJECT}/runs/\d+$"))


def watch(page: Page) -> None:
    """Curves and state come by the event stream; a reload in the middle loses nothing."""
    page.reload()
    expect(page.locator("main .state").first).to_contain_text("succeeded", timeout=180_000)
    expect(page.locator(".u-wrap, .uplot").first).to_be_visible()


def promote(page: Page) -> None:
    """By the lead alone; where a gate fails, by asking the project's other lead."""
    button = re.compile("^(Promote|Ask) to ")
    form = page.locator("form", has=page.get_by_role("button", name=button)).first
    reason = form.locator("[name=reason]")
    if reason.count():
        reason.first.fill("Looked at the samples; fine for a trial.")
    form.get_by_role("button", name=button).first.click()
    expect(page.locator("main")).to_contain_text(re.compile(r"v\d+ is in production|You asked for v\d+"))

from __future__ import annotations

import re

import pytest

from app.web.markdown import render_markdown

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:x)",
    "![x](javascript:alert(1))",
    '![x" onerror="alert(1)](http://e.x/"onerror=alert(1))',
    "<svg onload=alert(1)>",
    '<div hx-get="/admin" hx-trigger="load">x</div>',
    '<span style="position:fixed">x</span>',
    "<style>body{display:none}</style>",
    '<iframe src="//e.x"></iframe>',
    '[x](http://e.x "onmouseover=alert(1)")',
    '```"><script>alert(1)</script>\ncode\n```',
    "```html\n<script>alert(1)</script>\n```",
    "| a |\n|---|\n| <b onclick=alert(1)>x</b> |",
    '<form action="/logout" method="post"><button>x</button></form>',
    '<div data-hx-post="/p/x" data-dialog="y" data-key="j">x</div>',
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "[ref]\n\n[ref]: javascript:alert(1)",
    '<http://e.x/"onclick=alert(1)>',
]
ALLOWED = {"href", "title", "rel", "target", "dir", "start", "class", "tabindex"}


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_of_a_model_runs(text: str) -> None:
    html = str(render_markdown(text))
    for tag in re.findall(r"<[a-z][^>]*>", html):
        name = re.match(r"<([a-z0-9]+)", tag)
        assert name is not None
        assert name[1] not in {"script", "img", "svg", "style", "iframe", "form", "button", "math", "input"}
        attributes = dict(re.findall(r'\s([a-z:-]+)="([^"]*)"', tag))
        assert set(attributes) <= ALLOWED
        assert re.match(r"(https?:|mailto:|[^:]*$)", attributes.get("href", ""))


def test_links_give_nothing_away() -> None:
    assert (
        render_markdown("[a](https://e.x/b)")
        == '<p dir="auto"><a href="https://e.x/b" target="_blank" rel="nofollow noopener noreferrer">a</a></p>\n'
    )


def test_images_become_links() -> None:
    html = render_markdown("![a cat](https://e.x/cat.png)")
    assert "<img" not in html
    assert '<a href="https://e.x/cat.png" target="_blank" rel="nofollow noopener noreferrer">a cat</a>' in html


def test_code_is_coloured_by_classes_only() -> None:
    html = render_markdown("```python\nreturn 1\n```")
    assert '<span class="hl-k">return</span>' in html
    assert "style" not in html
    assert "<pre" in html
    assert "hl-" not in render_markdown("```nosuchlanguage\nreturn 1\n```")
    assert "hl-" not in render_markdown("```python\n" + "x = 1\n" * 5000 + "```")


def test_headings_start_below_those_of_the_page() -> None:
    assert render_markdown("# One\n\n##### Five") == '<h3 dir="auto">One</h3><h6 dir="auto">Five</h6>'


def test_nothing_is_nothing() -> None:
    assert render_markdown(None) == ""
    assert render_markdown("2 < 3 & **bold**") == '<p dir="auto">2 &lt; 3 &amp; <strong>bold</strong></p>\n'

"""Model text to safe HTML: Markdown, cleaned by an allow-list, code coloured by classes. A model can write anything; none of it runs."""

from __future__ import annotations

from functools import lru_cache

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

_MAX_HIGHLIGHT = 20_000  # characters; a longer block stays plain, so that no page waits for a lexer

_TAGS = {
    "a", "blockquote", "br", "code", "del", "div", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "span",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}, "span": {"class"}, "div": {"class"}}


def _highlight(code: str, language: str, _attributes: str) -> str:
    if not language or len(code) > _MAX_HIGHLIGHT:
        return ""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        return ""
    return f"<pre><code>{highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix='hl-'))}</code></pre>"


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "highlight": _highlight}).enable(
        ["table", "strikethrough"]
    )

    def image(tokens: list, index: int, _options: object, _env: object) -> str:  # type: ignore[type-arg]
        """An image is never loaded (it would tell a stranger who reads what): a link with its words instead."""
        token = tokens[index]
        source, words = str(token.attrs.get("src", "")), token.content or "image"
        return f'<a href="{escape(source)}">{escape(words)}</a>'

    def heading(tokens: list, index: int, _options: object, _env: object) -> str:  # type: ignore[type-arg]
        """Headings of a text begin below those of the page."""
        token = tokens[index]
        level = min(int(token.tag[1]) + 2, 6)
        return f"<{'/' if token.nesting < 0 else ''}h{level}>"

    rules = {"image": image, "heading_open": heading, "heading_close": heading}
    for name, rule in rules.items():
        parser.add_render_rule(name, lambda _self, *arguments, rule=rule: rule(*arguments))
    return parser


def _only_highlight(tag: str, attribute: str, value: str) -> str | None:
    if attribute == "class":
        return value if tag == "span" and all(name.startswith("hl-") for name in value.split()) else None
    return value


def render_markdown(text: str | None) -> Markup:
    """Safe HTML for ``text``. Put it into an element with ``hx-ignore`` (macro ``answer``)."""
    clean = nh3.clean(
        _parser().render(text or ""),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_only_highlight,
        url_schemes={"http", "https", "mailto"},
        set_tag_attribute_values={"pre": {"tabindex": "0"}},  # a long line scrolls: reachable by keyboard
        link_rel="nofollow noopener noreferrer",
    )
    return Markup(clean)  # noqa: S704 - nh3 has cleaned it

"""Model text to safe HTML: Markdown, cleaned by an allow-list, code coloured by classes. A model can write anything; none of it runs."""

from __future__ import annotations

import re
from functools import lru_cache

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

_MAX_HIGHLIGHT = 20_000  # characters; a longer block stays plain, so that no page waits for a lexer
MAX_MARKDOWN = 100_000
"""Characters; a longer text is shown as it is, so that no page waits for the parser."""
MAX_SHOWN = 500_000
LONG_LINES, LONG_CHARS = 60, 6000
_MAX_MARKS = 6
"""Combining characters in a row: no script stacks more, and more would paint over the lines around."""
_ACCENTS = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_MARKS = re.compile(f"({_ACCENTS}{{{_MAX_MARKS}}}){_ACCENTS}+")
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)

_TAGS = {
    "a", "blockquote", "br", "code", "del", "div", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "span",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}, "span": {"class"}, "div": {"class"}}
_FIXED = {
    "a": {"target": "_blank"},  # a click must not leave an item half judged
    "pre": {"tabindex": "0"},  # a long line scrolls: reachable by keyboard
    "table": {"tabindex": "0"},
    **{tag: {"dir": "auto"} for tag in ("p", "ul", "ol", "li", "h3", "h4", "h5", "h6", "td", "th")},
}


def visible(text: str | None) -> str:
    """Control characters, what turns the direction of writing and what takes no room, by their number; piles of accents cut."""
    clean = (text or "").replace("\r\n", "\n")
    if clean.isascii() and clean.isprintable():
        return clean
    clean = _UNSEEN.sub(lambda found: f"\u27e6U+{ord(found[0]):04X}\u27e7", clean)
    return _MARKS.sub("\\1\u27e6more accents\u27e7", clean)


def is_long(text: str | None) -> bool:
    """Whether a page folds it."""
    return text is not None and (len(text) > LONG_CHARS or text.count("\n") >= LONG_LINES)


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
    shown = visible(text)
    if len(shown) > MAX_MARKDOWN:
        cut = f"\n\n… {len(shown) - MAX_SHOWN:,} more characters" if len(shown) > MAX_SHOWN else ""
        return Markup('<pre tabindex="0" class="plain-text" dir="auto">{}</pre>').format(shown[:MAX_SHOWN] + cut)
    clean = nh3.clean(
        _parser().render(shown),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_only_highlight,
        url_schemes={"http", "https", "mailto"},
        set_tag_attribute_values=_FIXED,
        link_rel="nofollow noopener noreferrer",
    )
    return Markup(clean)  # noqa: S704 - nh3 has cleaned it

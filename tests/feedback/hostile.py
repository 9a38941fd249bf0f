"""Completions that try to break out of the page, or to break it."""

from __future__ import annotations

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><svg onload='window.hacked = 1'>",
    "[click](javascript:window.hacked=1) ![pixel](http://evil.example/p.png) <iframe src='http://evil.example'></iframe>",
    '<button hx-get="http://evil.example/x" hx-trigger="load" data-key="j">Vote</button> <div hx-post="/logout" hx-trigger="load"></div>',
    '<form id="verdict-form" action="/logout"><input name="slot" value="1"></form><div data-slot="999999" data-dialog="k-keys">Forged</div>',
    "```html\n<script>window.hacked = 1</script>\n```\n\n`<b onclick=x>`",
    '<style>body { display: none }</style><link rel="stylesheet" href="http://evil.example/x.css"><base href="http://evil.example/">',
    "Right\u202eto left\u2066 override\u0007 bell\u200b zero\u00ad\ufeff",
    "Z" + "\u0301\u0338\u20e3" * 200 + " zalgo",
    ">" * 3000 + " deep",
    "- " * 2000 + "deep list",
    "[" * 10_000,
    "W" * 60_000,
    "| " + "column | " * 60 + "\n|" + "---|" * 60 + "\n| " + "cell | " * 60,
    "<" * 20_000,
    "\n" * 5_000 + "far below",
    "<x-" * 5_000 + "<!--" * 1_000 + "&#x202e;&lt;script&gt;",
    "{{ 7 * 7 }} {% raw %} ${7*7} #{7*7}",
    '"><script>window.hacked = 1</script><a title="',
)

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.web import formats

NOW = datetime(2026, 11, 23, 14, 0, tzinfo=UTC)  # a Monday


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (39482, None, "39,482"),
        (-3, None, "\u22123"),
        (0.7412, None, "0.741"),
        (2.0, None, "2"),
        (1.5, 2, "1.50"),
        (None, 1, "\u2013"),
    ],
)
def test_num(value: float | None, digits: int | None, shown: str) -> None:
    assert formats.num(value, digits) == shown


def test_pct() -> None:
    assert formats.pct(0.66) == "66.0\u00a0%"
    assert formats.pct(None) == "\u2013"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0112, "+0.011"), (-0.0112, "\u22120.011"), (0.0, "0.000"), (-0.0001, "0.000"), (1234.5, "+1,234.500")],
)
def test_signed(value: float, shown: str) -> None:
    assert formats.signed(value) == shown


def test_interval() -> None:
    assert formats.interval(0.722, 0.759) == "0.722\u20130.759"
    assert formats.interval(-0.02, 0.03, 2) == "\u22120.02\u00a0to\u00a00.03"
    assert formats.interval(None, 1) == "\u2013"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (45, "45 s"),
        (59.6, "1 min"),
        (720, "12 min"),
        (3599, "1 h 00"),
        (6420, "1 h 47"),
        (86400 * 3 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_duration(seconds: float, shown: str) -> None:
    assert formats.duration(seconds).replace("\u00a0", " ") == shown


@pytest.mark.parametrize(
    ("before", "shown"),
    [
        (timedelta(seconds=5), "just now"),
        (timedelta(minutes=12), "12 min ago"),
        (timedelta(hours=1, minutes=6), "1 h 06 ago"),
        (timedelta(hours=22), "yesterday"),
        (timedelta(days=3), "Friday"),
        (timedelta(days=11), "12 Nov 2026"),
    ],
)
def test_since(before: timedelta, shown: str) -> None:
    assert formats.since(NOW - before, NOW).replace("\u00a0", " ") == shown


def test_ago_carries_the_exact_instant_in_utc() -> None:
    moment = datetime(2020, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))
    html = formats.ago(moment)
    assert html == '<time datetime="2020-01-02T02:04:05+00:00" title="2 Jan 2020, 02:04:05 UTC">2 Jan 2020</time>'


def test_sizes_and_words() -> None:
    assert formats.filesize(167_000_000) == "167\u00a0MB"
    assert formats.filesize(999) == "999\u00a0B"
    assert formats.filesize(16_400_000_000) == "16.4\u00a0GB"
    assert formats.gib(2**30 * 1.5) == "1.5"
    assert formats.plural(1, "run") == "1 run"
    assert formats.plural(1214, "category", "categories") == "1,214 categories"
    assert formats.short("9f3c1ae4bb") == "9f3c1ae4"


def test_codes_marks_commands_and_escapes_the_rest() -> None:
    assert formats.codes("Start `kto up` <now>.") == "Start <code>kto up</code> &lt;now&gt;."
    assert formats.codes(None) == ""

"""Figures and times in the product's voice: 39,482 · 66.0 % · +3.7 · 1 h 47 · real minus sign. ``None`` is a dash."""

from __future__ import annotations

from datetime import UTC, datetime

from markupsafe import Markup, escape

DASH = "\u2013"
MINUS = "\u2212"
_NBSP = "\u00a0"


def num(value: float | None, digits: int | None = None) -> str:
    """39,482; with ``digits`` that many decimals. Floats without ``digits`` keep up to three."""
    if value is None:
        return DASH
    if digits is None:
        digits = 0 if isinstance(value, int) or float(value).is_integer() else 3
    return f"{value:,.{digits}f}".replace("-", MINUS)


def pct(share: float | None, digits: int = 1) -> str:
    """A share of 1 as "66.0 %"."""
    return DASH if share is None else f"{num(share * 100, digits)}{_NBSP}%"


def signed(value: float | None, digits: int = 3) -> str:
    """With its sign: "+0.011", "-0.011" (a real minus sign), "0.000"."""
    if value is None:
        return DASH
    text = num(value, digits)
    if float(text.replace(MINUS, "-").replace(",", "")) == 0:
        return text.removeprefix(MINUS)
    return text if text.startswith(MINUS) else f"+{text}"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """Two figures with an en dash between; with "to" where a minus sign would make the dash unreadable."""
    if low is None or high is None:
        return DASH
    between = f"{_NBSP}to{_NBSP}" if low < 0 else DASH
    return f"{num(low, digits)}{between}{num(high, digits)}"


def duration(seconds: float | None) -> str:
    """As "45 s", "12 min", "1 h 47", "3 d 4 h"."""
    if seconds is None:
        return DASH
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_NBSP}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes}{_NBSP}min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}{_NBSP}h{_NBSP}{minutes:02d}"
    days, hours = divmod(hours, 24)
    return f"{days}{_NBSP}d{_NBSP}{hours}{_NBSP}h"


def filesize(num_bytes: float | None) -> str:
    """Decimal units below a terabyte: "167 MB"."""
    if num_bytes is None:
        return DASH
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            return f"{num(num_bytes, 1 if unit == 'GB' else 0)}{_NBSP}{unit}"
        num_bytes /= 1000
    raise AssertionError


def gib(num_bytes: float | None, digits: int = 1) -> str:
    """Device memory in GiB, without the unit: "46.1"."""
    return DASH if num_bytes is None else num(num_bytes / 2**30, digits)


def exact(moment: datetime | None) -> str:
    """As "23 Nov 2026, 14:01:07 UTC"."""
    return DASH if moment is None else f"{moment.astimezone(UTC):%-d %b %Y, %H:%M:%S} UTC"


def day(moment: datetime | None) -> str:
    return DASH if moment is None else f"{moment.astimezone(UTC):%-d %b %Y}"


def clock(moment: datetime | None) -> str:
    return DASH if moment is None else f"{moment.astimezone(UTC):%H:%M}"


def since(moment: datetime, now: datetime | None = None) -> str:
    """Words for a past instant: "just now", "12 min ago", "yesterday", "Friday", "12 Nov 2026"."""
    now = now or datetime.now(UTC)
    seconds = (now - moment).total_seconds()
    if seconds < 45:
        return "just now"
    if seconds < 20 * 3600:
        return f"{duration(seconds)} ago"
    days = (now.astimezone(UTC).date() - moment.astimezone(UTC).date()).days
    if days <= 1:
        return "yesterday" if days else f"{duration(seconds)} ago"
    return f"{moment.astimezone(UTC):%A}" if days < 7 else day(moment)


def ago(moment: datetime | None) -> str:
    """A ``<time>`` element: relative words, the exact instant on hover."""
    if moment is None:
        return DASH
    template = Markup('<time datetime="{}" title="{}">{}</time>')
    return template.format(moment.astimezone(UTC).isoformat(timespec="seconds"), exact(moment), since(moment))


def plural(count: int, one: str, many: str | None = None) -> str:
    """As "1 run", "1,214 runs"."""
    return f"{num(count)} {one if count == 1 else many or one + 's'}"


def short(text: str | None, length: int = 8) -> str:
    """The first characters of a hash."""
    return text[:length] if text else DASH


def codes(text: str | None) -> Markup:
    """The text escaped, what stands between backticks as ``<code>``."""
    parts = str(escape(text or "")).split("`")
    return Markup("".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts)))  # noqa: S704 - escaped above


OBJECTIVES = {"kto": "KTO", "apo_zero_unpaired": "APO-zero", "dpo": "DPO", "sft": "SFT"}


def objective(name: str) -> str:
    """What a run optimises, in few letters: "KTO"; a name that is not known stays as it is."""
    return OBJECTIVES.get(name, name)


FILTERS = {
    "objective": objective,
    "codes": codes,
    "num": num,
    "pct": pct,
    "signed": signed,
    "duration": duration,
    "filesize": filesize,
    "gib": gib,
    "exact": exact,
    "day": day,
    "clock": clock,
    "ago": ago,
    "plural": plural,
    "short": short,
}

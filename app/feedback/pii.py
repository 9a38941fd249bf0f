"""Personal data in what comes in: found by form and checksum, counted, or replaced before the text is hashed and stored.

E-mail addresses, phone numbers and payment cards by default; IBANs, network addresses, social security numbers and secrets where
a project asks for them. Names and street addresses have no form: they are not found. Ids (rater, conversation, external id)
stay as they are: feedback is joined by them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import phonenumbers

from app.feedback.schemas import FeedbackItem, Thumb
from app.models import Project
from worker.alignment.evaluation.suites import pii as forms
from worker.alignment.evaluation.suites.pii import Finding

Item = TypeVar("Item", FeedbackItem, Thumb)

MODES = ("off", "flag", "redact")
KINDS = ("email", "phone", "card", "iban", "ip", "ssn", "secret")
DEFAULT_KINDS = ("email", "phone", "card")
DEFAULT_MODE = "flag"
DEFAULT_REGIONS = ("US",)
FIELDS = ("prompt", "completion", "correction", "comment", "metadata")
"""Of an item; each holds strings at some depth."""

_MAX_LOOKED_UP = 50
"""Candidates of one text that the phone library judges (some 0.1 ms each); in what follows them the plain forms decide."""
_MAX_WINDOW = 60
"""Characters: longer runs of digits are tables; the plain forms decide in them too."""
_NUMBER = re.compile(r"[0-9](?:[ ()./\u00a0\u2010\u2011\u2013-]{0,4}[0-9]){6,}")
_LOCAL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_FILE_ENDINGS = frozenset(
    [
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "pdf",
        "js",
        "ts",
        "tsx",
        "css",
        "html",
        "json",
        "md",
        "py",
        "txt",
        "xml",
        "yml",
        "yaml",
        "zip",
    ]
)
_DIGIT = re.compile("[0-9]")
_CARD = re.compile(
    r"(?:4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|(?:222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}|62\d{14,17}|5[0678]\d{11,17})$"
)
"""Issuers' numbers and lengths: Visa, Mastercard (both ranges), American Express, Diners, Discover, JCB, UnionPay, Maestro."""
_CARD_GROUPS = ((4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (6, 13))


@dataclass(frozen=True, slots=True)
class Policy:
    """What a project looks for and what it does with it."""

    mode: str = DEFAULT_MODE
    kinds: frozenset[str] = frozenset(DEFAULT_KINDS)
    regions: tuple[str, ...] = DEFAULT_REGIONS
    """Countries (ISO 3166) as from which a phone number without country code is read."""


def policy_of(project: Project) -> Policy:
    """The project's ``privacy`` settings, checked when they were saved; what is not set has its default."""
    section: Mapping[str, Any] = (project.settings or {}).get("privacy", {})
    if not section:
        return _DEFAULT
    return Policy(
        section.get("mode", DEFAULT_MODE),
        frozenset(section.get("kinds", DEFAULT_KINDS)),
        tuple(section.get("regions", DEFAULT_REGIONS)),
    )


_DEFAULT = Policy()


def screen(project: Project, item: Item) -> tuple[Item, dict[str, int] | None]:
    """The item as it may be stored, and how much was found by kind; None: not looked for.

    Where the project redacts, ``[email]`` stands for an e-mail address and so on, so that hashes are those of the stored text.
    """
    values = {field: getattr(item, field, None) for field in FIELDS}
    changed, counts = screen_values(policy_of(project), values)
    return (item.model_copy(update=changed) if changed else item), counts


def screen_values(policy: Policy, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int] | None]:
    """The values that are to be stored otherwise than they came (none unless the policy redacts), and the counts."""
    if policy.mode == "off":
        return {}, None
    counts: dict[str, int] = {}
    redacting = policy.mode == "redact"

    def seen(text: str) -> str:
        findings = find(text, policy.kinds, policy.regions)
        for finding in findings:
            counts[finding.kind] = counts.get(finding.kind, 0) + 1
        return replaced(text, findings) if redacting and findings else text

    changed = {}
    for field, value in values.items():
        if value is not None and (fresh := _mapped(value, seen)) is not value:
            changed[field] = fresh
    return changed, counts


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """``value`` with every string in it changed; the same object where none was."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        items = [_mapped(item, change) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    if isinstance(value, dict):
        fresh = {key: _member(key, inner, change) for key, inner in value.items()}
        return value if all(fresh[key] is value[key] for key in value) else fresh
    return value


def _member(key: str, value: Any, change: Callable[[str], str]) -> Any:
    """A tool call's arguments are JSON in a string and stay JSON: a number that was found becomes a string."""
    fresh = _mapped(value, change)
    if key != "arguments" or fresh is value or not isinstance(value, str):
        return fresh
    try:
        json.loads(fresh)
    except ValueError:
        try:
            parsed = json.loads(value, parse_int=str, parse_float=str)
        except ValueError:
            return fresh
        return json.dumps(_mapped(parsed, change), ensure_ascii=False)
    return fresh


def replaced(text: str, findings: Collection[Finding]) -> str:
    """The text with ``[kind]`` in place of each finding."""
    pieces, at = [], 0
    for finding in findings:
        pieces += [text[at : finding.start], f"[{finding.kind}]"]
        at = finding.end
    return "".join([*pieces, text[at:]])


def find(
    text: str, kinds: Collection[str] = DEFAULT_KINDS, regions: Collection[str] = DEFAULT_REGIONS
) -> list[Finding]:
    """What was found, in the order of the text; where two kinds claim one place, the surer one has it. Linear in the text."""
    found: list[Finding] = []
    has_digits = _DIGIT.search(text) is not None
    formed = [kind for kind in kinds if kind == "secret" or (has_digits and kind in {"iban", "card", "ip", "ssn"})]
    if formed and (formed != ["card"] or _NUMBER.search(text)):
        found += [one for one in forms.find(text, formed) if one.kind != "card" or _is_card(one.value)]
    if "email" in kinds and "@" in text:
        found += _free(found, _emails(text))
    if has_digits and "phone" in kinds:
        found += _free(found, _phones(text, regions))
    return sorted(found, key=lambda finding: finding.start)


def _free(found: list[Finding], more: Iterator[Finding]) -> list[Finding]:
    """Those whose place nothing surer has."""
    taken = sorted((one.start, one.end) for one in found)
    if not taken:
        return list(more)
    return [one for one in more if not any(start < one.end and one.start < end for start, end in taken)]


def _emails(text: str) -> Iterator[Finding]:
    """``local@domain`` in any script; not image@2x.png, nor the user of a Git address (git@host:path)."""
    at = text.find("@")
    while at >= 0:
        local = _LOCAL.match(text[max(0, at - 64) : at][::-1])
        domain = _DOMAIN.match(text, at + 1)
        if local and domain:
            name = local.group()[::-1].lstrip(".!#$%&'*/=?^`{|}~-")
            is_file = domain.group().rpartition(".")[2].lower() in _FILE_ENDINGS
            is_git = name == "git" and text[domain.end() : domain.end() + 1] in {":", "/"}
            if name and not name.endswith(".") and not is_file and not is_git:
                yield Finding("email", at - len(name), domain.end(), f"{name}@{domain.group()}")
        at = text.find("@", at + 1)


def _is_card(value: str) -> bool:
    """A number that an issuer gives, in one piece or grouped as on a card. That its check digit holds is known."""
    groups = tuple(len(group) for group in re.split("[ -]", value))
    return bool(_CARD.match(re.sub("[ -]", "", value))) and (len(groups) == 1 or groups in _CARD_GROUPS)


def _phones(text: str, regions: Collection[str]) -> Iterator[Finding]:
    """Numbers that an operator can have: with ``+`` of any country; else grouped as people write them, of the regions."""
    for number, match in enumerate(_NUMBER.finditer(text)):
        if number >= _MAX_LOOKED_UP:
            yield from (one for one in forms.find(text, ["phone"]) if one.start >= match.start())
            return
        start = max(0, match.start() - 3)  # "+", "(", "+("
        if match.group().isdigit() and "+" not in text[max(0, start - 1) : match.start()]:
            continue  # one run of digits, ungrouped and without a country: an order's number
        if match.end() - start <= _MAX_WINDOW:
            yield from _phone(text, start, match.end(), regions)
        else:  # a column of numbers
            for one in forms.find(text[start : match.end()], ["phone"]):
                yield Finding("phone", start + one.start, start + one.end, one.value)


def _phone(text: str, start: int, end: int, regions: Collection[str]) -> Iterator[Finding]:
    """What the library finds between two places, with a character more on each side for it to see words and longer numbers."""
    left, right = max(0, start - 1), min(len(text), end + 1)
    window = text[left:right]
    international = "+" in window
    taken: list[tuple[int, int]] = []
    leniency = phonenumbers.Leniency.VALID if international else phonenumbers.Leniency.STRICT_GROUPING
    for region in [None] if international else regions:
        for match in phonenumbers.PhoneNumberMatcher(window, region, leniency=leniency, max_tries=20):
            grouped = re.search(r"\d[^\d]+\d", match.raw_string)
            free = not any(a < match.end and match.start < b for a, b in taken)
            if free and (grouped or match.raw_string.startswith("+")):
                taken.append((match.start, match.end))
                yield Finding("phone", left + match.start, left + match.end, match.raw_string)

"""Personal data and secrets in a text, by form and checksum; linear in the text. Names and addresses have no form: not found."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from worker.alignment.evaluation.suites.patterns import compiled


@dataclass(frozen=True, slots=True)
class Finding:
    kind: str
    """email, phone, card, iban, ip, ssn or secret."""
    start: int
    end: int
    value: str

    @property
    def masked(self) -> str:
        """Enough to find it again, too little to leak it."""
        return f"{self.value[:3]}…{self.value[-2:]}" if len(self.value) > 8 else f"{self.value[:1]}…"


# Country -> length of its IBAN.
_IBAN_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FO", "FI", "GL", "NL", "SD"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "XK", "LT", "LU", "MN"), 20),
    **dict.fromkeys(("HR", "LV", "LI", "CH"), 21),
    **dict.fromkeys(("BH", "BG", "CR", "GE", "DE", "IE", "ME", "RS", "GB", "VA"), 22),
    **dict.fromkeys(("GI", "IQ", "IL", "OM", "SO", "TL", "AE"), 23),
    **dict.fromkeys(("AD", "CZ", "MD", "PK", "RO", "SA", "SK", "ES", "SE", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MR", "MC", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "SV", "GT", "HU", "LB", "NI", "PL"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "YE", "MU"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}
_SECRET = (
    r"\b(?:A3T[A-Z0-9]|AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS key ids
    r"\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{36}\b|\bgithub_pat_[A-Za-z0-9_]{40,}",
    r"\bglpat-[A-Za-z0-9_-]{20,}|\bhf_[A-Za-z0-9]{30,}\b|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-[A-Za-z0-9_-]{50,}",
    r"\b[sr]k-[A-Za-z0-9_-]{20,}|\b[sr]k_live_[A-Za-z0-9]{16,}\b",
    r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    r"\bAIza[A-Za-z0-9_-]{35}",
    r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON web tokens
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----",
    r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,100}:[^\s:/@]{3,100}@[A-Za-z0-9.-]+",  # a password in an address
)
_ASSIGNED = r"(?i)\b(?:password|passwd|pwd|secret|api[_-]?key|access[_-]?token|auth[_-]?token)\b[\"']?\s*[:=]\s*[\"']?([^\s\"'<>{}\[\],;]{8,200})"
_PATTERNS: dict[str, tuple[str, ...]] = {
    "secret": (*_SECRET, _ASSIGNED),
    "email": (r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b",),
    "iban": (r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,60}",),
    "card": (r"\b[2-6](?:[ -]?[0-9]){12,18}\b",),
    "ssn": (r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b",),
    "ip": (r"\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}\b", r"[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}"),
    "phone": (r"\+[0-9](?:[ ().-]{0,2}[0-9]){7,14}\b", r"\(?\b[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4}\b"),
}


KINDS = tuple(_PATTERNS)
"""Surest first."""


def find(text: str, kinds: Collection[str] = KINDS) -> list[Finding]:
    """What was found, in the order of the text; where two kinds claim the same place, the surer one has it."""
    found: list[Finding] = []
    taken = bytearray(len(text))
    for kind in _PATTERNS:  # surest first
        if kind in kinds:
            for finding in _of_kind(text, kind):
                if not any(taken[finding.start : finding.end]):
                    taken[finding.start : finding.end] = b"\1" * (finding.end - finding.start)
                    found.append(finding)
    return sorted(found, key=lambda finding: finding.start)


def _of_kind(text: str, kind: str) -> Iterator[Finding]:
    for pattern in _PATTERNS[kind]:
        group = 1 if pattern is _ASSIGNED else 0
        for match in compiled(pattern).finditer(text):
            start, end = match.span(group)
            length = _CHECKED.get(kind, len)(text[start:end]) if pattern is not _ASSIGNED else _password(match)
            if length and not _inside(text, start, start + length):
                yield Finding(kind, start, start + length, text[start : start + length])


def _inside(text: str, start: int, end: int) -> bool:
    """Whether it is a piece of a longer number or word, such as a version or a file name."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    return (
        before[-1:].isalnum()
        or after[:1].isalnum()
        or (after[:1] == "." and after[1:].isdigit())
        or (before[-1:] == "." and before[:1].isdigit())
    )


def _password(match: Any) -> int:
    """A value with a digit beside letters is a password; a word ("password: required") is not."""
    value: str = match.group(1)
    mixed = any(character.isdigit() for character in value) and any(character.isalpha() for character in value)
    return len(value) if mixed else 0


def _card(value: str) -> int:
    digits = [int(character) for character in value if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    right = len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
    return len(value) if right else 0


def _iban(value: str) -> int:
    """ISO 13616: the country's length and the remainder 1 modulo 97. What follows the account is cut off."""
    length = _IBAN_LENGTHS.get(value[:2], 0)
    places = [index for index, character in enumerate(value) if character != " "]
    if not length or len(places) < length:
        return 0
    end = places[length - 1] + 1
    packed = value[:end].replace(" ", "")
    number = int("".join(str(int(character, 36)) for character in packed[4:] + packed[:4]))
    return end if number % 97 == 1 else 0


def _ip(value: str) -> int:
    """Addresses that say nothing (loopback, unspecified) are let through; so are times and C++ scopes, which look like version 6."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return 0
    if address.is_loopback or address.is_unspecified:
        return 0
    return 0 if address.version == 6 and not re.search(r"\d.*:.*:.*[0-9a-fA-F]", value) else len(value)


def _ssn(value: str) -> int:
    area, group, serial = value.split("-")
    return 0 if area in {"000", "666"} or area[0] == "9" or group == "00" or serial == "0000" else len(value)


_CHECKED: dict[str, Callable[[str], int]] = {"card": _card, "iban": _iban, "ip": _ip, "ssn": _ssn}
"""The length of what holds to the kind's checksum, from the start of the match; 0: nothing does."""

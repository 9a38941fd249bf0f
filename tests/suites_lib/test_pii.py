from __future__ import annotations

import pytest

from worker.alignment.evaluation.suites.pii import KINDS, find

FOUND = [
    ("email", "Write to jo.bloggs+x@mail.example.org.", "jo.bloggs+x@mail.example.org"),
    ("phone", "Call +49 30 1234567 now", "+49 30 1234567"),
    ("phone", "or (212) 555-0142", "(212) 555-0142"),
    ("card", "card 4111 1111 1111 1111, thanks", "4111 1111 1111 1111"),
    ("card", "378282246310005", "378282246310005"),
    ("iban", "IBAN GB82 WEST 1234 5698 7654 32 AND more", "GB82 WEST 1234 5698 7654 32"),
    ("iban", "DE89370400440532013000", "DE89370400440532013000"),
    ("ip", "at 10.20.30.40:80", "10.20.30.40"),
    ("ip", "at 2001:db8::1 today", "2001:db8::1"),
    ("ssn", "SSN 123-45-6789", "123-45-6789"),
    ("secret", "key AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    ("secret", "token ghp_" + "a1" * 18, "ghp_" + "a1" * 18),
    ("secret", "Password: hunter2hunter2", "hunter2hunter2"),
    ("secret", "postgres://me:pa55word@db.internal/x", "postgres://me:pa55word@db.internal"),
    ("secret", "-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----"),
]
CLEAN = [
    "On 2024-01-02 at 12:30:45 it cost 1,234.56 or 12.50 each.",
    "Card 4111 1111 1111 1112 and IBAN DE89370400440532013001 fail their checksums.",
    "Version 1.2.3.4.5 listens on 127.0.0.1, in std::vector and a::b.",
    "Order 000-12-3456 and 666-12-3456; password: required_field",
    "ISBN 978-3-16-148410-0 has 10000000000 copies. user@localhost",
    "0000 0000 0000 0000",
]


@pytest.mark.parametrize(("kind", "text", "value"), FOUND)
def test_found_with_its_place(kind: str, text: str, value: str) -> None:
    told = f"Grüße \U0001f642 {text}"
    assert [(finding.kind, finding.value) for finding in find(told)] == [(kind, value)]
    finding = find(told)[0]
    assert told[finding.start : finding.end] == value
    assert value not in finding.masked
    assert find(told, [other for other in KINDS if other != kind]) == [] or kind in {"card", "iban", "secret"}


@pytest.mark.parametrize("text", CLEAN)
def test_what_only_looks_like_it(text: str) -> None:
    assert find(text) == []


def test_several_in_order() -> None:
    assert [finding.kind for finding in find("a@b.org, 123-45-6789, a@b.org")] == ["email", "ssn", "email"]

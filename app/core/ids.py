"""Content hashes. One canonical JSON form, so that equal content has equal hashes everywhere."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def content_hash(value: Any) -> str:
    """SHA-256 in hex of the canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()

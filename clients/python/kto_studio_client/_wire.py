"""HTTP: one request per batch, and what its answer means for the items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx

from kto_studio_client._items import Item, new_id

PATHS = {"completion": "/api/v1/completions/batch", "feedback": "/api/v1/feedback/batch"}
RETRIED = frozenset({408, 409, 425, 429})


@dataclass(frozen=True)
class Answer:
    reason: str = ""
    """Why the whole batch is not stored; empty where it is."""
    errors: dict[int, str] = field(default_factory=dict)
    """Place in the batch -> why this item was refused."""
    retry: bool = False
    retry_after: float = 0.0
    conflict: bool = False
    too_large: bool = False
    cause: Exception | None = None


class Wire:
    def __init__(
        self, url: str, key: str, *, source: str, timeout: float, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url, self.source = url.rstrip("/"), source
        self._options: dict[str, Any] = {
            "headers": {"authorization": f"Bearer {key}", "user-agent": "kto-studio-client/0.1.0"},
            "timeout": timeout,
            "transport": transport,
        }
        self._client: httpx.Client | None = None

    def forget(self) -> None:
        """After a fork: the connections are the parent's."""
        self._client = None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @staticmethod
    def new_key() -> str:
        return new_id()

    def send(self, batch: Sequence[Item], key: str) -> Answer:
        try:
            self._client = self._client or httpx.Client(**self._options)
            response = self._client.send(self._request(self._client, batch, key))
        except (httpx.TransportError, OSError) as error:
            return Answer(f"{type(error).__name__}: {error}", retry=True, cause=error)
        except (httpx.InvalidURL, ValueError) as error:
            return Answer(f"{type(error).__name__}: {error}", cause=error)
        return _meaning(response, batch)

    def _request(self, client: httpx.Client, batch: Sequence[Item], key: str) -> httpx.Request:
        if batch[0].kind == "retract":
            path = f"/api/v1/feedback/{quote(self.source, safe='')}/{quote(batch[0].text, safe='')}"
            return client.build_request("DELETE", self.url + path)
        body = '{"items":[' + ",".join(item.text for item in batch) + "]}"
        headers = {"content-type": "application/json", "idempotency-key": key}
        return client.build_request("POST", self.url + PATHS[batch[0].kind], content=body.encode(), headers=headers)


def _meaning(response: httpx.Response, batch: Sequence[Item]) -> Answer:
    status = response.status_code
    if 200 <= status < 300 and batch[0].kind == "retract":
        return Answer()
    if 200 <= status < 300:
        errors = _refused(response)
        if errors is not None:
            return Answer(errors=errors)
        return Answer(
            "something else than KTO Studio answered; is the address right, and no proxy between?", retry=True
        )
    if status == 404 and batch[0].kind == "retract":
        return Answer()  # there is nothing to take back any more
    reason = f"the server answered {status}{_words(response)}"
    if status in RETRIED or status >= 500:
        return Answer(reason, retry=True, retry_after=_retry_after(response), conflict=status == 409)
    return Answer(reason, too_large=status == 413)


def _refused(response: httpx.Response) -> dict[int, str] | None:
    """Place -> why. None where the answer does not tell of the items: who wrote it has stored nothing."""
    try:
        items = response.json()["items"]
        return {
            item["index"]: _of_item(item)
            for item in items
            if item["status"] == "error" and isinstance(item["index"], int)
        }
    except (ValueError, KeyError, TypeError):
        return None


def _of_item(item: dict[str, Any]) -> str:
    fields = item.get("fields") or {}
    return "; ".join([str(item.get("message") or "refused"), *(f"{name}: {text}" for name, text in fields.items())])


def _words(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        fields = error.get("fields") or {}
        return ": " + "; ".join([str(error["message"]), *(f"{name}: {text}" for name, text in fields.items())])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _retry_after(response: httpx.Response) -> float:
    """Seconds, from either form of the header; 0 where there is none."""
    value = response.headers.get("retry-after", "").strip()
    try:
        if value.isdecimal():
            return float(value)
        at = parsedate_to_datetime(value)
        at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
        return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0

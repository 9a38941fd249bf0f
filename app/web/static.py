"""Static files: addresses with a content hash, cached for good, text compressed once."""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import lru_cache
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.core.resources import resource_dir

_TEXT = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".json": "application/json"}
_FOREVER = "public, max-age=31536000, immutable"


@lru_cache(maxsize=512)
def _hash(path: Path, _mtime_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def static_url(path: str) -> str:
    """``css/studio.css`` -> ``/static/css/studio.css?v=<hash>``. Raises FileNotFoundError for a file that is not there."""
    file = resource_dir("static") / path
    return f"/static/{path}?v={_hash(file, file.stat().st_mtime_ns)}"


@lru_cache(maxsize=1)
def _vendored() -> dict[str, str]:
    manifest = json.loads((resource_dir("static") / "vendor" / "manifest.json").read_text())
    return {Path(path).name: path for path in manifest if not path.endswith("LICENSE")}


def vendor_path(name: str) -> str:
    """``htmx.min.js`` -> ``/static/vendor/htmx-4.0.1/htmx.min.js``. Raises KeyError for a file that is not vendored."""
    return f"/static/vendor/{_vendored()[name]}"


def vendor_url(name: str) -> str:
    """As ``vendor_path``, with the content hash."""
    return static_url(f"vendor/{_vendored()[name]}")


@lru_cache(maxsize=128)
def _compressed(path: Path, _mtime_ns: int) -> bytes:
    return gzip.compress(path.read_bytes(), 9, mtime=0)


class StudioStatic(StaticFiles):
    """``app.mount("/static", StudioStatic())``: hashed addresses are immutable, all others are checked again each time."""

    def __init__(self) -> None:
        super().__init__(directory=resource_dir("static"))

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        versioned = b"v=" in scope.get("query_string", b"") or path.endswith(".woff2")
        response.headers["Cache-Control"] = _FOREVER if versioned else "no-cache"
        suffix = Path(path).suffix
        if suffix not in _TEXT or response.status_code != 200:
            return response
        response.headers["Vary"] = "Accept-Encoding"
        if "gzip" not in Headers(scope=scope).get("accept-encoding", ""):
            return response
        file = resource_dir("static") / path
        headers = {name: response.headers[name] for name in ("Cache-Control", "Vary", "ETag", "Last-Modified")}
        body = _compressed(file, file.stat().st_mtime_ns)
        return Response(body, media_type=_TEXT[suffix], headers={**headers, "Content-Encoding": "gzip"})

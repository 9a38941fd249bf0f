from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.web.static import static_url, vendor_path, vendor_url
from tests.web.site import site

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("folder", ["static/vendor", "tests/vendor"])
def test_vendored_files_are_those_of_the_manifest(folder: str) -> None:
    vendor = ROOT / folder
    manifest = json.loads((vendor / "manifest.json").read_text())
    found = {p.relative_to(vendor).as_posix() for p in vendor.rglob("*") if p.is_file() and p.name != "manifest.json"}
    assert found == set(manifest)
    for path, checksum in manifest.items():
        assert hashlib.sha256((vendor / path).read_bytes()).hexdigest() == checksum, path
    folders = {path.split("/")[0] for path in manifest}
    assert {f"{name}/LICENSE" for name in folders} <= set(manifest)


def test_vendored_versions_are_those_of_the_lock() -> None:
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    pinned = json.loads((ROOT / "package.json").read_text())["devDependencies"]
    versions = {p.name.rpartition("-")[2] for p in (ROOT / "static/vendor").iterdir() if p.is_dir()}
    for name, version in pinned.items():
        assert packages[f"node_modules/{name}"]["version"] == version
        assert version in versions | {"4.14.1"}


def test_every_icon_named_in_a_template_is_in_the_sprite() -> None:
    sprite = (ROOT / "static" / Path(vendor_path("icons.svg")).relative_to("/static")).read_text()
    known = set(re.findall(r'<symbol id="([a-z0-9-]+)"', sprite))
    used: dict[str, str] = {}
    for path in (ROOT / "templates").rglob("*.html"):
        used |= dict.fromkeys(re.findall(r'icon\("([a-z0-9-]+)"', path.read_text()), path.name)
    assert len(used) > 20
    assert {name: where for name, where in used.items() if name not in known} == {}


def test_style_sheets_name_only_files_and_tokens_that_exist() -> None:
    css = ROOT / "static" / "css"
    tokens, rules = (
        (css / "tokens.css").read_text(),
        "".join(path.read_text() for path in css.glob("*.css") if path.name != "tokens.css"),
    )
    for url in re.findall(r'url\("([^"]+)"\)', rules):
        assert (css / url).is_file(), url
    assert set(re.findall(r"var\((--k-[a-z0-9-]+)", rules)) <= set(re.findall(r"(--k-[a-z0-9-]+):", tokens))


def test_addresses_carry_the_content_hash() -> None:
    assert re.fullmatch(r"/static/css/studio\.css\?v=[0-9a-f]{12}", static_url("css/studio.css"))
    assert re.fullmatch(r"/static/vendor/htmx-[\d.]+/htmx\.min\.js\?v=[0-9a-f]{12}", vendor_url("htmx.min.js"))
    with pytest.raises(FileNotFoundError):
        static_url("css/nothing.css")
    with pytest.raises(KeyError):
        vendor_url("jquery.js")


def test_hashed_files_are_kept_for_good_and_compressed() -> None:
    client = TestClient(site())
    hashed = client.get(static_url("css/studio.css"), headers={"Accept-Encoding": "gzip"})
    assert hashed.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert hashed.headers["content-encoding"] == "gzip"
    assert hashed.headers["content-type"].startswith("text/css")
    assert hashed.text == (ROOT / "static/css/studio.css").read_text()
    plain = client.get("/static/js/toast.js", headers={"Accept-Encoding": "identity"})
    assert plain.headers["cache-control"] == "no-cache"
    assert "content-encoding" not in plain.headers
    again = client.get(
        "/static/js/toast.js", headers={"If-None-Match": plain.headers["etag"], "Accept-Encoding": "identity"}
    )
    assert again.status_code == 304


@pytest.mark.parametrize(
    "path", ["/static/../pyproject.toml", "/static/%2e%2e/pyproject.toml", "/static/css/", "/static/nothing.css"]
)
def test_nothing_else_is_served(path: str) -> None:
    assert TestClient(site()).get(path).status_code == 404

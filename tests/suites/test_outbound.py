"""Addresses that users give, secrets that are kept, and the page of endpoints."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import crypto, outbound
from app.core.errors import InvalidError, UnavailableError
from app.evaluations import endpoints
from app.models import Endpoint, Project, Role
from app.settings import get_settings

PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "::",
    "fe80::1",
    "fd00::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
]


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_of_the_inner_network_are_not_public(text: str) -> None:
    assert not outbound.is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_of_the_internet_are(text: str) -> None:
    assert outbound.is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1",
        "https://localhost/v1",
        "https://[::1]/v1",
        "http://169.254.169.254/latest/meta-data",
        "https://2130706433/v1",
        "https://0x7f.1/v1",
        "file:///etc/passwd",
        "gopher://8.8.8.8/",
        "https://user:word@8.8.8.8/v1",
        "https://8.8.8.8/v1?to=1",
        "http://8.8.8.8/v1",
        "https://",
        "https://a\nb/",
        "https://[::1/v1",
        "https://8.8.8.8:99999/v1",
        "",
    ],
)
def test_an_address_that_may_not_be_called_is_refused_in_words(configured: None, url: str) -> None:
    with pytest.raises(InvalidError) as refused:
        outbound.check_url(url)
    assert refused.value.fields["url"]


class Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.headers["host"].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made.server_port
    made.shutdown()
    made.server_close()
    thread.join()


def test_what_an_operator_allows_is_called_at_the_address_that_was_judged(
    configured: None, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_settings(), "allow_private_endpoints", ["127.0.0.0/8"])
    asked: list[str] = []
    real = socket.getaddrinfo

    def lookup(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host != "judge.test":
            return real(host, port, *rest, **more)
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.9"  # a name that changes its mind
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    with httpx.Client(transport=outbound.transport(), trust_env=False) as client:
        monkeypatch.setattr("app.core.outbound.socket.getaddrinfo", lookup)
        answer = client.post(f"http://judge.test:{server}/v1")
    assert answer.text == f"judge.test:{server}"  # the name is still told to the server
    assert asked.count("judge.test") == 1


def test_a_name_with_one_inner_address_is_refused(configured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(2, 1, 6, "", ("8.8.8.8", 443)), (2, 1, 6, "", ("10.0.0.1", 443))]
    monkeypatch.setattr("app.core.outbound.socket.getaddrinfo", lambda *_a, **_k: both)
    with pytest.raises(InvalidError):
        outbound.check_url("https://mixed.example.org/v1")


def test_a_secret_is_read_back_for_its_purpose_only(configured: None) -> None:
    token = crypto.encrypt("sk-1234", "one")
    assert b"sk-1234" not in token
    assert crypto.decrypt(token, "one") == "sk-1234"
    with pytest.raises(UnavailableError):
        crypto.decrypt(token, "other")


FORM = {"name": "Judge", "kind": "judge", "url": "https://8.8.8.8/v1", "model": "j-1", "key": "sk-secret"}


@pytest.fixture
def project(factory: Any) -> Project:
    found: Project = factory.project()
    return found


@pytest.fixture
def lead(factory: Any, sign_in: Any, project: Project) -> TestClient:
    found: TestClient = sign_in(factory.member(project, Role.LEAD))
    return found


def test_a_key_is_written_and_never_shown(lead: TestClient, project: Project, db: Session) -> None:
    address = f"/p/{project.slug}/suites/endpoints"
    assert lead.post(address, data=FORM).status_code == 303
    row = db.scalars(select(Endpoint).where(Endpoint.project_id == project.id)).one()
    assert row.secret is not None
    assert b"sk-secret" not in row.secret
    assert endpoints.settings_of(row).key == "sk-secret"
    for page in (lead.get(address).text, lead.get(f"{address}/{row.id}").text):
        assert "key stored" in page
        assert "sk-secret" not in page
    lead.post(f"{address}/{row.id}", data=FORM | {"key": "", "model": "j-2"})
    db.refresh(row)
    assert (row.model, endpoints.settings_of(row).key) == ("j-2", "sk-secret")
    lead.post(f"{address}/{row.id}", data=FORM | {"key": "", "url": "https://9.9.9.9/v1"})
    db.refresh(row)
    assert row.secret is None  # another server does not get the key of the first


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"kind": "spy"}, "kind"),
        ({"model": ""}, "model"),
        ({"url": "http://10.0.0.1/v1"}, "url"),
        ({"key_env": "DATABASE_URL"}, "key_env"),
        ({"timeout": "soon"}, "timeout"),
        ({"concurrency": "0"}, "concurrency"),
    ],
)
def test_what_does_not_fit_is_told_by_field(
    lead: TestClient, project: Project, db: Session, change: dict[str, str], field: str
) -> None:
    answer = lead.post(f"/p/{project.slug}/suites/endpoints", data=FORM | change)
    assert answer.status_code == 422
    assert f'id="{field}-e"' in answer.text
    assert "sk-secret" not in answer.text
    assert db.scalar(select(Endpoint.id).where(Endpoint.project_id == project.id)) is None


def test_the_test_button_says_what_is_wrong(
    lead: TestClient, project: Project, db: Session, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_settings(), "allow_private_endpoints", ["127.0.0.1"])
    address = f"/p/{project.slug}/suites/endpoints"
    lead.post(address, data=FORM | {"url": f"http://127.0.0.1:{server}/v1"})
    row = db.scalars(select(Endpoint).where(Endpoint.project_id == project.id)).one()
    assert "not JSON" in lead.post(f"{address}/{row.id}/test").text
    monkeypatch.setattr(get_settings(), "allow_private_endpoints", [])
    assert "may not be asked" in lead.post(f"{address}/{row.id}/test").text


def encoder_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.evaluation_lib.support import save_tiny_encoder

    roots = tmp_path / "roots"
    save_tiny_encoder(roots / "small")
    save_tiny_encoder(tmp_path / "elsewhere" / "small2")
    (roots / "empty").mkdir()
    save_tiny_encoder(roots / "pickled")
    (roots / "pickled" / "model.safetensors").rename(roots / "pickled" / "pytorch_model.bin")
    monkeypatch.setattr(get_settings(), "model_roots", [roots])


def test_a_local_encoder_is_saved_and_tested_without_an_address(
    lead: TestClient, project: Project, db: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder_folders(tmp_path, monkeypatch)
    address = f"/p/{project.slug}/suites/endpoints"
    assert 'value="encoder"' in lead.get(address).text
    typed = {"name": "Meanings", "kind": "encoder", "model": "small", "key": "sk-secret"}
    assert lead.post(address, data=typed).status_code == 303
    row = db.scalars(select(Endpoint).where(Endpoint.project_id == project.id)).one()
    assert (row.kind, row.url, row.secret) == ("encoder", "", None)
    page = lead.get(address).text
    assert "nothing leaves this machine" in page
    assert "The folder holds" in lead.post(f"{address}/{row.id}/test").text
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "roots" / "small" / name).unlink()
    broken = lead.post(f"{address}/{row.id}/test").text
    assert "The folder holds" not in broken
    assert 'class="bad-i" role="status"' in broken


@pytest.mark.parametrize("folder", ["empty", "pickled", "nowhere", "", "../elsewhere/small2", "/etc", "bert/base"])
def test_a_folder_that_holds_no_encoder_is_told_by_field(
    lead: TestClient, project: Project, db: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    encoder_folders(tmp_path, monkeypatch)
    typed = {"name": "Meanings", "kind": "encoder", "model": folder}
    answer = lead.post(f"/p/{project.slug}/suites/endpoints", data=typed)
    assert answer.status_code == 422
    assert 'id="model-e"' in answer.text
    assert 'id="url-e"' not in answer.text
    assert db.scalar(select(Endpoint.id).where(Endpoint.project_id == project.id)) is None


def test_a_folder_outside_the_roots_is_refused(
    lead: TestClient, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder_folders(tmp_path, monkeypatch)
    typed = {"name": "Meanings", "kind": "encoder", "model": str(tmp_path / "elsewhere" / "small2")}
    answer = lead.post(f"/p/{project.slug}/suites/endpoints", data=typed)
    assert answer.status_code == 422
    assert 'id="model-e"' in answer.text

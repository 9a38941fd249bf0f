from __future__ import annotations

import base64
import json

import pytest
from fastapi.testclient import TestClient
from jinja2 import UndefinedError
from starlette.responses import Response

from app.web.flash import COOKIE, read_flash, set_flash
from app.web.htmx import redirect
from app.web.nav import navigation
from app.web.templating import environment, initials, render, render_to_string
from tests.web.site import ANNOTATOR, from_source, request_for, site, viewer


def _shell(path: str = "/p/helpdesk/runs/7", allowed: frozenset[str] | None = None) -> str:
    source = '{% extends "layouts/app.html" %}{% block title %}Runs{% endblock %}{% block content %}{{ csrf_field() }}{% endblock %}'
    return from_source(source, request_for(path, viewer(allowed)))


def test_every_template_compiles() -> None:
    names = environment().list_templates()
    assert len(names) > 10
    for name in names:
        environment().get_template(name)


def test_shell_marks_the_page_and_escapes_names() -> None:
    html = _shell()
    assert '<a href="/p/helpdesk/runs" title="Runs" aria-current="page">' in html
    assert html.count('aria-current="page"') == 2  # rail and breadcrumb
    assert "Help &lt;desk&gt;" in html
    assert "<title>Runs · Help &lt;desk&gt; · KTO Studio</title>" in html
    assert 'name="csrf_token" value="token-1"' in html
    assert """hx-headers:inherited='{"X-CSRF-Token": "token-1"}'""" in html


def test_an_annotator_sees_what_annotators_do() -> None:
    nav = navigation("helpdesk", "/p/helpdesk/annotate/3", lambda permission: permission in ANNOTATOR)
    links = [nav.home, *(link for group in nav.groups for link in group.links), *nav.foot]
    assert [link.label for link in links] == ["Home", "Annotate", "Completions", "Blind A/B"]
    assert [link.key for link in links if link.current] == ["annotate"]


def test_home_is_current_only_on_home() -> None:
    assert navigation("x", "/p/x/", lambda _: True).home.current
    assert navigation("x", "/p/x", lambda _: True).home.current
    assert not navigation("x", "/p/x/runs", lambda _: True).home.current


def test_a_page_without_a_viewer_renders() -> None:
    html = TestClient(site()).get("/invalid?stranger").text
    assert "Some values do not fit" in html
    assert "Sign out" not in html


def test_a_missing_name_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        from_source("{{ nothing }}", request_for())


def test_error_pages_say_what_happened_and_hide_the_cause() -> None:
    client = TestClient(site(), raise_server_exceptions=False)
    page = client.get("/invalid")
    assert page.status_code == 422
    assert "<b>learning rate</b>: Between 1e-7 and 1e-4" in page.text
    broken = client.get("/broken")
    assert broken.status_code == 500
    assert "a secret detail" not in broken.text
    assert 'data-copy="incident"' in broken.text
    assert client.get("/nowhere").status_code == 404


def test_an_htmx_request_gets_the_error_as_a_part() -> None:
    answer = TestClient(site()).get("/invalid", headers={"HX-Request": "true"})
    assert answer.headers["HX-Retarget"] == "#k-errors"
    assert "<html" not in answer.text
    assert 'href="#f-learning_rate"' in answer.text


def _flash_request(value: str):
    return request_for("/", viewer(), cookie=f"{COOKIE}={value}")


def test_flash_survives_a_redirect_and_is_shown_once() -> None:
    answer = redirect(request_for("/x"), "/y", "Saved: <undesirable>", undo_url="/p/helpdesk/ratings/1/undo")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/y"
    value = answer.headers["set-cookie"].split(";")[0].partition("=")[2].strip('"')
    shown = render(_flash_request(value), "errors/error.html", _error())
    body = bytes(shown.body).decode()
    assert "Saved: &lt;undesirable&gt;" in body
    assert 'action="/p/helpdesk/ratings/1/undo"' in body
    assert f'{COOKIE}=""' in shown.headers["set-cookie"]


def _error() -> dict[str, object]:
    from app.core.errors import NotFoundError

    return {"error": NotFoundError("There is no such page."), "incident": ""}


@pytest.mark.parametrize("undo", ["https://e.x/", "//e.x/", "/\\e.x", 7])
def test_flash_undo_stays_on_this_site(undo: object) -> None:
    value = base64.urlsafe_b64encode(json.dumps({"text": "x", "undo_url": undo}).encode()).decode()
    flash = read_flash(_flash_request(value))
    assert flash is not None
    assert flash.undo_url is None


@pytest.mark.parametrize(
    "value", ["", "%%%", "bm90IGpzb24=", base64.b64encode(b'["a"]').decode(), base64.b64encode(b"\xff\xfe").decode()]
)
def test_a_broken_flash_is_ignored(value: str) -> None:
    assert read_flash(_flash_request(value)) is None


def test_htmx_is_told_to_go_elsewhere() -> None:
    answer = redirect(request_for("/x", None, hx_request="true"), "/y")
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (200, "/y")


def test_set_flash_cookie_is_not_for_scripts() -> None:
    cookie = set_flash(Response(), "x").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


def test_initials() -> None:
    assert (initials("Ines Marchetti"), initials("Plato"), initials("Ana de Wit")) == ("IM", "PL", "AW")


def test_forms_keep_typed_values_and_tie_errors_to_fields() -> None:
    source = """{% from "components/forms.html" import field, select, post, error_summary %}
    {{ error_summary({"rate": "Too <large>"}) }}{{ field("rate", "Rate", '5"', {"rate": "Too <large>"}, inputmode="decimal") }}
    {{ field("word", "Password", "secret", type="password") }}{{ select("m", "Model", [(1, "a"), (2, "b")], "2") }}
    {{ post("/p/x/stop", "Stop", fields={"id": 7}) }}"""
    html = from_source(source, request_for())
    assert 'value="5&#34;"' in html
    assert 'aria-invalid="true" aria-describedby="rate-e"' in html
    assert 'id="rate-e"' in html
    assert "Too &lt;large&gt;" in html
    assert 'inputmode="decimal"' in html
    assert "secret" not in html
    assert '<option value="2" selected>b</option>' in html
    assert '<input type="hidden" name="csrf_token" value="token-1"><input type="hidden" name="id" value="7">' in html


def test_parts_for_live_pages_render_without_the_shell() -> None:
    html = render_to_string(request_for(), "errors/part.html", _error())
    assert "<html" not in html
    assert "There is no such page." in html


def test_an_error_of_the_whole_form_is_the_headline() -> None:
    source = '{% from "components/forms.html" import error_summary %}{{ error_summary(errors) }}'
    html = from_source(source, request_for(), errors={"": "E-mail or password is wrong."})
    assert "<b>E-mail or password is wrong.</b>" in html
    assert "<li>" not in html
    assert "<b>2 fields do not fit.</b>" in from_source(source, request_for(), errors={"a": "x", "b": "y"})
    assert from_source(source, request_for(), errors={}).strip() == ""

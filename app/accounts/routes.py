"""Sign-in, sign-out, one-time links and a person's own account."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from app.accounts import service
from app.accounts.access import Public, Require, Viewer
from app.accounts.links import NewAccount, accept_link, find_link, first_start_needed
from app.accounts.sessions import find_login, session_cookie
from app.accounts.signin import check_sign_in, end_session, local_path, start_session
from app.core.db import Db
from app.core.errors import ConflictError, InvalidError, RateLimitedError
from app.models import User
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(include_in_schema=False)
AnyPerson = Annotated[Viewer, Depends(Require("account.view"))]
Text = Annotated[str, Form()]


@router.get("/login", dependencies=[Depends(Public())])
def login_page(request: Request, db: Db, next: str = "") -> Response:  # noqa: A002 -- the name in the address
    if find_login(db, session_cookie(request)) is not None:
        return RedirectResponse(local_path(next), 303)
    return render(request, "accounts/login.html", {"next": next, "first_start": first_start_needed(db), "email": ""})


@router.post("/login", dependencies=[Depends(Public())])
def login(request: Request, db: Db, email: Text = "", password: Text = "", next: Text = "") -> Response:  # noqa: A002
    address = request.client.host if request.client else "unknown"
    try:
        user = check_sign_in(db, email, password, address)
    except (InvalidError, RateLimitedError) as error:
        context = {"next": next, "first_start": False, "email": email, "error": error}
        return render(request, "accounts/login.html", context, status_code=error.status)
    response = redirect(request, local_path(next))
    start_session(db, request, response, user)
    return response


@router.post("/logout")
def logout(request: Request, db: Db, _viewer: AnyPerson) -> Response:
    response = redirect(request, "/login", "Signed out.")
    end_session(db, request, response)
    return response


@router.get("/start/{token}", dependencies=[Depends(Public())])
def start_page(request: Request, db: Db, token: str) -> Response:
    """Shows what the link does; only the POST uses it up."""
    link = find_link(db, token)
    user = db.get(User, link.user_id) if link.user_id else None
    return render(
        request,
        "accounts/start.html",
        {"token": token, "purpose": link.purpose, "person": user, "form": NewAccount(), "errors": {}},
    )


@router.post("/start/{token}", dependencies=[Depends(Public())])
def start(
    request: Request,
    db: Db,
    token: str,
    name: Text = "",
    email: Text = "",
    password: Text = "",
    confirm: Text = "",
) -> Response:
    form = NewAccount(name, email, password, confirm)
    try:
        user = accept_link(db, token, form)
    except InvalidError as error:
        link = find_link(db, token)
        person = db.get(User, link.user_id) if link.user_id else None
        context = {"token": token, "purpose": link.purpose, "person": person, "form": form, "errors": error.fields}
        return render(request, "accounts/start.html", context, status_code=error.status)
    response = redirect(request, "/")
    start_session(db, request, response, user)
    return response


@router.get("/account")
def account_page(request: Request, viewer: AnyPerson) -> Response:
    return render(request, "accounts/account.html", {"name": viewer.user.name, "errors": {}, "password_errors": {}})


@router.post("/account")
def rename(request: Request, db: Db, viewer: AnyPerson, name: Text = "") -> Response:
    try:
        service.rename_user(db, viewer.user, name)
    except InvalidError as error:
        context = {"name": name, "errors": error.fields, "password_errors": {}}
        return render(request, "accounts/account.html", context, status_code=error.status)
    return redirect(request, "/account", "Name saved.")


@router.post("/account/password")
def change_password(
    request: Request, db: Db, viewer: AnyPerson, current: Text = "", password: Text = "", confirm: Text = ""
) -> Response:
    try:
        service.change_password(db, viewer.user, current, password, confirm)
    except InvalidError as error:
        context = {"name": viewer.user.name, "errors": {}, "password_errors": error.fields}
        return render(request, "accounts/account.html", context, status_code=error.status)
    response = redirect(request, "/account", "Password changed. Every other browser is signed out.")
    start_session(db, request, response, viewer.user)
    return response


@router.get("/projects")
def project_list(request: Request, db: Db, viewer: AnyPerson) -> Response:
    return render(request, "accounts/projects.html", _project_context(db, viewer, {}))


@router.post("/projects")
def create_project(
    request: Request,
    db: Db,
    viewer: Annotated[Viewer, Depends(Require("project.create"))],
    name: Text = "",
    slug: Text = "",
) -> Response:
    try:
        project = service.create_project(db, name, slug, viewer.user)
    except (InvalidError, ConflictError) as error:
        context = _project_context(db, viewer, error.fields) | {"name": name, "slug": slug}
        return render(request, "accounts/projects.html", context, status_code=error.status)
    return redirect(request, f"/p/{project.slug}/", "Project created.")


def _project_context(db: Db, viewer: Viewer, errors: dict[str, str]) -> dict[str, object]:
    return {"projects": service.projects_of(db, viewer.user), "errors": errors, "name": "", "slug": ""}

"""Settings of a project: who works in it, with which role."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import Response

from app.accounts import members
from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import ConflictError, InvalidError
from app.models import Role
from app.web.address import public_address
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/p/{slug}/settings", include_in_schema=False)
Editor = Annotated[Viewer, Depends(Require("people.edit"))]
Text = Annotated[str, Form()]


@router.get("")
def settings_page(request: Request, db: Db, viewer: Annotated[Viewer, Depends(Require("settings.view"))]) -> Response:
    return _page(request, db, viewer)


@router.post("/people")
def add_person(
    request: Request, db: Db, viewer: Editor, email: Text = "", name: Text = "", role: Text = Role.ANNOTATOR
) -> Response:
    try:
        invitation = members.invite(db, viewer.project, email, name, role, viewer.user)
    except (InvalidError, ConflictError) as error:
        typed = {"email": email, "name": name, "role": role}
        return _page(request, db, viewer, error.status, errors=error.fields, form=typed)
    if invitation.token is None:
        return redirect(request, _url(viewer), f"{invitation.member.user.name} was added.")
    return _page(request, db, viewer, invitation=invitation)


@router.post("/people/{user_id}/link")
def new_link(request: Request, db: Db, viewer: Editor, user_id: int) -> Response:
    """The link is on this answer only: it is never in an address, a cookie or a log."""
    return _page(request, db, viewer, invitation=members.relink(db, viewer.project, user_id, viewer.user))


@router.post("/people/{user_id}/role")
def change_role(request: Request, db: Db, viewer: Editor, user_id: int, role: Text = "") -> Response:
    try:
        member = members.change_role(db, viewer.project, user_id, role, viewer.user)
    except ConflictError as error:
        return _page(request, db, viewer, error.status, refusal=error)
    return redirect(request, _url(viewer), f"{member.user.name} is now {member.role}.")


@router.post("/people/{user_id}/remove")
def remove(request: Request, db: Db, viewer: Editor, user_id: int) -> Response:
    try:
        user = members.remove_member(db, viewer.project, user_id, viewer.user)
    except ConflictError as error:
        return _page(request, db, viewer, error.status, refusal=error)
    target = _url(viewer) if user.id != viewer.user.id or user.is_owner else "/projects"
    return redirect(request, target, f"{user.name} was removed.")


def _url(viewer: Viewer) -> str:
    return f"/p/{viewer.project.slug}/settings"


def _page(request: Request, db: Db, viewer: Viewer, status: int = 200, **more: Any) -> Response:
    """``invitation``: its link is shown, once."""
    context: dict[str, Any] = {
        "members": members.members_of(db, viewer.project),
        "owners": members.installation_owners(db),
        "roles": [(role.value, role.value.capitalize()) for role in Role],
        "errors": {},
        "form": {"email": "", "name": "", "role": Role.ANNOTATOR.value},
        "invitation": None,
        "refusal": None,
        "base_url": public_address(request),
        "may_relink": lambda user: members.may_relink(db, viewer.project, user),
    }
    return render(request, "accounts/settings.html", context | more, status_code=status)

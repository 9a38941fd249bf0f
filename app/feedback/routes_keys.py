"""A person's own keys for Annotate."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError
from app.feedback import key_map
from app.web.htmx import redirect
from app.web.templating import render

router = APIRouter(prefix="/account/keys")
Person = Annotated[Viewer, Depends(Require("account.view"))]


@router.get("")
def keys(request: Request, viewer: Person) -> Response:
    return _page(request, viewer)


def _page(
    request: Request, viewer: Viewer, typed: dict[str, str] | None = None, errors: dict[str, str] | None = None
) -> Response:
    """``typed``: what was sent and did not fit."""
    choice = key_map.key_choice(viewer.user)
    context = {
        "choice": choice if typed is None else [row | {"key": typed.get(row["action"], "")} for row in choice],
        "single_keys": key_map.single_keys(viewer.user) if typed is None else "single_keys" in typed,
        "errors": errors or {},
        "names": sorted(key_map.ALLOWED_NAMES),
    }
    return render(request, "feedback/annotate_keys.html", context, status_code=422 if errors else 200)


@router.post("")
async def save_keys(request: Request, db: Db, viewer: Person) -> Response:
    """All keys of the form; an empty field is the usual key again."""
    form = {key: value for key, value in (await request.form()).items() if isinstance(value, str)}
    try:
        chosen = key_map.chosen_keys(form)
    except InvalidError as error:
        return _page(request, viewer, form, error.fields)
    rest = {key: value for key, value in viewer.user.preferences.items() if key not in ("keys", "single_keys")}
    viewer.user.preferences = rest | {"keys": chosen, "single_keys": "single_keys" in form}
    db.flush()
    return redirect(request, "/account/keys", "Keys saved.")

"""Pages that belong to no domain."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from app.accounts.access import Require, Viewer
from app.web.styleguide import examples
from app.web.templating import render

router = APIRouter(include_in_schema=False)


@router.get("/styleguide")
def styleguide(request: Request, _viewer: Annotated[Viewer, Depends(Require("project.view"))]) -> HTMLResponse:
    return render(request, "styleguide.html", examples())

"""One place where an error becomes an answer: a page in words for browsers, ``{"error": …}`` for the API."""

from __future__ import annotations

import logging
import secrets
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from app.core.errors import InvalidError, NotSignedInError, StudioError, UnavailableError

log = logging.getLogger(__name__)


def wants_json(request: Request) -> bool:
    return request.url.path.startswith("/api/")


def error_response(request: Request, error: StudioError, *, incident: str = "") -> Response:
    if wants_json(request):
        body: dict[str, Any] = {"code": error.code, "message": error.message}
        if error.remedy:
            body["remedy"] = error.remedy
        if error.fields:
            body["fields"] = error.fields
        if incident:
            body["incident"] = incident
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        return JSONResponse({"error": body}, error.status, headers=headers)
    if isinstance(error, NotSignedInError):
        target = f"/login?next={quote(request.url.path)}" if request.method == "GET" else "/login"
        if request.headers.get("hx-request"):
            return Response(status_code=204, headers={"HX-Redirect": target})
        return RedirectResponse(target, 303)
    from app.web.templating import render

    context = {"error": error, "incident": incident}
    if request.headers.get("hx-request"):  # htmx swaps answers of any status: keep the error out of its target
        headers = {"HX-Retarget": "#k-errors", "HX-Reswap": "innerHTML"}
        return render(request, "errors/part.html", context, status_code=error.status, headers=headers)
    return render(request, "errors/error.html", context, status_code=error.status)


def field_errors(error: RequestValidationError) -> dict[str, str]:
    """``items.3.label`` -> what is wrong, from pydantic's list; the leading ``body`` is left out."""
    found: dict[str, str] = {}
    for item in error.errors():
        if item["type"] == "json_invalid":
            return {"body": f"is no JSON: {item['ctx']['error']} at character {item['loc'][-1] + 1}"}
        place = [str(part) for part in item["loc"] if part != "body"]
        found.setdefault(".".join(place) or "body", item["msg"].removeprefix("Value error, "))
    return found


def install(app: FastAPI) -> None:
    @app.exception_handler(StudioError)
    def studio_error(request: Request, error: StudioError) -> Response:
        return error_response(request, error)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return error_response(
            request, InvalidError("Some values do not fit.", fields=jsonable_encoder(field_errors(error)))
        )

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> Response:
        words = {404: "There is no such page.", 405: "This address does not take that method."}
        failure = StudioError(words.get(error.status_code, str(error.detail)))
        failure.status = error.status_code
        failure.code = "not_found" if error.status_code == 404 else "http_error"
        return error_response(request, failure)

    @app.exception_handler(OperationalError)
    def database_away(request: Request, error: OperationalError) -> Response:
        log.error("The database did not answer: %s", error.orig)
        return error_response(
            request,
            UnavailableError(
                "The database does not answer.", remedy="Try again in a minute. Nothing was half-written."
            ),
        )

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        incident = secrets.token_hex(4)
        log.error("Incident %s at %s %s", incident, request.method, request.url.path, exc_info=error)
        failure = StudioError(
            "Something failed on our side.", remedy="Nothing was half-written. Name the incident when you report it."
        )
        failure.status = 500
        failure.code = "internal"
        return error_response(request, failure, incident=incident)

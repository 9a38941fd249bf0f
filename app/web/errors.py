"""One place where an error becomes an answer: a page in words for browsers, ``{"error": …}`` for the API."""

from __future__ import annotations

import errno
import logging
import secrets
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from starlette.exceptions import HTTPException

from app.core.errors import InvalidError, NotSignedInError, StudioError, UnavailableError
from app.web.csp import SECURITY_HEADERS

log = logging.getLogger(__name__)

_PG_DISK_FULL = "53100"


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


def is_full_disk(error: BaseException | None) -> bool:
    """Ours, or the one that PostgreSQL writes to."""
    if isinstance(error, OperationalError):
        return getattr(error.orig, "sqlstate", None) == _PG_DISK_FULL
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def _full_disk() -> UnavailableError:
    return UnavailableError(
        "The server's disk is full.", remedy="Free some space there, then try again. Nothing was half-written."
    )


def studio_error(request: Request, error: StudioError) -> Response:
    return error_response(request, error)


def invalid(request: Request, error: RequestValidationError) -> Response:
    return error_response(
        request, InvalidError("Some values do not fit.", fields=jsonable_encoder(field_errors(error)))
    )


def http_error(request: Request, error: HTTPException) -> Response:
    if is_full_disk(error.__cause__):  # an upload that found no room
        return error_response(request, _full_disk())
    if error.status_code == 400 and request.url.path.startswith("/api/"):
        unread = InvalidError("Some values do not fit.", fields={"body": "is no JSON in UTF-8"})
        return error_response(request, unread)
    words = {
        400: "The body of the request cannot be read.",
        404: "There is no such page.",
        405: "This address does not take that method.",
    }
    failure = StudioError(words.get(error.status_code, str(error.detail)))
    failure.status = error.status_code
    failure.code = {404: "not_found", 413: "too_large"}.get(error.status_code, "http_error")
    if error.status_code == 413:
        failure.fields = {"body": "is larger than this address takes"}
    return error_response(request, failure)


def not_storable(request: Request, error: DataError | UnicodeEncodeError) -> Response:
    """What no field's own check looks for: a number beyond its column, a NUL, half a surrogate pair."""
    log.info("A value could not be stored: %s", getattr(error, "orig", error).__class__.__name__)
    return error_response(
        request,
        InvalidError(
            "A value in the request cannot be stored.",
            remedy="It holds a number that is too large, or a character that text cannot hold.",
        ),
    )


def system_error(request: Request, error: OSError) -> Response:
    if not is_full_disk(error):
        raise error
    log.error("The disk is full: %s", error)
    return error_response(request, _full_disk())


def database_away(request: Request, error: OperationalError | InterfaceError | NoConnectionError) -> Response:
    log.error("The database did not answer: %s", getattr(error, "orig", error))
    if is_full_disk(error):
        return error_response(request, _full_disk())
    return error_response(
        request,
        UnavailableError("The database does not answer.", remedy="Try again in a minute. Nothing was half-written."),
    )


def unexpected(request: Request, error: Exception) -> Response:
    incident = secrets.token_hex(4)
    log.error("Incident %s at %s %s", incident, request.method, request.url.path, exc_info=error)
    failure = StudioError(
        "Something failed on our side.", remedy="Nothing was half-written. Name the incident when you report it."
    )
    failure.status = 500
    failure.code = "internal"
    response = error_response(request, failure, incident=incident)
    response.headers.update(SECURITY_HEADERS)  # this handler runs outside of all middleware
    return response


_HANDLERS: dict[type[Exception], Any] = {
    StudioError: studio_error,
    RequestValidationError: invalid,
    HTTPException: http_error,
    DataError: not_storable,
    UnicodeEncodeError: not_storable,
    OSError: system_error,
    OperationalError: database_away,
    InterfaceError: database_away,
    NoConnectionError: database_away,
    Exception: unexpected,
}


def install(app: FastAPI) -> None:
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)

"""Errors named by the fact, each with its HTTP status. One handler in ``app.web.errors`` turns them into a page or JSON."""

from __future__ import annotations


class StudioError(Exception):
    """A user's or a client's mistake, or a state that forbids the action: shown in words, never with a traceback."""

    status = 400
    code = "bad_request"

    def __init__(self, message: str, *, remedy: str = "", fields: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.fields = fields or {}
        """Field name -> what is wrong with it and what to do."""


class NotFoundError(StudioError):
    status = 404
    code = "not_found"


class NotSignedInError(StudioError):
    status = 401
    code = "not_signed_in"


class ForbiddenError(StudioError):
    status = 403
    code = "forbidden"


class ConflictError(StudioError):
    status = 409
    code = "conflict"


class TooLargeError(StudioError):
    status = 413
    code = "too_large"


class UnsupportedMediaError(StudioError):
    status = 415
    code = "unsupported_media"


class InvalidError(StudioError):
    """Input that does not fit, field by field."""

    status = 422
    code = "invalid"


class RateLimitedError(StudioError):
    status = 429
    code = "rate_limited"


class UnavailableError(StudioError):
    status = 503
    code = "unavailable"

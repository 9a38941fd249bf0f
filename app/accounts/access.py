"""Who may do what: permissions by role, the guard that every route carries, and the CSRF check.

A route says ``viewer: Annotated[Viewer, Depends(Require("run.launch"))]``. A test walks all routes and fails for one without a
guard. Under ``/p/{slug}`` the guard loads the project and answers 404 to anyone who is not a member of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from app.accounts.key_check import STALE_SECONDS, bearer_hash, check_key, check_rate, rate_limit, rate_name
from app.accounts.sessions import find_login, session_cookie
from app.core.clock import utcnow
from app.core.db import Db
from app.core.errors import ForbiddenError, NotFoundError, NotSignedInError
from app.core.ratelimit import take
from app.core.security import csrf_valid
from app.models import ApiKey, Membership, Project, Role, User

EVERYONE = frozenset(Role)
WATCHERS = frozenset({Role.OWNER, Role.LEAD, Role.VIEWER})
LEADS = frozenset({Role.OWNER, Role.LEAD})
RATERS = frozenset({Role.OWNER, Role.LEAD, Role.ANNOTATOR})
OWNERS = frozenset({Role.OWNER})

SIGNED_IN: frozenset[Role | None] = frozenset({*Role, None})
"""Also people who are in no project yet, or no longer."""

PERMISSIONS: dict[str, frozenset[Role] | frozenset[Role | None]] = {
    "account.view": SIGNED_IN,
    "project.view": EVERYONE,
    "completion.view": EVERYONE,
    "rating.create": RATERS,
    "queue.edit": LEADS,
    "rater.view": LEADS,
    "rater.edit": LEADS,
    "source.view": WATCHERS,
    "source.import": LEADS,
    "key.edit": LEADS,
    "webhook.edit": LEADS,
    "snapshot.view": WATCHERS,
    "snapshot.freeze": LEADS,
    "export.create": LEADS,
    "run.view": WATCHERS,
    "run.launch": LEADS,
    "run.stop": LEADS,
    "evaluation.view": WATCHERS,
    "evaluation.decide": LEADS,
    "suite.view": WATCHERS,
    "suite.edit": LEADS,
    "suite.run": LEADS,
    "endpoint.edit": LEADS,
    "comparison.launch": LEADS,
    "ab.vote": RATERS,
    "ab.edit": LEADS,
    "version.view": WATCHERS,
    "version.make": LEADS,
    "version.promote": LEADS,
    "version.export": LEADS,
    "gate.edit": OWNERS,
    "monitoring.view": WATCHERS,
    "incident.edit": LEADS,
    "settings.view": LEADS,
    "people.edit": OWNERS,
    "privacy.view": LEADS,
    "privacy.edit": OWNERS,
    "privacy.erase": OWNERS,
    "project.create": OWNERS,
    "worker.view": WATCHERS,
}
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Viewer:
    """The signed-in person, and under ``/p/{slug}`` the project with the person's role in it."""

    user: User
    project_or_none: Project | None
    role: Role | None

    @property
    def project(self) -> Project:
        assert self.project_or_none is not None, "this route has no project in its path"
        return self.project_or_none

    def can(self, permission: str) -> bool:
        return self.role in PERMISSIONS[permission]


def signed_in(request: Request, db: Db) -> User:
    """Raises NotSignedInError, before the body of the request is read."""
    login = find_login(db, session_cookie(request))
    if login is None:
        raise NotSignedInError("Sign in to see this page.")
    return login.user


async def submitted_csrf(request: Request) -> AsyncIterator[str]:
    """The token that a page sent back: the header from htmx and fetch, else the hidden form field.

    Files of a form that no handler asks for are closed here, at the end of the request.
    """
    try:
        yield await _token_of(request)
    finally:
        await request.close()


def guard_now(request: Request, db: Session, permission: str, token: str) -> Viewer:
    """What ``Require`` does, for a route that FastAPI works nothing out for; ``token``: the CSRF token that was sent."""
    return Require(permission)(request, db, signed_in(request, db), token)


async def _token_of(request: Request) -> str:
    header = request.headers.get("x-csrf-token")
    if header is not None or request.method in SAFE_METHODS:
        return header or ""
    content_type = request.headers.get("content-type", "")
    if content_type.startswith(("application/x-www-form-urlencoded", "multipart/form-data")):
        value = (await request.form()).get("csrf_token")
        return value if isinstance(value, str) else ""
    return ""


def check_csrf(request: Request, token: str) -> None:
    """Raises ForbiddenError where a state change does not carry this browser's token."""
    if request.method in SAFE_METHODS:
        return
    if not csrf_valid(request.state.browser_hash, token):
        raise ForbiddenError(
            "This page was open too long, or the request came from another site.",
            remedy="Reload the page and try again. Nothing was changed.",
        )


# Every page asks these; built once.
_ROLE = select(Membership.role).where(
    Membership.project_id == bindparam("project"), Membership.user_id == bindparam("user")
)
_PROJECT = (
    select(Project, Membership.role)
    .outerjoin(Membership, (Membership.project_id == Project.id) & (Membership.user_id == bindparam("user")))
    .where(Project.slug == bindparam("slug"))
)


def membership_role(db: Session, user: User, project: Project) -> Role | None:
    if user.is_owner:
        return Role.OWNER
    role = db.scalar(_ROLE, {"project": project.id, "user": user.id})
    return Role(role) if role else None


def global_role(db: Session, user: User) -> Role | None:
    """Outside a project: the strongest role that the person has anywhere."""
    if user.is_owner:
        return Role.OWNER
    held = set(db.scalars(select(Membership.role).where(Membership.user_id == user.id)))
    return next((role for role in Role if role in held), None)


class Require:
    """Guard of a page: signed in, member of the project in the path, permitted, CSRF on state changes."""

    def __init__(self, permission: str) -> None:
        if permission not in PERMISSIONS:
            raise ValueError(f"{permission} is not in PERMISSIONS")
        self.permission = permission

    def __call__(
        self,
        request: Request,
        db: Db,
        user: Annotated[User, Depends(signed_in)],
        token: Annotated[str, Depends(submitted_csrf)],
    ) -> Viewer:
        viewer = self._viewer(request, db, user)
        check_csrf(request, token)
        request.state.viewer = viewer
        if not viewer.can(self.permission):
            allowed = ", ".join(role.value for role in Role if role in PERMISSIONS[self.permission])
            raise ForbiddenError("Your role does not allow this.", remedy=f"It is for: {allowed}.")
        return viewer

    def _viewer(self, request: Request, db: Session, user: User) -> Viewer:
        slug = request.path_params.get("slug")
        if slug is None:
            return Viewer(user, None, global_role(db, user))
        found = db.execute(_PROJECT, {"slug": slug, "user": user.id}).first() if slug.isprintable() else None
        project, role = found or (None, None)
        role = Role.OWNER if user.is_owner else Role(role) if role else None
        if project is None or role is None:
            raise NotFoundError("There is no such project, or you are not a member of it.")
        return Viewer(user, project, role)


class Public:
    """Guard of a page for people who are not signed in: nothing but the CSRF check."""

    def __call__(self, request: Request, token: Annotated[str, Depends(submitted_csrf)]) -> None:
        check_csrf(request, token)


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """An app that calls the API."""

    key: ApiKey
    project: Project

    @property
    def in_page(self) -> bool:
        """The key stands in a web page: it may only give and take back thumbs on outputs that are stored already."""
        return self.key.kind == "publishable"


class RequireKey:
    """Guard of an API route: ``Authorization: Bearer kto_…`` with the scope, not revoked, not expired, within its rate.

    ``publishable``: keys that stand in web pages are taken as well, from the origins that they name.
    """

    def __init__(self, scope: str, *, publishable: bool = False) -> None:
        self.scope = scope
        self.publishable = publishable

    def __call__(self, request: Request, db: Db) -> KeyHolder:
        digest = bearer_hash(request)
        found = db.scalar(select(ApiKey).where(ApiKey.key_hash == digest))
        key = check_key(request, found, self.scope, publishable=self.publishable)
        check_rate(request, take(rate_name(key), rate_limit(key)))
        now = utcnow()
        if key.last_used_at is None or (now - key.last_used_at).total_seconds() > STALE_SECONDS:
            key.last_used_at = now
        return KeyHolder(key, db.get_one(Project, key.project_id))

"""Who may do what: permissions by role, the guard that every route carries, and the CSRF check.

A route says ``viewer: Annotated[Viewer, Depends(Require("run.launch"))]``. A test walks all routes and fails for one without a
guard. Under ``/p/{slug}`` the guard loads the project and answers 404 to anyone who is not a member of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.sessions import find_login, session_cookie
from app.core.clock import utcnow
from app.core.db import Db
from app.core.errors import ForbiddenError, NotFoundError, NotSignedInError
from app.core.security import csrf_valid, hash_token
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
    "source.view": WATCHERS,
    "source.import": LEADS,
    "key.edit": LEADS,
    "snapshot.view": WATCHERS,
    "snapshot.freeze": LEADS,
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


async def submitted_csrf(request: Request) -> str:
    """The token that a page sent back: the header from htmx and fetch, else the hidden form field."""
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


def membership_role(db: Session, user: User, project: Project) -> Role | None:
    if user.is_owner:
        return Role.OWNER
    role = db.scalar(select(Membership.role).where(Membership.project_id == project.id, Membership.user_id == user.id))
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
        project = db.scalar(select(Project).where(Project.slug == slug)) if slug.isprintable() else None
        role = membership_role(db, user, project) if project else None
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


class RequireKey:
    """Guard of an API route: ``Authorization: Bearer kto_…`` with the scope, not revoked, not expired."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    def __call__(self, request: Request, db: Db) -> KeyHolder:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise NotSignedInError("The request has no API key.", remedy="Send `Authorization: Bearer <key>`.")
        now = utcnow()
        key = db.scalar(select(ApiKey).where(ApiKey.key_hash == hash_token(token.strip())))
        if key is None or key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
            raise NotSignedInError("The API key is unknown, revoked or expired.", remedy="Create one under Sources.")
        if self.scope not in key.scopes:
            raise ForbiddenError(f"The API key lacks the scope {self.scope}.", remedy="Create a key with it.")
        if key.last_used_at is None or (now - key.last_used_at).total_seconds() > 60:
            key.last_used_at = now
        project = db.get_one(Project, key.project_id)
        request.state.rate_key = key.prefix
        return KeyHolder(key, project)

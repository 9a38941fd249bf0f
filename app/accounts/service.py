"""People and projects. The command line and the demo use these too."""

from __future__ import annotations

import re
import unicodedata

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.sessions import close_all_logins
from app.core.errors import ConflictError, InvalidError
from app.core.security import hash_password, new_token, verify_password
from app.models import Membership, Project, Role, User

MIN_PASSWORD = 12
MAX_PASSWORD = 1024
MAX_NAME = 100
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def clean_email(email: str) -> str:
    """Lower case. Raises InvalidError where it is no address."""
    cleaned = email.strip().lower()
    if len(cleaned) > 254 or not cleaned.isprintable() or not _EMAIL.fullmatch(cleaned):
        raise InvalidError("The e-mail address does not fit.", fields={"email": "Write it like name@example.org."})
    return cleaned


def clean_name(name: str) -> str:
    cleaned = " ".join(name.split())
    if not cleaned or len(cleaned) > MAX_NAME or not cleaned.isprintable():
        raise InvalidError("The name does not fit.", fields={"name": f"Write 1 to {MAX_NAME} characters."})
    return cleaned


def check_password(password: str, confirm: str | None = None) -> None:
    """Raises InvalidError. Length is the only rule, as NIST SP 800-63B advises."""
    fields = {}
    if len(password) < MIN_PASSWORD:
        fields["password"] = f"At least {MIN_PASSWORD} characters."
    elif len(password) > MAX_PASSWORD:
        fields["password"] = f"At most {MAX_PASSWORD} characters."
    if confirm is not None and confirm != password:
        fields["confirm"] = "The two passwords differ."
    if fields:
        raise InvalidError("The password does not fit.", fields=fields)


def find_user(db: Session, email: str) -> User | None:
    """None also for what can be no address: PostgreSQL takes no NUL."""
    address = email.strip().lower()
    return db.scalar(select(User).where(User.email == address)) if address.isprintable() else None


def create_user(db: Session, email: str, name: str, password: str | None = None, is_owner: bool = False) -> User:
    """Without a password the account waits for its invitation link. Raises InvalidError, ConflictError (address taken)."""
    address, shown = clean_email(email), clean_name(name)
    if password is not None:
        check_password(password)
    user = User(
        email=address,
        name=shown,
        password_hash=hash_password(password) if password is not None else None,
        is_owner=is_owner,
    )
    try:
        with db.begin_nested():
            db.add(user)
    except IntegrityError as error:
        raise ConflictError(
            f"{address} has an account already.",
            remedy="Use another address, or make a new link for this one.",
            fields={"email": "This address has an account already."},
        ) from error
    audit.record(db, "user.created", user_id=user.id, subject=address, is_owner=is_owner)
    return user


def rename_user(db: Session, user: User, name: str) -> None:
    user.name = clean_name(name)
    audit.record(db, "user.renamed", user_id=user.id, subject=user.email)


def set_password(db: Session, user: User, password: str, confirm: str | None = None) -> None:
    """Closes every session of the person: a stolen cookie ends with the old password. Raises InvalidError."""
    check_password(password, confirm)
    user.password_hash = hash_password(password)
    close_all_logins(db, user)
    audit.record(db, "user.password_changed", user_id=user.id, subject=user.email)


def change_password(db: Session, user: User, current: str, password: str, confirm: str) -> None:
    """As ``set_password``, after the current one was given. Raises InvalidError."""
    if not verify_password(current, user.password_hash):
        raise InvalidError("The current password is wrong.", fields={"current": "This is not the current password."})
    set_password(db, user, password, confirm)


def slug_of(name: str) -> str:
    """ASCII words joined by hyphens; empty where the name has none."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall(r"[a-z0-9]+", plain))[:48].strip("-")


def create_project(db: Session, name: str, slug: str | None = None, user: User | None = None) -> Project:
    """The slug is made from the name where none is given; ``user`` becomes the project's owner.

    Raises InvalidError, ConflictError (slug taken).
    """
    shown = clean_name(name)
    wanted = (slug or "").strip() or slug_of(shown)
    if not _SLUG.fullmatch(wanted) or len(wanted) > 48:
        raise InvalidError(
            "The address of the project does not fit.",
            fields={"slug": "1 to 48 lower-case letters and digits, with single hyphens between them."},
        )
    project = Project(name=shown, slug=wanted, split_salt=new_token(16))
    try:
        with db.begin_nested():
            db.add(project)
    except IntegrityError as error:
        raise ConflictError(
            f"Another project has the address {wanted}.",
            remedy="Choose another name or address.",
            fields={"slug": "Another project has this address."},
        ) from error
    if user is not None:
        db.add(Membership(project_id=project.id, user_id=user.id, role=Role.OWNER.value))
        db.flush()
    audit.record(db, "project.created", project_id=project.id, user_id=user.id if user else None, subject=wanted)
    return project


def projects_of(db: Session, user: User) -> list[tuple[Project, Role]]:
    """Those the person may see, by name, with the role held in each."""
    if user.is_owner:
        return [(project, Role.OWNER) for project in db.scalars(select(Project).order_by(Project.name, Project.id))]
    query = (
        select(Project, Membership.role)
        .join(Membership, Membership.project_id == Project.id)
        .where(Membership.user_id == user.id)
        .order_by(Project.name, Project.id)
    )
    return [(project, Role(role)) for project, role in db.execute(query)]

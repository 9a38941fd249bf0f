"""Who works in a project, with which role."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from app.accounts import audit
from app.accounts.links import make_link
from app.accounts.service import clean_email, create_user, find_user
from app.core.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from app.models import Membership, Project, Role, User


@dataclass(frozen=True, slots=True)
class Invitation:
    member: Membership
    token: str | None
    """Of the one-time link that sets the password; None where the person has an account already."""


def members_of(db: Session, project: Project) -> list[Membership]:
    query = (
        select(Membership)
        .join(Membership.user)
        .options(joinedload(Membership.user))
        .where(Membership.project_id == project.id)
    )
    return list(db.scalars(query.order_by(User.name, User.id)))


def clean_role(role: str) -> Role:
    if role not in set(Role):
        words = ", ".join(Role)
        raise InvalidError("There is no such role.", fields={"role": f"One of {words}."})
    return Role(role)


def add_member(db: Session, project: Project, user: User, role: Role | str, by: User | None = None) -> Membership:
    """Raises ConflictError where the person is a member already."""
    held = clean_role(role)
    member = Membership(project_id=project.id, user_id=user.id, role=held.value, user=user)
    try:
        with db.begin_nested():
            db.add(member)
    except IntegrityError as error:
        raise ConflictError(
            f"{user.email} is a member of this project already.",
            remedy="Change the role in the list.",
            fields={"email": "A member of this project already."},
        ) from error
    _record_member(db, "member.added", project, user, by, role=held.value)
    return member


def invite(db: Session, project: Project, email: str, name: str, role: str, by: User | None = None) -> Invitation:
    """Add a person by address; an unknown address gets an account and a link that lives three days.

    Raises InvalidError, ConflictError (a member already); then nothing is kept.
    """
    with db.begin_nested():
        address, held = clean_email(email), clean_role(role)
        user = find_user(db, address)
        is_new = user is None
        if user is None:
            user = create_user(db, address, name.strip() or address.partition("@")[0])
        member = add_member(db, project, user, held, by)
        return Invitation(member, make_link(db, "invite", user, hours=72) if is_new else None)


def may_relink(db: Session, project: Project, user: User) -> bool:
    """A link sets the password: only for people who have none yet and who are in no other project.

    Otherwise an owner of one project could take over the account of a person who has rights elsewhere.
    """
    if user.password_hash is not None or user.is_owner:
        return False
    elsewhere = select(func.count()).where(Membership.user_id == user.id, Membership.project_id != project.id)
    return not db.scalar(elsewhere)


def relink(db: Session, project: Project, user_id: int, by: User | None = None) -> Invitation:
    """A new invitation link; the old one ends. Raises NotFoundError, ForbiddenError."""
    member = _member(db, project, user_id)
    if not may_relink(db, project, member.user):
        raise ForbiddenError(
            "This person has an account of their own.",
            remedy="They can sign in; whoever runs the server can make a link with `kto user link`.",
        )
    _record_member(db, "member.link_made", project, member.user, by)
    return Invitation(member, make_link(db, "invite", member.user, hours=72))


def change_role(db: Session, project: Project, user_id: int, role: str, by: User | None = None) -> Membership:
    """Raises NotFoundError, InvalidError, ConflictError (last owner)."""
    held = clean_role(role)
    member = _member(db, project, user_id)
    if member.role == Role.OWNER and held is not Role.OWNER:
        _keep_an_owner(db, project)
    before, member.role = member.role, held.value
    db.flush()
    _record_member(db, "member.role_changed", project, member.user, by, before=before, role=held.value)
    return member


def remove_member(db: Session, project: Project, user_id: int, by: User | None = None) -> User:
    """Raises NotFoundError, ConflictError (last owner)."""
    member = _member(db, project, user_id)
    if member.role == Role.OWNER:
        _keep_an_owner(db, project)
    user = member.user
    db.delete(member)
    db.flush()
    _record_member(db, "member.removed", project, user, by, role=member.role)
    return user


def _member(db: Session, project: Project, user_id: int) -> Membership:
    query = select(Membership).where(Membership.project_id == project.id, Membership.user_id == user_id)
    member = db.scalar(query.with_for_update())
    if member is None:
        raise NotFoundError("There is no such member in this project.")
    return member


def _keep_an_owner(db: Session, project: Project) -> None:
    """Called before one owner of the project goes. The lock lets two requests not remove each other's last one."""
    db.scalar(select(Project.id).where(Project.id == project.id).with_for_update())
    owners = select(Membership.user_id).where(Membership.project_id == project.id, Membership.role == Role.OWNER)
    if len(set(db.scalars(owners))) < 2:
        raise ConflictError("This is the last owner of the project.", remedy="Make someone else an owner first.")


def _record_member(db: Session, action: str, project: Project, user: User, by: User | None, **details: str) -> None:
    audit.record(db, action, project_id=project.id, user_id=by.id if by else None, subject=user.email, **details)


def installation_owners(db: Session) -> list[User]:
    """Owners in every project, members or not."""
    return list(db.scalars(select(User).where(User.is_owner, User.is_active).order_by(User.name, User.id)))

"""Rows for tests, with as few words as possible."""

from __future__ import annotations

from itertools import count
from typing import TypeVar

from sqlalchemy.orm import Session

from app.accounts.keys import SCOPES
from app.core.ids import content_hash
from app.core.security import hash_token, new_token
from app.models import ApiKey, Completion, Membership, Project, Prompt, Rating, Role, User

_numbers = count(1)


Row = TypeVar("Row")


class Factory:
    def __init__(self, db: Session) -> None:
        self.db = db

    def add(self, row: Row) -> Row:
        self.db.add(row)
        self.db.flush()
        return row

    def user(self, *, is_owner: bool = False, name: str = "Ada Moss") -> User:
        return self.add(User(email=f"user{next(_numbers)}@example.org", name=name, is_owner=is_owner))

    def project(self, name: str = "Helpdesk") -> Project:
        number = next(_numbers)
        return self.add(Project(slug=f"helpdesk-{number}", name=name, split_salt="salt"))

    def member(self, project: Project, role: Role = Role.LEAD, name: str = "Lee Ader") -> User:
        user = self.user(name=name)
        self.add(Membership(project_id=project.id, user_id=user.id, role=role.value))
        return user

    def api_key(self, project: Project, scopes: tuple[str, ...] = SCOPES) -> str:
        token = "kto_" + new_token()
        self.add(
            ApiKey(
                project_id=project.id, name="shop", prefix=token[:10], key_hash=hash_token(token), scopes=list(scopes)
            )
        )
        return token

    def completion(
        self,
        project: Project,
        text: str = "An answer.",
        prompt: str = "A question?",
        category: str | None = None,
        model: str = "m1",
    ) -> Completion:
        messages = [{"role": "user", "content": prompt}]
        digest = content_hash([messages, category, None])
        row = self.db.query(Prompt).filter_by(project_id=project.id, content_hash=digest).one_or_none()
        row = row or self.add(
            Prompt(
                project_id=project.id,
                content_hash=digest,
                messages=messages,
                category=category,
                root=content_hash(messages),
            )
        )
        answer = [{"role": "assistant", "content": text}]
        return self.add(
            Completion(
                project_id=project.id,
                prompt_id=row.id,
                content_hash=content_hash([digest, answer, model, next(_numbers)]),
                messages=answer,
                text=text,
                model=model,
            )
        )

    def rating(self, completion: Completion, value: bool = True, rater: str = "r1", source: str = "import") -> Rating:
        return self.add(
            Rating(
                project_id=completion.project_id, completion_id=completion.id, source=source, rater=rater, value=value
            )
        )

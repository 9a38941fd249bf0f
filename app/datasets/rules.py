"""The label rule of a project: how ratings become one label. Kept in the project's settings, and whole in each snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core.errors import InvalidError
from app.models import Project, RaterSetting, User

KEY = "label_rule"
ADJUDICATION = "adjudication"
"""Source of a lead's last word on a completion: it is the label, whatever the votes say."""

RULE = {
    "label": "majority of the current ratings of a completion",
    "ties": "dropped",
    "conflicts": "copies of one answer with different labels: all dropped",
    "duplicates": "copies of one answer with the same label: one kept",
    "split": "by conversation root: tenth of sha256(salt + root); 0-7 train, 8 dev, 9 test",
}

Votes = Literal["majority", "unanimous", "weighted"]


class LabelRule(BaseModel):
    """The defaults are the plain majority."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    votes: Votes = "majority"
    """majority of the weights that leads gave the raters; unanimous; weighted: by measured reliability as well."""
    min_votes: int = Field(default=1, ge=1, le=20)
    """Fewer counted votes than these make no label."""
    min_share: float = Field(default=0.5, ge=0.5, le=1)
    """The winning side's share of the weight must be at least this."""
    max_rater_share: float | None = Field(default=None, ge=0.01, lt=1)
    """A single rater may alone decide at most this share of a class's labels."""

    @property
    def is_default(self) -> bool:
        return self == LabelRule()

    @property
    def sentence(self) -> str:
        """As a snapshot keeps it."""
        if self.is_default:
            return RULE["label"]
        words = {
            "majority": "majority of the current ratings of a completion",
            "unanimous": "unanimous current ratings of a completion",
            "weighted": "majority of the current ratings of a completion, weighted by reliability",
        }[self.votes]
        if self.votes != "unanimous" and self.min_share > 0.5:
            words += f", at least {self.min_share:.0%} of the weight"
        if self.min_votes > 1:
            words += f", at least {self.min_votes} votes"
        if self.max_rater_share is not None:
            words += f", no rater alone decides more than {self.max_rater_share:.0%} of a class"
        return words


def load_rule(project: Project) -> LabelRule:
    """A rule that cannot be read (written by a later version) is not guessed at: InvalidError."""
    try:
        return LabelRule.model_validate(project.settings.get(KEY) or {})
    except ValidationError as error:
        raise InvalidError(
            "The project's label rule cannot be read.", remedy="Save it again on its page, under Readiness."
        ) from error


def parse_rule(form: Mapping[str, str]) -> LabelRule:
    """From the fields of the page: shares in per cent, an empty cap is none. Raises InvalidError by field."""
    raw: dict[str, Any] = {"votes": form.get("votes", "majority"), "min_votes": form.get("min_votes") or 1}
    errors: dict[str, str] = {}
    for name in ("min_share", "max_rater_share"):
        typed = (form.get(name) or "").strip().removesuffix("%").strip().replace(",", ".")
        if not typed:
            continue
        try:
            raw[name] = round(float(typed) / 100, 6)
        except ValueError:
            errors[name] = FIELD_WORDS[name]
    try:
        rule = LabelRule.model_validate(raw)
    except ValidationError as error:
        errors |= {str(item["loc"][0]): FIELD_WORDS[str(item["loc"][0])] for item in error.errors()}
    if errors:
        raise InvalidError("The rule does not fit.", fields=errors)
    return rule


FIELD_WORDS = {
    "votes": "majority, unanimous or weighted",
    "min_votes": "a whole number from 1 to 20",
    "min_share": "a percentage from 50 to 100",
    "max_rater_share": "a percentage from 1 to 99, or nothing",
}


def save_rule(db: Session, project: Project, rule: LabelRule, user: User | None) -> None:
    before = project.settings.get(KEY) or {}
    after = rule.model_dump(exclude_defaults=True)
    if before == after:
        return
    project.settings = {**project.settings, KEY: after}
    db.flush()
    audit.record(
        db, "label_rule.changed", project_id=project.id, user_id=user.id if user else None, before=before, after=after
    )


def rule_facts(db: Session, project: Project, rule: LabelRule) -> dict[str, Any]:
    """What a snapshot keeps of the rule. The plain majority without weights is the same few words as ever."""
    facts: dict[str, Any] = dict(RULE)
    if not rule.is_default:
        facts |= {"label": rule.sentence, "settings": rule.model_dump()}
    left_out, reduced = db.execute(
        select(
            func.count().filter(RaterSetting.weight == 0),
            func.count().filter(RaterSetting.weight > 0, RaterSetting.weight < 1),
        ).where(RaterSetting.project_id == project.id)
    ).one()
    if left_out or reduced:
        facts["raters"] = {"left_out": left_out, "reduced": reduced}
    return facts

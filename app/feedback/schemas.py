"""What an item of feedback looks like when it comes in, and how it goes out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from app.core.clock import utcnow
from app.core.errors import InvalidError
from app.core.ids import canonical_json
from app.feedback.dialogue import parse_dialogue
from app.feedback.labels import parse_label
from app.feedback.messages import check_storable, parse_completion, parse_prompt

MAX_METADATA_BYTES = 64_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Short = Annotated[str, Field(min_length=1, max_length=200)]
"""Names and ids: they stand in indexes."""

BigId = Annotated[int, Path(ge=1, le=2**63 - 1)]
"""In the address of a completion or a rating."""

MESSAGE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"description": "Text, a list of text parts, or null beside tool_calls."},
        "name": {"type": "string"},
        "tool_calls": {"type": "array", "items": {"type": "object"}},
        "tool_call_id": {"type": "string"},
    },
}
TEXT_OR_MESSAGES = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": MESSAGE_SCHEMA}]})
LABEL_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "boolean"},
            {"type": "integer", "enum": [1, 0, -1]},
            {"enum": ["up", "down", "thumbs_up", "thumbs_down", "desirable", "undesirable"]},
            {"type": "null"},
        ]
    }
)
EXAMPLE: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "How long does a refund take?"}],
    "completion": "3 to 5 working days after the parcel has reached us.",
    "label": "up",
    "category": "refund timing",
    "model": "helpdesk-7",
    "rater": "customer-81",
    "completion_id": "msg-5521",
}


def _label(value: Any) -> bool | None:
    return None if value is None else parse_label(value)


class FeedbackItem(BaseModel):
    """One completion, and usually one thumb on it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [EXAMPLE]},
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    prompt: Annotated[list[dict[str, Any]], BeforeValidator(parse_prompt), TEXT_OR_MESSAGES]
    """Text, or chat messages. Text that holds a `Human:/Assistant:` dialogue becomes messages."""
    completion: Annotated[list[dict[str, Any]], BeforeValidator(parse_completion), TEXT_OR_MESSAGES]
    """Text, or the assistant's messages."""
    label: Annotated[bool | None, BeforeValidator(_label), LABEL_SCHEMA] = None
    """Thumb up or down. Without one the completion is stored and waits for annotation."""
    category: Short | None = None
    """What kind of prompt it is; balance and diversity are told by category."""
    model: Short | None = None
    """The model that answered."""
    rater: Short | None = None
    """Who judged. A later verdict of the same rater replaces the earlier one. Without a rater the feedback's or the output's id
    stands for it; without these, equal thumbs on one text count once and opposite ones are both kept."""
    conversation_id: Short | None = None
    """Keeps all turns of one conversation on one side of the train/dev/test split."""
    external_id: Short | None = None
    """The feedback's own id."""
    completion_id: Short | None = None
    """The app's own id of this output."""
    finish_reason: Annotated[str, Field(max_length=50)] | None = None
    """As the model server said: stop, length (the completion was cut), tool_calls."""
    reasons: Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=20)] | None = None
    """Codes of your own, at most 20."""
    comment: Annotated[str, Field(max_length=2000)] | None = None
    occurred_at: AwareDatetime | None = None
    """When the thumb was given, with its time zone. An older verdict never replaces a newer one."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Anything else, at most 64,000 bytes as JSON."""

    @model_validator(mode="before")
    @classmethod
    def _first_blank(cls, data: Any) -> Any:
        """In "Assistant: Hello" the blank belongs to the marker that the prompt ends with, not to the completion."""
        if not isinstance(data, dict):
            raise ValueError("an item is an object with prompt, completion and label")  # noqa: TRY004 -- pydantic
        prompt, completion = data.get("prompt"), data.get("completion")
        if (
            isinstance(prompt, str)
            and isinstance(completion, str)
            and completion.startswith(" ")
            and parse_dialogue(prompt)
        ):
            return {**data, "completion": completion[1:]}
        return data

    @field_validator("*", mode="before")
    @classmethod
    def _storable(cls, value: Any, info: ValidationInfo) -> Any:
        check_storable(value, info.field_name or "")
        return value

    @field_validator("occurred_at")
    @classmethod
    def _within_time(cls, value: datetime | None) -> datetime | None:
        """Beyond these lie the ends of Python's calendar; and nothing could ever replace a verdict from the far future."""
        if value is not None and not _EPOCH <= value <= utcnow() + timedelta(days=1):
            raise ValueError("lies before 1970 or in the future")
        return value

    @field_validator("metadata")
    @classmethod
    def _metadata_size(cls, value: dict[str, Any]) -> dict[str, Any]:
        size = len(canonical_json(value))
        if size > MAX_METADATA_BYTES:
            raise ValueError(f"metadata has {size:,} bytes as JSON, {MAX_METADATA_BYTES:,} is the limit")
        return value


class ItemResult(BaseModel):
    """What became of one item."""

    index: int
    status: Literal["created", "updated", "unchanged", "error"]
    """created: stored; updated: replaces this rater's earlier verdict; unchanged: was there already; error: not stored."""
    id: int | None = None
    """The rating's id, for GET /feedback/{id}. Null without a label."""
    output_id: int | None = None
    """Our id of the stored completion."""
    message: str | None = None
    fields: dict[str, str] = Field(default_factory=dict)
    """Field -> what is wrong with it."""


class BatchResult(BaseModel):
    created: int
    updated: int
    unchanged: int
    errors: int
    items: list[ItemResult]


class FeedbackOut(BaseModel):
    """A stored rating with what was rated."""

    model_config = ConfigDict(protected_namespaces=())

    id: int
    output_id: int
    prompt: list[dict[str, Any]]
    completion: list[dict[str, Any]]
    label: bool
    category: str | None
    model: str | None
    source: str
    rater: str
    conversation_id: str | None
    external_id: str | None
    completion_id: str | None
    finish_reason: str | None
    reasons: list[str]
    comment: str | None
    metadata: dict[str, Any]
    is_current: bool
    """False once the same rater gave another verdict or took this one back."""
    occurred_at: datetime
    created_at: datetime


class FeedbackPage(BaseModel):
    items: list[FeedbackOut]
    next_cursor: str | None


def _visible(text: str) -> str:
    """An error names what it refuses, and must itself be storable."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def _words(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        return "is no field of an item; put extra values under metadata"
    return _visible(error["msg"].removeprefix("Value error, "))


def parse_item(data: Any) -> FeedbackItem:
    """Raises InvalidError with a message for every field that does not fit."""
    try:
        return FeedbackItem.model_validate(data)
    except ValidationError as failed:
        fields: dict[str, str] = {}
        for error in failed.errors():
            fields.setdefault(_visible(".".join(str(part) for part in error["loc"])) or "item", _words(error))
    raise InvalidError("The item does not fit.", fields=fields)

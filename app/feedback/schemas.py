"""What an item of feedback looks like when it comes in, and how it goes out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

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
from pydantic_core import ErrorDetails, PydanticCustomError

from app.core.clock import utcnow
from app.core.errors import InvalidError
from app.core.ids import canonical_json
from app.feedback.dialogue import parse_dialogue
from app.feedback.labels import parse_label
from app.feedback.messages import check_storable, parse_completion, parse_prompt

MAX_METADATA_BYTES = 64_000
MAX_SAMPLING_BYTES = 8_000
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


EXAMPLE_THUMB: dict[str, Any] = {
    "completion_id": "msg-5521",
    "rater": "customer-81",
    "up": False,
    "reasons": ["outdated"],
    "comment": "It took two weeks.",
}
EXAMPLE_COMPLETION: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "How long does a refund take?"}],
    "completion": "3 to 5 working days after the parcel has reached us.",
    "model": "helpdesk-7",
    "sampling": {"temperature": 0.7, "top_p": 0.95},
    "finish_reason": "stop",
    "category": "refund timing",
    "conversation_id": "chat-311",
    "external_id": "msg-5521",
    "subject": "customer-81",
}


def _check_size(value: dict[str, Any], name: str, limit: int) -> dict[str, Any]:
    size = len(canonical_json(value)) if value else 0
    if size > limit:
        raise ValueError(f"{name} has {size:,} bytes as JSON, {limit:,} is the limit")
    return value


def _label(value: Any) -> bool | None:
    return None if value is None else parse_label(value)


def _correction(value: Any) -> list[dict[str, Any]] | None:
    return None if value is None else parse_completion(value)


class ThumbFields(BaseModel):
    """What a thumb says, whatever it is on."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    label: Annotated[bool | None, BeforeValidator(_label), LABEL_SCHEMA] = None
    """Thumb up or down; `up` with true or false says the same."""
    rater: Short | None = None
    """Who judged. A later verdict of the same rater replaces the earlier one. Without a rater the feedback's or the output's id
    stands for it; without these, equal thumbs on one text count once and opposite ones are both kept."""
    external_id: Short | None = None
    """The feedback's own id. One id is one rater's feedback on one output."""
    completion_id: Short | None = None
    """The app's own id of the output."""
    reasons: Annotated[list[Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=20)] | None = None
    """Codes of your own, at most 20."""
    comment: Annotated[str, Field(max_length=2000)] | None = None
    correction: Annotated[list[dict[str, Any]] | None, BeforeValidator(_correction), TEXT_OR_MESSAGES] = None
    """The answer as the rater would have it: an undesirable rating of the completion and a desirable one of the edit."""
    occurred_at: AwareDatetime | None = None
    """When the thumb was given, with its time zone. An older verdict never replaces a newer one."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Anything else, at most 64,000 bytes as JSON."""

    @property
    def value(self) -> bool | None:
        """True: up. A correction alone says down."""
        return False if self.label is None and self.correction is not None else self.label

    @model_validator(mode="before")
    @classmethod
    def _up_is_label(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "up" not in data:
            return data
        if data.get("label") is not None:
            raise PydanticCustomError("both", "say up or label, not both")
        if not isinstance(data["up"], bool):
            raise PydanticCustomError("up", "up is true or false")
        return {**{name: value for name, value in data.items() if name != "up"}, "label": data["up"]}

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

    @field_validator("correction")
    @classmethod
    def _corrects_what_is_bad(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("label") is True:
            raise ValueError("comes with a thumb down, or without one: an answer that needs an edit is not desirable")
        return value

    @field_validator("metadata")
    @classmethod
    def _metadata_size(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _check_size(value, "metadata", MAX_METADATA_BYTES)


class OutputFields(BaseModel):
    """What a model was asked and what it answered."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    prompt: Annotated[list[dict[str, Any]], BeforeValidator(parse_prompt), TEXT_OR_MESSAGES]
    """Text, or chat messages. Text that holds a `Human:/Assistant:` dialogue becomes messages."""
    completion: Annotated[list[dict[str, Any]], BeforeValidator(parse_completion), TEXT_OR_MESSAGES]
    """Text, or the assistant's messages."""
    category: Short | None = None
    """What kind of prompt it is; balance and diversity are told by category."""
    model: Short | None = None
    """The model that answered."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    """How it was generated: temperature, top_p, max_tokens, seed, … At most 8,000 bytes as JSON."""
    finish_reason: Annotated[str, Field(max_length=50)] | None = None
    """As the model server said: stop, length (the completion was cut), tool_calls."""
    conversation_id: Short | None = None
    """Keeps all turns of one conversation on one side of the train/dev/test split."""
    subject: Short | None = None
    """The person who asked, by the app's name for them: what a request to erase their texts goes by."""

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

    @field_validator("sampling")
    @classmethod
    def _sampling_size(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _check_size(value, "sampling", MAX_SAMPLING_BYTES)


class FeedbackItem(ThumbFields, OutputFields):
    """One completion, and usually one thumb on it. Without one the completion is stored and waits for annotation."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})


class Thumb(ThumbFields):
    """A thumb on an output that was sent before, or will be: named, not repeated."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_THUMB]})

    output_id: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = None
    """Our id of the output, in place of `completion_id`."""

    @model_validator(mode="after")
    def _says_something(self) -> Thumb:
        missing = {}
        if self.value is None:
            missing["label"] = "is missing; true is a thumb up"
        if (self.completion_id is None) == (self.output_id is None):
            missing["completion_id"] = "name the output by completion_id or by output_id"
        if missing:
            raise InvalidError("The item does not fit.", fields=missing)
        return self


class CompletionItem(OutputFields):
    """One completion as an app logs it, to be rated later."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_COMPLETION]})

    external_id: Short | None = None
    """The app's own id of this output: what feedback calls `completion_id`."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Anything else, at most 64,000 bytes as JSON."""

    @field_validator("*", mode="before")
    @classmethod
    def _storable(cls, value: Any, info: ValidationInfo) -> Any:
        check_storable(value, info.field_name or "")
        return value

    @field_validator("metadata")
    @classmethod
    def _metadata_size(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _check_size(value, "metadata", MAX_METADATA_BYTES)

    def as_feedback(self) -> FeedbackItem:
        """The same without a thumb. Was checked already."""
        values = {name: getattr(self, name) for name in _SHARED}
        return FeedbackItem.model_construct(**values, completion_id=self.external_id)


_SHARED = (*OutputFields.model_fields, "metadata")


def input_schema(*models: type[ThumbFields]) -> dict[str, Any]:
    """What an item may look like, for the OpenAPI document: `up` stands beside `label`."""
    found = []
    for model in models:
        schema = model.model_json_schema()
        words = {"type": "boolean", "description": "True: thumb up. The same as `label`."}
        found.append({**schema, "properties": {"up": words, **schema["properties"]}})
    return found[0] if len(found) == 1 else {"anyOf": found}


class ItemResult(BaseModel):
    """What became of one item."""

    index: int
    status: Literal["created", "updated", "unchanged", "pending", "error"]
    """created: stored; updated: replaces this rater's earlier verdict; unchanged: was there already; pending: stored, waits for its
    output; error: not stored."""
    id: int | None = None
    """The rating's id, for GET /feedback/{id}. Null without a label."""
    output_id: int | None = None
    """Our id of the stored completion."""
    correction_output_id: int | None = None
    """Our id of the completion that the correction is."""
    message: str | None = None
    fields: dict[str, str] = Field(default_factory=dict)
    """Field -> what is wrong with it."""


class BatchResult(BaseModel):
    created: int
    updated: int
    unchanged: int
    pending: int
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
    correction_output_id: int | None
    """Our id of the rater's edit."""
    sampling: dict[str, Any]
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


Parsed = TypeVar("Parsed", bound=BaseModel)


def _parse(model: type[Parsed], data: Any) -> Parsed:
    """Raises InvalidError with a message for every field that does not fit."""
    try:
        return model.model_validate(data)
    except ValidationError as failed:
        fields: dict[str, str] = {}
        for error in failed.errors():
            place = error["loc"] or (("up",) if error["type"] in {"up", "both"} else ())
            fields.setdefault(_visible(".".join(str(part) for part in place)) or "item", _words(error))
    raise InvalidError("The item does not fit.", fields=fields)


def parse_item(data: Any) -> FeedbackItem:
    """Raises InvalidError with a message for every field that does not fit."""
    return _parse(FeedbackItem, data)


def parse_thumb(data: Any) -> Thumb:
    """Raises InvalidError with a message for every field that does not fit."""
    return _parse(Thumb, data)


def parse_feedback(data: Any) -> FeedbackItem | Thumb:
    """A thumb with its output, or on an output that is only named. Raises InvalidError."""
    if isinstance(data, dict) and not {"prompt", "completion"} & data.keys() and _NAMES & data.keys():
        return _parse(Thumb, data)
    return _parse(FeedbackItem, data)


_NAMES = {"completion_id", "output_id"}


def parse_completion_item(data: Any) -> CompletionItem:
    """Raises InvalidError with a message for every field that does not fit."""
    return _parse(CompletionItem, data)

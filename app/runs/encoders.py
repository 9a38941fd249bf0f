"""Local encoders: folders under the model roots whose vectors compare the meanings of samples."""

from __future__ import annotations

from app.core.errors import InvalidError
from app.runs.base_models import BaseModel, find_base_model


def find_encoder(name: str) -> BaseModel | None:
    """The folder that a user named; None for none. Raises InvalidError naming the form's field."""
    if not name.strip():
        return None
    try:
        found = find_base_model(name)
    except InvalidError as error:
        text = error.fields.get("base_model", error.message)
        raise InvalidError("The encoder cannot be used.", fields={"encoder": text}) from error
    if found.path is None:
        text = "name a folder under a model folder: an encoder is not fetched by a hub id"
        raise InvalidError("The encoder cannot be used.", fields={"encoder": text})
    return found

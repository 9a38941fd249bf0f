"""Endpoints: OpenAI-compatible servers that judge, guard, embed or answer. Keys are write-only."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts import audit
from app.core import crypto, outbound
from app.core.errors import InvalidError, NotFoundError, UnavailableError
from app.models import Endpoint, Project, User
from app.runs.encoders import find_encoder
from app.web.formats import num
from worker.alignment.evaluation.judging.client import Client, EndpointSettings, Request
from worker.alignment.evaluation.judging.wire import EndpointError

KINDS = {
    "judge": "Judge",
    "guard": "Guard model",
    "embeddings": "Embeddings",
    "encoder": "Local encoder, a model folder",
    "model": "Model to compare with",
}
PURPOSE = "endpoint key"
ENV_PREFIX = "KTO_ENDPOINT_"
MAX_NAME = 80


def list_endpoints(db: Session, project: Project, kinds: Sequence[str] | None = None) -> Sequence[Endpoint]:
    query = select(Endpoint).where(Endpoint.project_id == project.id)
    if kinds is not None:
        query = query.where(Endpoint.kind.in_(kinds))
    return db.scalars(query.order_by(func.lower(Endpoint.name))).all()


def offered(db: Session, project: Project) -> dict[str, Sequence[Endpoint]]:
    """Names of the form that runs suites: who judges, and which model may answer beside the checkpoint."""
    return {
        "judges": list_endpoints(db, project, kinds=("judge", "guard")),
        "models": list_endpoints(db, project, kinds=("model",)),
    }


def find_endpoint(db: Session, project_id: int, endpoint_id: int) -> Endpoint:
    """Raises NotFoundError."""
    endpoint = db.scalar(select(Endpoint).where(Endpoint.project_id == project_id, Endpoint.id == endpoint_id))
    if endpoint is None:
        raise NotFoundError("There is no such endpoint in this project.")
    return endpoint


def save(
    db: Session, project: Project, typed: dict[str, str], *, user: User | None, endpoint: Endpoint | None = None
) -> Endpoint:
    """Make or change one. ``typed``: name, kind, url, model, key, key_env, timeout, concurrency; an empty key keeps the stored one.

    Raises InvalidError, field by field.
    """
    values, errors = _checked(db, project, typed, endpoint)
    if errors:
        raise InvalidError("The endpoint does not fit.", fields=errors)
    moved = endpoint is not None and endpoint.url != values["url"]
    row = endpoint or Endpoint(project_id=project.id, created_by=user.id if user else None)
    for name, value in values.items():
        setattr(row, name, value)
    key = typed.get("key", "").strip() if row.kind != "encoder" else ""
    if key:
        row.secret = crypto.encrypt(key, PURPOSE)
    elif moved or values["secret_env"]:
        row.secret = None  # a key is for the server that it was typed for
    db.add(row)
    db.flush()
    audit.record(
        db,
        "endpoint.save",
        project_id=project.id,
        user_id=user.id if user else None,
        subject=f"endpoint {row.name}",
        url=row.url,
    )
    return row


def _checked(
    db: Session, project: Project, typed: dict[str, str], endpoint: Endpoint | None
) -> tuple[dict[str, Any], dict[str, str]]:
    get = {name: typed.get(name, "").strip() for name in ("name", "kind", "url", "model", "key_env")}
    errors: dict[str, str] = {}
    if not get["name"] or len(get["name"]) > MAX_NAME or not get["name"].isprintable():
        errors["name"] = f"give it a name of at most {MAX_NAME} characters"
    else:
        other = db.scalar(select(Endpoint.id).where(Endpoint.project_id == project.id, Endpoint.name == get["name"]))
        if other is not None and (endpoint is None or other != endpoint.id):
            errors["name"] = "another endpoint has this name"
    if get["kind"] not in KINDS:
        errors["kind"] = "choose what it is for"
    if not get["model"] or len(get["model"]) > 200 or not get["model"].isprintable():
        errors["model"] = "name the model as the server calls it"
    if get["key_env"] and not _is_env(get["key_env"]):
        errors["key_env"] = f"name a variable that begins with {ENV_PREFIX}: others are not the project's to read"
    if get["kind"] == "encoder":
        get |= {"url": "", "key_env": ""}
        errors |= _check_encoder(get["model"])
    else:
        errors |= _check_url(get["url"])
    options = {
        "timeout_seconds": _number(typed, "timeout", 60, 1, 600, errors),
        "concurrency": _number(typed, "concurrency", 4, 1, 64, errors),
    }
    values: dict[str, Any] = {name: get[name] for name in ("name", "kind", "model")}
    return values | {"url": get["url"].rstrip("/"), "secret_env": get["key_env"], "options": options}, errors


def _check_url(url: str) -> dict[str, str]:
    try:
        outbound.check_url(url)
    except InvalidError as error:
        return error.fields
    return {}


def _check_encoder(folder: str) -> dict[str, str]:
    try:
        find_encoder(folder)
    except InvalidError as error:
        return {"model": error.fields["encoder"]}
    return {}


def _is_env(name: str) -> bool:
    return name.startswith(ENV_PREFIX) and name.isidentifier() and name.isascii()


def _number(typed: dict[str, str], name: str, usual: int, low: int, high: int, errors: dict[str, str]) -> int:
    text = typed.get(name, "").strip()
    if not text:
        return usual
    if not text.isdecimal() or len(text) > 6 or not low <= int(text) <= high:
        errors[name] = f"a whole number from {low} to {high}"
        return usual
    return int(text)


def remove(db: Session, project: Project, endpoint: Endpoint, *, user: User | None) -> None:
    audit.record(
        db,
        "endpoint.remove",
        project_id=project.id,
        user_id=user.id if user else None,
        subject=f"endpoint {endpoint.name}",
    )
    db.delete(endpoint)
    db.flush()


def settings_of(endpoint: Endpoint, **changes: Any) -> EndpointSettings:
    """What the client needs, the key included. Raises UnavailableError where the key cannot be had."""
    key = ""
    if endpoint.secret is not None:
        key = crypto.decrypt(endpoint.secret, PURPOSE)
    elif endpoint.secret_env:
        key = os.environ.get(endpoint.secret_env, "") if _is_env(endpoint.secret_env) else ""
        if not key:
            raise UnavailableError(
                f"The variable {endpoint.secret_env} is not set here.", remedy="Set it for web and workers."
            )
    settings: dict[str, Any] = {
        "url": endpoint.url,
        "model": endpoint.model,
        "key": key,
        "timeout_seconds": float(endpoint.options.get("timeout_seconds", 60)),
        "concurrency": int(endpoint.options.get("concurrency", 4)),
    }
    return EndpointSettings(**(settings | changes))


def client_of(endpoint: Endpoint, *, stop: threading.Event | None = None, **changes: Any) -> Client:
    """A client bound to the address policy; a context manager. Once ``stop`` is set nothing more is asked."""
    settings = settings_of(endpoint, **changes)
    return Client(settings, transport=outbound.transport(), validate=outbound.validate, stop=stop)


def test(endpoint: Endpoint) -> tuple[bool, str]:
    """Ask it one short question: whether it answered, and in words what it said or what is wrong."""
    if endpoint.kind == "encoder":
        return _test_encoder(endpoint)
    started = time.monotonic()
    try:
        with client_of(endpoint, timeout_seconds=15.0, max_attempts=1, budget_seconds=20.0) as client:
            if endpoint.kind == "embeddings":
                size = len(client.embed(["one sentence"])[0])
                said = f"It gives vectors of {size} numbers"
            else:
                question = ({"role": "user", "content": "Answer with the single word: ready"},)
                answer = client.chat(Request(messages=question, max_tokens=16))
                text = " ".join(answer["texts"][0].split())[:80]
                said = f"It answered “{text}”" if text else "It answered with an empty text"
    except (EndpointError, UnavailableError) as error:
        return False, error.message
    return True, f"{said} in {time.monotonic() - started:.1f} s."


def _test_encoder(endpoint: Endpoint) -> tuple[bool, str]:
    """Its files alone: models are loaded in a job's process."""
    try:
        found = find_encoder(endpoint.model)
    except InvalidError as error:
        return False, error.fields["encoder"]
    assert found is not None, "a stored encoder has a folder"
    return True, f"The folder holds {found.architecture or 'a model'} of {num(found.num_parameters)} parameters."

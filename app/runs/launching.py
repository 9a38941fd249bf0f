"""From the launch form to a run: choices, checks, launch."""

from __future__ import annotations

import json
import secrets
import shlex
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import InvalidError, NotFoundError
from app.datasets.service import find_snapshot
from app.models import Project, Run, Snapshot, User
from app.runs import diversity_suites, preflight, service, starts
from app.runs.base_models import BaseModel, find_base_model, list_base_models
from app.runs.encoders import find_encoder
from app.runs.forms import ALWAYS, OBJECTIVES, PRESET_WORDS, PRESETS, LaunchForm
from app.settings import get_settings
from worker.alignment.config import AlignmentConfig, ConfigError

DEFAULT_LENGTH = 2048
FROM_DATA = "from the data"
"""Of class weights that nobody has set."""


def start_form(db: Session, project: Project, *, source: Run | None, snapshot_id: int | None) -> LaunchForm:
    """What an untouched form holds: a run's settings when cloning, else the standard preset on the newest snapshot."""
    if source is not None:
        return LaunchForm.of_config(
            AlignmentConfig.from_json(source.config, drop_unknown=True), snapshot_id=snapshot_id or source.snapshot_id
        )
    snapshots = service.list_snapshots(db, project)
    models = list_base_models()
    chosen = snapshot_id or (snapshots[0].id if snapshots else 0)
    context = models[0].context_length if models else 0
    return LaunchForm(
        snapshot_id=chosen,
        base_model=models[0].short_name if models else "",
        max_length=min(DEFAULT_LENGTH, context or DEFAULT_LENGTH),
        **PRESETS["standard"],
    )


def choices(db: Session, project: Project, source: Run | None, diversity_suite: str) -> dict[str, Any]:
    return {
        "snapshots": service.list_snapshots(db, project),
        "models": list_base_models(),
        "objectives": [(value, name) for value, name, _ in OBJECTIVES],
        "objective_hints": {value: sentence for value, _, sentence in OBJECTIVES},
        "starts": [starts.choice(version) for version in starts.list_starts(db, project)],
        "suites": diversity_suites.choices(db, project, diversity_suite),
        "allow_hub": get_settings().allow_hub_models,
        "presets": [(name, *PRESET_WORDS[name], json.dumps(PRESETS[name])) for name in PRESETS],
        "source": source,
        "original": LaunchForm.of_config(
            AlignmentConfig.from_json(source.config, drop_unknown=True), snapshot_id=source.snapshot_id
        ).model_dump()
        if source
        else {},
    }


def resolve(db: Session, project: Project, form: LaunchForm) -> tuple[Snapshot, BaseModel, AlignmentConfig]:
    """Raises InvalidError with form field names."""
    try:
        snapshot = service.get_snapshot(db, project, form.snapshot_id)
    except NotFoundError as error:
        raise InvalidError("No snapshot.", fields={"snapshot_id": "choose a frozen snapshot"}) from error
    model = find_base_model(form.base_model)
    config = form.to_config(base_model=model.name)
    starts.find_start(db, project.id, config)
    diversity_suites.find_version(db, project.id, config.evaluation.diversity_suite)
    return snapshot, model, with_encoder(config)


def with_encoder(config: AlignmentConfig) -> AlignmentConfig:
    """The encoder by its folder. Raises InvalidError naming the form's field."""
    found = find_encoder(config.evaluation.encoder)
    return replace(config, evaluation=replace(config.evaluation, encoder=found.name if found else ""))


def checked(db: Session, project: Project, typed: dict[str, Any]) -> dict[str, Any]:
    """Context of the preflight card: findings, or the fields that do not fit yet."""
    context: dict[str, Any] = {"result": None, "problems": {}, "snapshot": None, "model": None, "command": ""}
    try:
        form = LaunchForm.parse(typed)
        snapshot, model, config = resolve(db, project, form)
    except InvalidError as error:
        return context | {"problems": error.fields}
    result = preflight.check(db, snapshot, model, config)
    command = equivalent_command(project, snapshot, model, config)
    return context | {"result": result, "snapshot": snapshot, "model": model, "command": command}


def launch_form(db: Session, project: Project, user: User, typed: dict[str, Any]) -> Run:
    """Raises InvalidError where a field does not fit or the preflight has errors; nothing is queued then."""
    form = LaunchForm.parse(typed)
    if not form.launch_key:
        raise InvalidError("Open the launch page again: this form has no key.")
    snapshot, model, config = resolve(db, project, form)
    _refuse(preflight.check(db, snapshot, model, config))
    return service.launch(db, project, user, config=config, snapshot=snapshot, launch_key=form.launch_key)


def launch_by_names(
    db: Session, *, project: str, snapshot: str, base_model: str, changes: list[str], launch_key: str
) -> tuple[Run, list[str]]:
    """For the command line: the run, and the preflight's warnings. Raises StudioError as the form does."""
    found = db.scalar(select(Project).where(Project.slug == project))
    if found is None:
        raise NotFoundError(f"There is no project {project}.")
    frozen = find_snapshot(db, found, snapshot)
    model = find_base_model(base_model)
    config = with_encoder(config_from_words(model.name, changes))
    starts.find_start(db, found.id, config)
    diversity_suites.find_version(db, found.id, config.evaluation.diversity_suite)
    result = preflight.check(db, frozen, model, config)
    _refuse(result)
    key = launch_key or secrets.token_urlsafe(16)
    run = service.launch(db, found, None, config=config, snapshot=frozen, launch_key=key)
    return run, [f"{item.text} {item.remedy}".strip() for item in result.warnings]


def _refuse(result: preflight.Preflight) -> None:
    """Raise InvalidError where the preflight found an error."""
    if result.errors:
        first = f"{result.errors[0].text} {result.errors[0].remedy}".strip()
        fields = {item.field: f"{item.text} {item.remedy}".strip() for item in result.errors if item.field}
        raise InvalidError(result.errors[0].text, fields=fields or {"": first})


def config_rows(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Every setting by its dotted name. Takes the stored JSON: a run of an older version may hold settings that are gone."""
    rows: list[tuple[str, str]] = []
    for name, value in config.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for part, item in inner:
            text = ", ".join(item) if isinstance(item, tuple | list) else FROM_DATA if item is None else str(item)
            rows.append((f"{name}.{part}" if part else name, text))
    return rows


def equivalent_command(project: Project, snapshot: Snapshot, model: BaseModel, config: AlignmentConfig) -> str:
    """`kto launch` with what differs from the defaults."""
    default = dict(config_rows(config_from_words(model.name, []).to_json()))
    changed = [(name, text) for name, text in config_rows(config.to_json()) if default[name] != text]
    lines = [
        f"kto launch --project {shlex.quote(project.slug)} --snapshot {snapshot.content_hash[:12]}",
        f"--base-model {shlex.quote(model.short_name)}",
        *(f"--set {shlex.quote(f'{name}={text}')}" for name, text in changed),
    ]
    return " \\\n  ".join(lines)


def config_from_words(base_model: str, changes: list[str]) -> AlignmentConfig:
    """From ``name=value`` texts with dotted names, as on the command line. Raises InvalidError naming the setting."""
    data = AlignmentConfig(base_model=base_model).to_json() | ALWAYS
    for change in changes:
        name, _, text = change.partition("=")
        part, _, inner = name.strip().partition(".")
        place, key = (data[part], inner) if inner and isinstance(data.get(part), dict) else (data, name.strip())
        if key not in place or isinstance(place[key], dict):
            raise InvalidError("A setting is unknown.", fields={name: "is not a setting of a run"})
        place[key] = _typed(name, text.strip(), place[key])
    try:
        return AlignmentConfig.from_json(data)
    except ConfigError as error:
        raise InvalidError("A setting does not fit.", fields=error.errors) from error


def _typed(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        return text.casefold() in {"1", "true", "yes"}
    if isinstance(default, tuple | list):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if default is None and text in {"", FROM_DATA}:
        return None
    try:
        return float(text) if default is None else type(default)(text)
    except ValueError as error:
        raise InvalidError("A setting does not fit.", fields={name: f"{text!r} is no number"}) from error

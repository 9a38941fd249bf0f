"""JSON schemas of suites (draft 2020-12): nothing is fetched, patterns run by RE2, and the work is bounded."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema import SchemaError as BadSchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from worker.alignment.evaluation.suites.patterns import PatternError, compiled

MAX_SCHEMA = 64 << 10
_MAX_STEPS = 150_000
"""For one text; a schema can name itself twice at every level, or a long enumeration for every item."""
_steps: ContextVar[list[int]] = ContextVar("steps")
_OTHER = ("$dynamicRef", "$recursiveRef", "$id", "$dynamicAnchor", "unevaluatedProperties", "unevaluatedItems")


class SchemaError(ValueError):
    """A schema that is not read; one sentence."""


class TooMuchWorkError(Exception):
    """The schema asks for more steps on this text than are made."""


def validator(schema: Any) -> Validator:
    """Compiled once for each schema. Raises SchemaError."""
    if not isinstance(schema, (dict, bool)):
        raise SchemaError("Must be a JSON schema: a mapping.")
    return _validator(json.dumps(schema, sort_keys=True))


def first_error(schema: Any, value: Any) -> str:
    """Why the value does not hold to the schema, in one sentence; "" when it does. Raises TooMuchWorkError."""
    _steps.set([0])
    try:
        error = next(validator(schema).iter_errors(value), None)
    except (RecursionError, Unresolvable) as failure:
        raise TooMuchWorkError from failure
    if error is None:
        return ""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    message = error.message if len(error.message) <= 200 else error.message[:199] + "…"
    return f"{place}: {message}" if place else message


@functools.lru_cache(maxsize=128)
def _validator(text: str) -> Validator:
    if len(text) > MAX_SCHEMA:
        raise SchemaError(f"The schema is longer than {MAX_SCHEMA >> 10} KiB.")
    schema = json.loads(text)
    _check_words(schema)
    try:
        Draft202012Validator.check_schema(schema, format_checker=None)
    except BadSchemaError as error:
        place = ".".join(str(part) for part in error.absolute_path)
        raise SchemaError(f"Not a JSON schema{f' at {place}' if place else ''}: {error.message[:200]}.") from error
    except RecursionError as error:
        raise SchemaError("The schema is nested too deep.") from error
    built: Validator = _Bounded(schema, registry=Registry())
    return built


def _check_words(schema: Any) -> None:
    stack = [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, list):
            stack += part
        elif isinstance(part, dict):
            stack += part.values()
            _check_reference(part.get("$ref"), schema)
            for word in _OTHER:
                if isinstance(part.get(word), (str, dict, bool)):
                    raise SchemaError(f"{word} is not read here.")
            for pattern in [part.get("pattern"), *_names(part.get("patternProperties"))]:
                _check_pattern(pattern)


def _check_reference(ref: Any, schema: Any) -> None:
    if isinstance(ref, str) and not ref.startswith("#"):
        raise SchemaError(f"Refers to {ref[:80]}: nothing is fetched; put it under $defs and refer to #/$defs/….")
    if isinstance(ref, str) and ref.startswith("#/") and not _resolves(schema, ref):
        raise SchemaError(f"Refers to {ref[:80]}, which is not in the schema.")


def _check_pattern(pattern: Any) -> None:
    if isinstance(pattern, str):
        try:
            compiled(pattern)
        except PatternError as error:
            raise SchemaError(f"The pattern {pattern[:60]} {error}.") from error


def _names(mapping: Any) -> list[str]:
    return list(mapping) if isinstance(mapping, dict) else []


def _resolves(schema: Any, ref: str) -> bool:
    for part in ref[2:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, dict) and name in schema:
            schema = schema[name]
        elif isinstance(schema, list) and name.isdigit() and int(name) < len(schema):
            schema = schema[int(name)]
        else:
            return False
    return isinstance(schema, (dict, bool))


def _pattern(_inner: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and compiled(pattern).search(instance) is None:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(inner: Any, patterns: dict[str, Any], instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for pattern, below in patterns.items():
        for name, value in instance.items():
            if compiled(pattern).search(name) is not None:
                yield from inner.descend(value, below, path=name, schema_path=pattern)


def _additional(inner: Any, below: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    patterns = _names(schema.get("patternProperties"))
    for name, value in instance.items():
        if name in schema.get("properties", {}) or any(compiled(pattern).search(name) for pattern in patterns):
            continue
        if below is False:
            yield ValidationError(f"{name!r} is not expected here")
        else:
            yield from inner.descend(value, below, path=name)


def _unique(_inner: Any, wanted: bool, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if wanted and isinstance(instance, list):
        seen: set[str] = set()
        for item in instance:
            told = json.dumps(_plain(item), sort_keys=True)
            if told in seen:
                yield ValidationError("holds the same item twice")
                return
            seen.add(told)


def _plain(value: Any) -> Any:
    """1 and 1.0 are one number to JSON schema."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _counted(keyword: Callable[..., Any]) -> Callable[..., Any]:
    def run(inner: Any, argument: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        steps = _steps.get()
        steps[0] += 1 + (len(argument) if isinstance(argument, (list, dict)) else 0)
        if steps[0] > _MAX_STEPS:
            raise TooMuchWorkError
        yield from keyword(inner, argument, instance, schema) or ()

    return run


# jsonschema's own patterns would run by the backtracking ``re``, and its uniqueItems is quadratic.
_OURS = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional,
    "uniqueItems": _unique,
}
_Bounded: Any = extend(
    Draft202012Validator,
    {name: _counted(keyword) for name, keyword in {**Draft202012Validator.VALIDATORS, **_OURS}.items()},
)

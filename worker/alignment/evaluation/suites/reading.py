"""YAML and JSON lines read as plain JSON data. Uploads come from anyone: size, depth and aliases are bounded, no tag is obeyed.

YAML scalars follow its 1.2 core schema: ``no`` is the word no, and a date is its text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from worker.alignment.evaluation.suites.problems import MAX_PROBLEMS, Lines, Problem, Source, SuiteError, join

MAX_HEADER_BYTES = 1 << 20
MAX_SAMPLES_BYTES = 64 << 20
MAX_LINE_BYTES = 256 << 10
MAX_DEPTH = 24
MAX_VALUES = 50_000
"""Of a YAML text: it is read some 50 times slower than JSON lines."""
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class _UnreadableError(ValueError):
    """Says in words why a line of JSON is refused."""


def decoded(content: str | bytes, source: Source, limit: int) -> str:
    """The text without a byte order mark. Raises SuiteError where it is too large or not UTF-8."""
    if len(content) > limit:
        raise SuiteError([Problem(None, "", f"Larger than {limit >> 20} MiB.", source)])
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SuiteError([Problem(line, "", "Not UTF-8 text; save the file as UTF-8.", source)]) from error


def read_yaml(content: str | bytes, source: Source = "header") -> tuple[Any, Lines]:
    """The data and where each part stands. Raises SuiteError."""
    text = decoded(content, source, MAX_HEADER_BYTES)
    if bad := _UNSTORABLE.search(text):
        raise _refused(text.count("\n", 0, bad.start()) + 1, "A character here cannot be stored.", source)
    try:
        _check_events(text, source)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        raise _refused(mark.line + 1 if mark else None, f"Not YAML: {reason}.", source) from error
    lines = Lines({"": 1})
    problems: list[Problem] = []
    data = None if node is None else _data(node, "", lines, problems, source)
    if problems:
        raise SuiteError(problems)
    return data, lines


def resolve(text: str) -> Any:
    """What a plain YAML scalar stands for."""
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text.lower() in {"true", "false"} and text in {text.lower(), text.title(), text.upper()}:
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _check_events(text: str, source: Source) -> None:
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        line = event.start_mark.line + 1 if event.start_mark else None
        if count > MAX_VALUES:
            raise _refused(line, f"More than {MAX_VALUES:,} values; give the samples as JSON lines.", source)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refused(line, "Anchors and aliases (& and *) are not read; write the value out.", source)
        tag = getattr(event, "tag", None)
        if tag not in {None, "!"}:
            raise _refused(line, f"Tags are not read: {tag}.", source)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise _refused(line, f"Nested deeper than {MAX_DEPTH} levels.", source)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _data(node: yaml.Node, path: str, lines: Lines, problems: list[Problem], source: Source) -> Any:
    lines.by_path.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_data(item, f"{path}[{i}]", lines, problems, source) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        plain = getattr(node, "style", None) in {None, ""}
        return _finite(resolve(node.value), node.value) if plain else node.value
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(Problem(line, path, "A key must be a word.", source))
            continue
        key = key_node.value
        inner = join(path, key)
        if key in found and len(problems) < MAX_PROBLEMS:
            problems.append(Problem(line, inner, "Given twice.", source))
        lines.by_path[inner] = line
        found[key] = _data(value_node, inner, lines, problems, source)
    return found


def _finite(value: Any, text: str) -> Any:
    return text if isinstance(value, float) and value in {float("inf"), float("-inf")} else value


def read_lines(content: str | bytes | Iterable[str | Mapping[str, Any]]) -> Iterator[tuple[int, Any | Problem]]:
    """Each line that is not blank as its number and its data, or the Problem it has. Raises SuiteError on a whole that is too large."""
    if isinstance(content, (str, bytes)):
        # Never splitlines(): JSON text may hold U+2028 as it is.
        content = decoded(content, "samples", MAX_SAMPLES_BYTES).split("\n")
    for number, line in enumerate(content, 1):
        if isinstance(line, str) and not line.strip():
            continue
        yield number, read_line(line, number)


def read_line(line: str | Mapping[str, Any], number: int | None, limit: int = MAX_LINE_BYTES) -> Any | Problem:
    try:
        data = _loaded(line, limit)
        bad = unstorable(data)
    except json.JSONDecodeError as error:
        bad = f"Not JSON: {error.msg} at character {error.colno}."
    except _UnreadableError as error:
        bad = str(error)
    except RecursionError:
        bad = f"Nested deeper than {MAX_DEPTH} levels."
    except (ValueError, TypeError):
        bad = "Holds a number or value that JSON cannot hold."
    return Problem(number, "", bad) if bad else data


def read_array(text: str) -> list[Any]:
    """The rows of a file that is one JSON list. Raises SuiteError."""
    data = read_line(text, None, limit=MAX_SAMPLES_BYTES)
    if isinstance(data, Problem):
        raise SuiteError([data])
    return data if isinstance(data, list) else []


def _loaded(line: str | Mapping[str, Any], limit: int) -> Any:
    text = line if isinstance(line, str) else json.dumps(line, ensure_ascii=False, allow_nan=False)
    if len(text) > limit:
        raise _UnreadableError(f"Longer than {limit >> 10} KiB.")
    return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)


def unstorable(data: Any) -> str:
    """Why JSON data cannot be kept, in words; "" when it can."""
    stack = [(data, 1)]
    while stack:
        value, depth = stack.pop()
        if depth > MAX_DEPTH + 1:
            return f"Nested deeper than {MAX_DEPTH} levels."
        if isinstance(value, str) and _UNSTORABLE.search(value):
            return "A character here cannot be stored (a zero byte or half a surrogate pair)."
        if isinstance(value, float) and not float("-inf") < value < float("inf"):
            return "A number here is too large."
        if isinstance(value, dict):
            stack += [(inner, depth + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list):
            stack += [(inner, depth + 1) for inner in value]
    return ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise _UnreadableError(f"Given twice: {name}.")
    return found


def _no_constant(name: str) -> Any:
    raise _UnreadableError(f"{name} is not a number of JSON.")


def _refused(line: int | None, message: str, source: Source) -> SuiteError:
    return SuiteError([Problem(line, "", message, source)])

"""Suites from files shaped like HarmBench, AdvBench, StrongREJECT, JailbreakBench or XSTest (CSV, JSON or JSON lines).

Which column holds the request is told from the columns. What cannot be taken over is listed with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from worker.alignment.evaluation.suites.format import SuiteKind
from worker.alignment.evaluation.suites.imported import Draft, RowError, refused
from worker.alignment.evaluation.suites.importers import Imported, _parsed, _read, _take

Shape = Literal["harmbench", "advbench", "strongreject", "jailbreakbench", "xstest", "requests"]

_SHAPES: tuple[tuple[Shape, frozenset[str], str, str, str], ...] = (
    # shape, columns that tell it, request, category, id
    ("harmbench", frozenset({"behavior", "behaviorid"}), "behavior", "semanticcategory", "behaviorid"),
    ("strongreject", frozenset({"forbidden_prompt"}), "forbidden_prompt", "category", "id"),
    ("jailbreakbench", frozenset({"goal", "behavior", "category"}), "goal", "category", "index"),
    ("advbench", frozenset({"goal", "target"}), "goal", "category", "id"),
    ("xstest", frozenset({"prompt", "type", "label"}), "prompt", "type", "id"),
)
_REQUEST = ("prompt", "request", "goal", "behavior", "question", "instruction", "input", "text")
_HARMFUL_LABELS = {"unsafe": True, "harmful": True, "safe": False, "benign": False}


def import_requests(
    files: Mapping[str, str | bytes], *, name: str, kind: Literal["redteam", "benign"] = "redteam"
) -> Imported:
    """``files``: name -> content. Rows labelled safe or unsafe are taken by ``kind``; others are all taken.

    Raises SuiteError where no column holds a request or nothing is left.
    """
    suite_kind: SuiteKind = kind
    draft = Draft(header={"name": name, "kind": suite_kind})
    shapes: list[Shape] = []
    for content in files.values():
        _, _, rows = _read(content)
        rows = [(line, _lowered(row)) for line, row in rows]
        first = next((row for _, row in rows if isinstance(row, dict)), None)
        if first is None:
            raise refused("There is not one row that can be read.")
        shape, request, category, identity = _shape_of(first)
        shapes.append(shape)
        seen: set[str] = set()

        def row_of(
            row: Mapping[str, Any],
            line: int | None,
            into: Draft,
            fields: tuple[str, str, str] = (request, category, identity),
            seen: set[str] = seen,
        ) -> None:
            _take_row(row, line, into, fields, seen, kind)

        _take(rows, row_of, draft)
    if "harmbench" in shapes:
        draft.note("HarmBench's copyright behaviours are judged by its own hashes; here only the refusal counts.")
    return Imported(suite=_parsed(draft), format=shapes[0], skipped=tuple(draft.skipped), notes=tuple(draft.notes))


def _lowered(row: Any) -> Any:
    return {str(key).strip().lower(): value for key, value in row.items()} if isinstance(row, dict) else row


def _shape_of(row: Mapping[str, Any]) -> tuple[Shape, str, str, str]:
    for shape, columns, request, category, identity in _SHAPES:
        if columns <= row.keys():
            return shape, request, category, identity
    request = next((column for column in _REQUEST if isinstance(row.get(column), str)), "")
    if not request:
        raise refused(
            f"No column holds a request: expected one of {', '.join(_REQUEST)}; there are {', '.join(list(row)[:8])[:200]}."
        )
    return "requests", request, "category", "id"


def _take_row(
    row: Mapping[str, Any], line: int | None, draft: Draft, fields: tuple[str, str, str], seen: set[str], kind: str
) -> None:
    request, category, identity = fields
    text = row.get(request)
    if not isinstance(text, str) or not text.strip():
        raise RowError(f"Has no {request}.")
    label = str(row.get("label") or "").strip().lower()
    if label in _HARMFUL_LABELS and _HARMFUL_LABELS[label] != (kind == "redteam"):
        draft.note(f"Rows labelled {label} are left out: this suite takes the others.")
        return
    context = row.get("contextstring") or row.get("context")
    if isinstance(context, str) and context.strip():
        text = f"{context.strip()}\n\n---\n\n{text.strip()}"
    if text.strip() in seen:
        draft.skip(line, row.get(identity), "The same request stands above.")
        return
    seen.add(text.strip())
    group = row.get(category)
    draft.add(
        line,
        {
            "id": str(row[identity]) if row.get(identity) not in (None, "") else None,
            "input": text.strip(),
            "category": str(group).strip()[:100] if group not in (None, "") else None,
        },
    )

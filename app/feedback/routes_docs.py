"""The API's documentation as one plain page, made from the OpenAPI document: no script, no other site's files."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from app.accounts.access import Public
from app.web.address import public_address
from app.web.templating import render

router = APIRouter()


def _kind(schema: dict[str, Any]) -> str:
    """A schema in words: ``text or null``, ``one of "up", "down"``."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(choice) for choice in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(json.dumps(value) for value in schema["enum"])
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    names = {"string": "text", "object": "object", "boolean": "true or false", "integer": "whole number"}
    return names.get(str(schema.get("type")), str(schema.get("type", "any value")))


def _fields(schema: dict[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """Rows of a table of fields; the items of a list one level down."""
    rows: list[dict[str, Any]] = []
    if "anyOf" in schema:  # one of several: the fields of all, each as the first that has it says
        for choice in schema["anyOf"]:
            known = {row["name"] for row in rows}
            rows += [row for row in _fields(choice, prefix) if row["name"] not in known]
        return rows
    for name, part in schema.get("properties", {}).items():
        inner = part.get("items", {})
        deep = isinstance(inner, dict) and bool(inner.keys() & {"properties", "anyOf"})
        rows.append(
            {
                "name": prefix + name,
                "kind": "list of items" if deep else _kind(part),
                "required": name in schema.get("required", ()),
                "text": part.get("description", ""),
            }
        )
        if deep:
            rows += _fields(inner, f"{prefix}{name}[].")
    return rows


def _curl(address: str, method: str, path: str, example: Any) -> str:
    lines = [f"curl -X {method} {address}{path}", '  -H "Authorization: Bearer $KTO_KEY"']
    if example is not None:
        lines += ["  -H 'Content-Type: application/json'", f"  -d '{json.dumps(example, ensure_ascii=False)}'"]
    return " \\\n".join(lines)


def _endpoint(address: str, method: str, path: str, operation: dict[str, Any]) -> dict[str, Any]:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    parameters = [
        {
            "name": parameter["name"],
            "kind": _kind(parameter["schema"]),
            "required": parameter.get("required", False),
            "text": parameter.get("description", ""),
        }
        for parameter in operation.get("parameters", ())
    ]
    return {
        "method": method.upper(),
        "path": path,
        "anchor": operation["operationId"],
        "summary": operation.get("summary", path),
        "text": operation.get("description", ""),
        "parameters": parameters,
        "fields": _fields(body.get("schema", {})),
        "curl": _curl(address, method.upper(), path, body.get("example")),
        "answers": [(status, answer["description"]) for status, answer in operation["responses"].items()],
    }


@router.get("/api/v1/docs", dependencies=[Depends(Public())])
def api_docs(request: Request) -> Response:
    document = request.app.openapi()
    address = public_address(request)
    endpoints = [
        _endpoint(address, method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return render(request, "feedback/api_docs.html", {"endpoints": endpoints, "address": address})

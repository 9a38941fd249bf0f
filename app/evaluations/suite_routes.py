"""Suites: listed, written, edited, brought in and taken out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Path, Request, Response
from starlette.datastructures import UploadFile

from app.accounts.access import Require, Viewer
from app.core.db import Db
from app.core.errors import InvalidError, NotFoundError, StudioError
from app.core.pagination import int_cursor
from app.evaluations import endpoints, jobs, suite_results, suite_words, suites
from app.evaluations.suite_imports import IMPORT_FORMATS, add_transforms, import_suite, install_safety, safety_installed
from app.models import Suite
from app.web.htmx import redirect
from app.web.templating import render
from worker.alignment.evaluation.suites.declared import CHECKS

router = APIRouter(prefix="/p/{slug}/suites", include_in_schema=False)

CanView = Annotated[Viewer, Depends(Require("suite.view"))]
CanEdit = Annotated[Viewer, Depends(Require("suite.edit"))]
CanRate = Annotated[Viewer, Depends(Require("suite.edit"))]
SmallId = Annotated[int, Path(ge=1, le=2**31 - 1)]
MAX_IMPORT_BYTES = 32 * 2**20

STARTER_HEADER = """name: support answers
kind: eval
description: What a support answer must do.
sampling: {n: 1, temperature: 0.7, max_tokens: 256}
checks:
  - {type: word-count, max: 120}
gates:
  pass_rate: {min_delta: -0.02}
"""
STARTER_SAMPLES = (
    '{"id": "refund-1", "input": "How long does a refund take?", "category": "refunds", '
    '"checks": [{"type": "icontains-any", "value": ["working days", "business days"]}]}\n'
)


def root(viewer: Viewer) -> str:
    return f"/p/{viewer.project.slug}/suites"


def suite_by_id(db: Db, viewer: Viewer, suite_id: int) -> Suite:
    suite = db.get(Suite, suite_id)
    if suite is None or suite.project_id != viewer.project.id:
        raise NotFoundError("There is no such suite in this project.")
    return suite


@router.get("")
def list_page(request: Request, viewer: CanView, db: Db, archived: bool = False) -> Response:
    context = {
        "suites": suites.list_suites(db, viewer.project, archived=archived),
        "archived": archived,
        "jobs": jobs.list_jobs(db, viewer.project, limit=10),
        "words": suite_words,
        "seconds_left": jobs.seconds_left,
        "has_safety": safety_installed(db, viewer.project),
    }
    return render(request, "evaluations/suites.html", context)


def _edit_page(
    request: Request, viewer: Viewer, *, suite: Suite | None, typed: dict[str, str], error: StudioError | None = None
) -> Response:
    context = {
        "suite": suite,
        "typed": typed,
        "errors": error.fields if error else {},
        "action": f"{root(viewer)}/{suite.id}" if suite else root(viewer),
        "checks": [(name, kind.words) for name, kind in CHECKS.items() if not name.startswith("not-")],
    }
    return render(request, "evaluations/suite_edit.html", context, status_code=error.status if error else 200)


@router.get("/new")
def new_page(request: Request, viewer: CanEdit) -> Response:
    return _edit_page(request, viewer, suite=None, typed={"header": STARTER_HEADER, "samples": STARTER_SAMPLES})


@router.post("")
def create(
    request: Request,
    viewer: CanEdit,
    db: Db,
    header: Annotated[str, Form()] = "",
    samples: Annotated[str, Form()] = "",
) -> Response:
    try:
        version = suites.save_text(db, viewer.project, header, samples, user=viewer.user)
    except InvalidError as error:
        return _edit_page(request, viewer, suite=None, typed={"header": header, "samples": samples}, error=error)
    return redirect(request, f"{root(viewer)}/{version.suite_id}", f"{version.suite.name} is saved.")


async def uploaded(request: Request) -> Any:
    """Read after the guard; at most two files: the header or foreign file, and the samples beside it."""
    async with request.form() as form:
        yield {name: form.get(name) for name in ("file", "samples", "format", "name")}


@router.get("/import")
def import_page(request: Request, viewer: CanEdit) -> Response:  # noqa: ARG001 -- the guard
    return _import_page(request, {}, {})


def _import_page(request: Request, errors: dict[str, str], typed: dict[str, Any], status_code: int = 200) -> Response:
    context = {"errors": errors, "typed": typed, "formats": IMPORT_FORMATS}
    return render(request, "evaluations/suite_import.html", context, status_code=status_code)


@router.post("/import")
def import_upload(
    request: Request, viewer: CanEdit, db: Db, form: Annotated[dict[str, Any], Depends(uploaded)]
) -> Response:
    typed = {name: form[name] for name in ("format", "name") if isinstance(form[name], str)}
    file, beside = form["file"], form["samples"]
    if not isinstance(file, UploadFile) or not file.filename:
        return _import_page(request, {"file": "choose a file"}, typed, 422)
    content = file.file.read(MAX_IMPORT_BYTES + 1)
    more = beside.file.read(MAX_IMPORT_BYTES + 1) if isinstance(beside, UploadFile) and beside.filename else None
    if max(len(content), len(more or b"")) > MAX_IMPORT_BYTES:
        return _import_page(request, {"file": "is larger than 32 MiB; split it"}, typed, 413)
    try:
        version, notes = import_suite(
            db,
            viewer.project,
            content,
            more,
            format_name=typed.get("format", "suite"),
            name=typed.get("name", ""),
            filename=file.filename,
            user=viewer.user,
        )
    except StudioError as error:
        fields = error.fields or {"file": f"{error.message} {error.remedy}"}
        return _import_page(request, {"file": " ".join(fields.values())}, typed, error.status)
    text = f"{version.suite.name}: {version.num_samples:,} samples."
    return redirect(request, f"{root(viewer)}/{version.suite_id}", f"{text} {notes}".strip())


@router.post("/install-safety")
def install(request: Request, viewer: CanEdit, db: Db) -> Response:
    made = install_safety(db, viewer.project, user=viewer.user)
    return redirect(request, root(viewer), f"{' and '.join(version.suite.name for version in made)} are here.")


@router.get("/add")
def add_form(request: Request, viewer: CanRate, db: Db, completion_id: int) -> Response:
    """A part of the completion's page: to which suite?"""
    found = [suite for suite in suites.list_suites(db, viewer.project) if suite.kind == "eval"]
    context = {"completion_id": completion_id, "names": [suite.name for suite in found], "default": suites.REGRESSIONS}
    return render(request, "evaluations/suites_add.html", context)


@router.post("/add")
def add(
    request: Request,
    viewer: CanRate,
    db: Db,
    completion_id: Annotated[int, Form(ge=1, le=2**31 - 1)],
    name: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    version = suites.add_completion(db, viewer.project, completion_id, name, user=viewer.user)
    address = f"/p/{viewer.project.slug}/completions/{completion_id}"
    return redirect(request, address, f"Its prompt is a sample of {version.suite.name} now.")


@router.get("/{suite_id:int}")
def suite_page(request: Request, viewer: CanView, db: Db, suite_id: SmallId, after: str | None = None) -> Response:
    suite = suite_by_id(db, viewer, suite_id)
    head = suite.head
    page = suite_results.samples_page(db, head, int_cursor(after)) if head else None
    context = {
        "suite": suite,
        "head": head,
        "samples": page.rows if page else [],
        "older": f"{request.url.path}?after={page.next_cursor}" if page and page.next_cursor else None,
        "history": suites.history(db, suite),
        "results": suite_results.results_of_suite(db, viewer.project, suite.id),
        "can_disguise": suite.kind == "redteam"
        and not any("transform" in row.data.get("metadata", {}) for row in page.rows)
        if page
        else False,
        "checkpoints": suite_results.runnable_checkpoints(db, viewer.project),
        **endpoints.offered(db, viewer.project),
        "words": suite_words,
    }
    return render(request, "evaluations/suite.html", context)


@router.get("/{suite_id:int}/edit")
def edit_page(request: Request, viewer: CanEdit, db: Db, suite_id: SmallId) -> Response:
    suite = suite_by_id(db, viewer, suite_id)
    header, samples = suites.text_of(db, suite.head) if suite.head else (STARTER_HEADER, STARTER_SAMPLES)
    header = "".join(line for line in header.splitlines(keepends=True) if not line.startswith("samples:"))
    return _edit_page(request, viewer, suite=suite, typed={"header": header, "samples": samples})


@router.post("/{suite_id:int}")
def save(
    request: Request,
    viewer: CanEdit,
    db: Db,
    suite_id: SmallId,
    header: Annotated[str, Form()] = "",
    samples: Annotated[str, Form()] = "",
) -> Response:
    suite = suite_by_id(db, viewer, suite_id)
    before = suite.head_id
    try:
        version = suites.save_text(db, viewer.project, header, samples, user=viewer.user, replaces=suite)
    except InvalidError as error:
        return _edit_page(request, viewer, suite=suite, typed={"header": header, "samples": samples}, error=error)
    same = version.id == before
    text = "Nothing changed: this is the version it had." if same else f"Saved as version {version.content_hash[:8]}."
    return redirect(request, f"{root(viewer)}/{suite.id}", text)


@router.post("/{suite_id:int}/head")
def move_head(
    request: Request, viewer: CanEdit, db: Db, suite_id: SmallId, version_id: Annotated[int, Form()]
) -> Response:
    suite = suite_by_id(db, viewer, suite_id)
    version = suites.find_version(db, viewer.project, version_id)
    suites.restore_version(db, suite, version, user=viewer.user)
    return redirect(request, f"{root(viewer)}/{suite.id}", f"New evaluations take version {version.content_hash[:8]}.")


@router.post("/{suite_id:int}/archive")
def archive(request: Request, viewer: CanEdit, db: Db, suite_id: SmallId) -> Response:
    suite = suite_by_id(db, viewer, suite_id)
    suites.archive(db, viewer.project, suite, user=viewer.user)
    return redirect(request, root(viewer), f"{suite.name} is archived.", f"{root(viewer)}/{suite.id}/restore")


@router.post("/{suite_id:int}/restore")
def restore(request: Request, viewer: CanEdit, db: Db, suite_id: SmallId) -> Response:
    suite = suite_by_id(db, viewer, suite_id)
    suites.archive(db, viewer.project, suite, user=viewer.user, back=True)
    return redirect(request, f"{root(viewer)}/{suite.id}", f"{suite.name} is back.")


@router.post("/{suite_id:int}/transforms")
def transforms(request: Request, viewer: CanEdit, db: Db, suite_id: SmallId) -> Response:
    version = add_transforms(db, viewer.project, suite_by_id(db, viewer, suite_id), user=viewer.user)
    text = f"{version.suite.name}: {version.num_samples:,} requests, plain and disguised."
    return redirect(request, f"{root(viewer)}/{version.suite_id}", text)


@router.get("/{suite_id:int}/suite.yaml")
def download_header(viewer: CanView, db: Db, suite_id: SmallId) -> Response:
    return _download(db, viewer, suite_id, 0, "suite.yaml")


@router.get("/{suite_id:int}/samples.jsonl")
def download_samples(viewer: CanView, db: Db, suite_id: SmallId) -> Response:
    return _download(db, viewer, suite_id, 1, "samples.jsonl")


def _download(db: Db, viewer: Viewer, suite_id: int, part: int, name: str) -> Response:
    suite = suite_by_id(db, viewer, suite_id)
    if suite.head is None:
        raise NotFoundError("This suite has no version yet.")
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(suites.text_of(db, suite.head)[part], media_type="text/plain; charset=utf-8", headers=headers)

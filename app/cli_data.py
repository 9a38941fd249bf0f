"""``kto import`` and ``kto export``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from app.cli_common import data_option, in_words, settings_from


def _project(db: Any, slug: str, *, create: bool = False) -> Any:
    from sqlalchemy import select

    from app.accounts.service import create_project
    from app.core.errors import NotFoundError
    from app.models import Project

    row = db.scalar(select(Project).where(Project.slug == slug))
    if row is None and not create:
        known = ", ".join(db.scalars(select(Project.slug).order_by(Project.slug))) or "none yet"
        raise NotFoundError(f"There is no project {slug}.", remedy=f"Projects: {known}. Add --create to make this one.")
    return row or create_project(db, name=slug, slug=slug)


@click.command("import")
@click.argument("file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--project", required=True, help="Slug of the project.")
@click.option("--create", is_flag=True, help="Make the project when it is not there.")
@click.option("--source", default="import", show_default=True, help="Where the feedback comes from.")
@click.option("--format", "format_name", default="", help="Name of the importer. Default: found out by the content.")
@click.option("--map", "mapped", multiple=True, metavar="FIELD=COLUMN", help="Which column is a field; once for each.")
@click.option("--question", default="", help="Only this score, feedback key, question or control counts.")
@click.option("--up", default="", help="Words of the file that mean desirable, with commas.")
@click.option("--down", default="", help="Words of the file that mean undesirable, with commas.")
@click.option("--dry-run", is_flag=True, help="Show the mapping, the first rows and every rejected row; store nothing.")
@click.option("--resume", type=int, metavar="ID", help="Go on with an import that was stopped.")
@click.option("--cancel", "cancelled", type=int, metavar="ID", help="Throw away an import that was stopped.")
@data_option
@in_words
def import_(file: Path | None, project: str, create: bool, data: Path | None, **told: Any) -> None:
    """Import feedback from a file: JSON lines, JSON, CSV, Parquet, TRL's forms, or another product's export."""
    from app.serve import connected

    if sum(each is not None for each in (file, told["resume"], told["cancelled"])) != 1:
        raise click.UsageError("Name one file, or --resume or --cancel with the number of an import.")
    settings_from(None, None, data)
    with connected():
        if told["cancelled"] is not None:
            _cancel(project, told["cancelled"])
        elif told["dry_run"] and file is not None:
            _dry_run(file, told)
        else:
            _run(told["resume"] if file is None else _draft(file, project, create, told), project)


def _options(told: dict[str, Any]) -> Any:
    from app.core.errors import InvalidError
    from app.feedback.imports.mapping import FIELDS
    from app.feedback.imports.values import Options

    pairs = [each.partition("=") for each in told["mapped"]]
    wrong = next((name for name, sign, column in pairs if name not in FIELDS or not sign or not column), None)
    if wrong is not None:
        raise InvalidError(f"--map {wrong}: is no field.", remedy=f"Write FIELD=COLUMN; fields: {', '.join(FIELDS)}.")
    mapping = {name: column for name, _, column in pairs}
    return Options(mapping=mapping, question=told["question"], up=told["up"], down=told["down"])


def _with_guesses(file: Path, told: dict[str, Any]) -> tuple[Any, Any]:
    """The format, and the options with the guessed columns where none were named for a field."""
    from dataclasses import replace

    from app.feedback.imports.formats import columns_of, detect, find_format
    from app.feedback.imports.mapping import guess

    chosen = find_format(told["format_name"]) if told["format_name"] else detect(file)
    options = _options(told)
    if chosen.has_columns:
        options = replace(options, mapping={**guess(columns_of(file, chosen, options)), **options.mapping})
    return chosen, options


def _dry_run(file: Path, told: dict[str, Any]) -> None:
    """All of the file is read; exit 1 where no row is good."""
    import json

    from app.feedback.imports.formats import checked_rows
    from app.feedback.imports.mapping import shape
    from app.feedback.imports.reading import opened

    chosen, options = _with_guesses(file, told)
    click.echo(f"{chosen.title}{', ' + shape(options.mapping) if chosen.has_columns else ''}")
    for field, column in options.mapping.items():
        click.echo(f"  {field} <- {column}")
    shown = rows = rejected = 0
    with opened(file) as source:
        for line, found in checked_rows(source, chosen, options):
            rows += 1
            if isinstance(found, str):
                rejected += 1
                click.echo(f"  line {line}: rejected: {found[:300]}")
            elif shown < 5:
                shown += 1
                body = json.dumps(found.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False)
                click.echo(f"  line {line}: {body[:300]}{'…' if len(body) > 300 else ''}")
    click.echo(f"{rows - rejected:,} of {rows:,} rows fit, {rejected:,} rejected. Nothing was stored.")
    if rows == rejected:
        sys.exit(1)


def _draft(file: Path, project: str, create: bool, told: dict[str, Any]) -> int:
    from app.core.db import session_scope
    from app.feedback.imports import drafts

    chosen, options = _with_guesses(file, told)
    with session_scope() as db, file.open("rb") as stream:
        row = _project(db, project, create=create)
        entry = drafts.make_draft(
            db,
            row,
            stream,
            filename=file.name,
            source=told["source"],
            format_name=chosen.name,
            options=options,
        )
        return int(entry.id)


def _run(import_id: int, project: str) -> None:
    """The same runner as the worker's, in this process. Ctrl-C leaves it stopped: nothing of it is seen."""
    from app.core.db import session_scope
    from app.feedback.imports import drafts, runner

    with session_scope() as db:
        drafts.start(db, drafts.get_import(db, _project(db, project), import_id), ring=False)
    line = _ProgressLine(import_id)
    try:
        runner.run_import(import_id, watch=line.show)
    except KeyboardInterrupt:
        line.clear()
        with session_scope() as db:
            drafts.put_back(db, import_id)
        command = f"kto import --project {project}"
        click.echo(f"Stopped; nothing of it is seen. Go on: {command} --resume {import_id}", err=True)
        click.echo(f"Throw it away: {command} --cancel {import_id}", err=True)
        sys.exit(130)
    line.clear()
    _tell(import_id)


def _tell(import_id: int) -> None:
    from app.core.db import session_scope
    from app.core.errors import InvalidError
    from app.models import Import

    with session_scope() as db:
        entry = db.get_one(Import, import_id)
    if entry.status != "succeeded":
        raise InvalidError(f"{entry.error or f'The import is {entry.status}.'} Nothing was imported.")
    click.echo(
        f"{entry.num_created:,} created, {entry.num_updated:,} updated, {entry.num_duplicate:,} duplicate, "
        f"{entry.num_rejected:,} rejected"
    )
    for item in entry.rejected[:20]:
        click.echo(f"  line {item['line']}: {item['reason']}")
    if entry.num_rejected > 20:
        click.echo(f"  … the first {len(entry.rejected):,} are listed under Sources")


def _cancel(project: str, import_id: int) -> None:
    from app.core.db import session_scope
    from app.feedback.imports import drafts

    with session_scope() as db:
        done = drafts.cancel(db, drafts.get_import(db, _project(db, project), import_id))
    click.echo("Cancelled; nothing of it is stored." if done else "It was over already.")


class _ProgressLine:
    """One line on a terminal, written over; nothing where stderr is a file."""

    def __init__(self, import_id: int) -> None:
        self._import_id = import_id
        self._last = 0.0
        self._is_shown = False

    def show(self) -> None:
        from app.core.clock import utcnow
        from app.core.db import session_scope
        from app.feedback.imports.words import progress
        from app.models import Import

        if not sys.stderr.isatty() or time.monotonic() - self._last < 0.5:
            return
        self._last = time.monotonic()
        with session_scope() as db:
            entry = db.get_one(Import, self._import_id)
            told = progress(entry, utcnow())
        rate = f", {told.rate:,.0f} rows/s" if told.rate else ""
        left = f", {told.seconds_left:,.0f} s left" if told.seconds_left is not None else ""
        click.echo(f"\r{told.step} {told.share:4.0%}, {entry.num_rows:,} rows{rate}{left}\x1b[K", nl=False, err=True)
        self._is_shown = True

    def clear(self) -> None:
        if self._is_shown:
            click.echo("\r\x1b[K", nl=False, err=True)


@click.command("export")
@click.option("--project", required=True, help="Slug of the project.")
@click.option("--kind", type=click.Choice(["kto", "dpo", "labels", "ratings"]), default="kto", show_default=True)
@click.option("--format", "file_format", default="", help="jsonl, parquet or csv. Default: by the ending of --out.")
@click.option(
    "--snapshot", default="", help="Hash of a snapshot, 8 characters or more. Default: the labels as they are."
)
@click.option("--split", default="", help="train, dev or test alone.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. Default: standard output.")
@data_option
@in_words
def export(project: str, data: Path | None, out: Path | None, **told: Any) -> None:
    """Export labels for a trainer (TRL's KTO and DPO rows) or a spreadsheet."""
    from app.core.db import session_scope
    from app.datasets import exports, service
    from app.serve import connected

    settings_from(None, None, data)
    formats = exports.FORMATS[told["kind"]]
    ending = out.suffix.removeprefix(".") if out is not None else ""
    file_format = told["file_format"] or (ending if ending in formats else formats[0])
    with connected():
        with session_scope() as db:
            row = _project(db, project)
            chosen = service.find_snapshot(db, row, told["snapshot"]) if told["snapshot"] else None
        download = exports.export(row, kind=told["kind"], file_format=file_format, snapshot=chosen, side=told["split"])
        if out is None:
            for chunk in download.chunks:
                sys.stdout.buffer.write(chunk)
            return
        unfinished = out.with_name(f".{out.name}.part")
        try:
            with unfinished.open("wb") as stream:
                size = sum(stream.write(chunk) for chunk in download.chunks)
            unfinished.replace(out)
        finally:
            unfinished.unlink(missing_ok=True)
        click.echo(f"{out}: {size:,} bytes")

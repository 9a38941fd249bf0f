"""The folder of a snapshot: train.jsonl, dev.jsonl, test.jsonl and manifest.json, written once and never changed.

Rows are canonical JSON (sorted keys, no spaces, UTF-8), so equal content is equal bytes. The snapshot's hash is the SHA-256
of the canonical JSON of the three files' SHA-256: it covers every prompt, completion, label, category, root,
finish_reason and the side each row is on, and nothing that depends on database ids or on the order of arrival.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BufferedWriter
from pathlib import Path
from typing import Any

from app.core.errors import UnavailableError
from app.core.ids import canonical_json, content_hash
from app.core.security import new_token
from app.core.storage import artifact_path
from app.datasets.splits import SIDES, Side

_CHUNK = 2**20
ERASED = "erased.jsonl"
"""Tombstones of rows that were taken out since: {"id", "side", "erased": true, "sha256" of the row as it was}."""


@dataclass
class SideFile:
    """One open JSON-lines file with its running hash and counts."""

    stream: BufferedWriter
    digest: Any = field(default_factory=hashlib.sha256)
    size: int = 0
    desirable: int = 0
    undesirable: int = 0
    prompts: int = 0
    roots: int = 0

    def write(self, row: dict[str, Any]) -> None:
        line = canonical_json(row) + b"\n"
        self.stream.write(line)
        self.digest.update(line)
        self.size += len(line)
        if row["label"]:
            self.desirable += 1
        else:
            self.undesirable += 1

    @property
    def counts(self) -> dict[str, int]:
        names = ("desirable", "undesirable", "prompts", "roots")
        return {name: getattr(self, name) for name in names}


def file_name(side: Side) -> str:
    return f"{side}.jsonl"


def hash_of_sides(digests: dict[str, str]) -> str:
    """``digests``: side -> SHA-256 of its file."""
    return content_hash(digests)


@contextmanager
def draft_folder() -> Iterator[Path]:
    """A new folder beside the snapshots; gone again when it was not moved to its place, whatever happened."""
    folder = artifact_path("snapshots", f".draft-{new_token(8)}")
    try:
        with full_disk_in_words(folder):
            folder.mkdir(parents=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def full_disk_in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
            raise
        raise UnavailableError(
            f"The snapshot could not be written under {folder.parent}: {error.strerror}.",
            remedy="Free some space or mend the folder's permissions, then freeze again. Nothing half-written is left.",
        ) from error


@contextmanager
def open_sides(folder: Path) -> Iterator[dict[Side, SideFile]]:
    """The three files, flushed to the disk and read-only at the end."""
    with ExitStack() as stack:
        sides = {side: SideFile(stack.enter_context((folder / file_name(side)).open("wb"))) for side in SIDES}
        yield sides
        for side, file in sides.items():
            _make_durable(file.stream, folder / file_name(side))


def write_manifest(folder: Path, manifest: dict[str, Any]) -> int:
    path = folder / "manifest.json"
    body = json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n"
    with path.open("wb") as stream:
        stream.write(body)
        _make_durable(stream, path)
    return len(body)


def _make_durable(stream: BufferedWriter, path: Path) -> None:
    stream.flush()
    os.fsync(stream.fileno())
    path.chmod(0o444)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_in_place(draft: Path, target: Path, digest: str) -> None:
    """Atomic: ``target`` is complete or not there. A whole copy that is there already stays; a damaged one is replaced."""
    if target.exists():
        if not problems_in(target, digest):
            return
        shutil.rmtree(target)
    _sync_folder(draft)
    draft.rename(target)
    _sync_folder(target.parent)


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def problems_in(folder: Path, digest: str) -> list[str]:
    """Read every file again and compare: what differs from the snapshot's hash, in words; empty when it is whole."""
    found: dict[str, str] = {}
    missing = []
    for side in SIDES:
        path = folder / file_name(side)
        if path.is_file():
            found[side] = file_sha256(path)
        else:
            missing.append(f"{path.name} is missing.")
    if missing:
        return missing
    if (folder / ERASED).is_file():
        found["erased"] = file_sha256(folder / ERASED)
    problems = [] if hash_of_sides(found) == digest else ["The rows differ from those that were frozen."]
    named = ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        named = str(json.loads((folder / "manifest.json").read_text())["hash"])
    if named != digest:
        problems.append("manifest.json is missing or names another hash.")
    return problems

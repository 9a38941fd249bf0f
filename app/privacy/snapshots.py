"""Taking rows out of snapshots. What is left of a row is a tombstone with its hash; the snapshot keeps its former hashes.

Tombstones stand in a file of their own, ``erased.jsonl``: whoever reads a split, the trainer or a person's script, meets rows
only. The snapshot's new hash covers the three splits and the tombstones.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.ids import canonical_json
from app.core.storage import artifact_path
from app.datasets import files
from app.datasets.files import SideFile
from app.datasets.splits import SIDES
from app.models import Snapshot
from app.privacy.traces import row_key

Heartbeat = Callable[[], None]


def num_hits(snapshot: Snapshot, keys: set[str]) -> int:
    """Rows of the snapshot that are among the erased ones. A snapshot whose files are gone holds none."""
    folder = artifact_path(snapshot.path)
    return sum(row_key(row["prompt"], row["completion"]) in keys for side in SIDES for row, _ in _rows(folder, side))


def take_out(db: Session, snapshot: Snapshot, keys: set[str], beat: Heartbeat) -> dict[str, Any] | None:
    """Write the snapshot anew without these rows and point the row of the database at it; None where it has none of them.

    The caller commits, then removes the old folder (``remove_folder``): until then both are whole.
    """
    old = artifact_path(snapshot.path)
    before, was = snapshot.content_hash, snapshot.path
    with files.draft_folder() as folder:
        written = _rewrite(old, folder, keys, beat)
        if written is None:
            return None
        digest, counts, size, erased = written
        files.put_in_place(folder, artifact_path(f"snapshots/{digest[:16]}"), digest)
    history = dict(snapshot.counts.get("erased", {}))
    former = [*history.get("was", []), before]
    snapshot.counts = {**snapshot.counts, **counts, "erased": {"rows": history.get("rows", 0) + erased, "was": former}}
    snapshot.content_hash, snapshot.path, snapshot.size_bytes = digest, f"snapshots/{digest[:16]}", size
    db.flush()
    return {"id": snapshot.id, "was": before, "now": digest, "rows": erased, "old_path": was}


def remove_folder(db: Session, path: str) -> None:
    """Of a snapshot that was written anew, unless another project's snapshot of the same content stands in it. Twice is harmless."""
    if not db.scalar(select(func.count()).select_from(Snapshot).where(Snapshot.path == path)):
        shutil.rmtree(artifact_path(path), ignore_errors=True)


def _rows(folder: Path, side: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    path = folder / f"{side}.jsonl"
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line), line.rstrip(b"\n")


def _rewrite(old: Path, folder: Path, keys: set[str], beat: Heartbeat) -> tuple[str, dict[str, Any], int, int] | None:
    manifest = json.loads((old / "manifest.json").read_text()) if (old / "manifest.json").is_file() else {}
    earlier = old / files.ERASED
    tombs = [earlier.read_bytes()] if earlier.is_file() else []
    erased = 0
    with files.open_sides(folder) as sides:
        for side in SIDES:
            last: tuple[str, str] | None = None
            for number, (row, line) in enumerate(_rows(old, side)):
                if number % 1_000 == 0:
                    beat()
                if row_key(row["prompt"], row["completion"]) in keys:
                    tomb = {"id": row["id"], "side": side, "erased": True, "sha256": hashlib.sha256(line).hexdigest()}
                    tombs.append(canonical_json(tomb) + b"\n")
                    erased += 1
                    continue
                last = _count(sides[side], row, last)
                sides[side].write(row)
    if not erased:
        return None
    body = b"".join(tombs)
    (folder / files.ERASED).write_bytes(body)
    (folder / files.ERASED).chmod(0o444)
    digests = {str(name): file.digest.hexdigest() for name, file in sides.items()}
    digest = files.hash_of_sides({**digests, "erased": hashlib.sha256(body).hexdigest()})
    counts = {str(name): file.counts for name, file in sides.items()}
    listed = {
        files.file_name(name): {"sha256": digests[name], "bytes": file.size, "rows": file.desirable + file.undesirable}
        for name, file in sides.items()
    }
    listed[files.ERASED] = {"sha256": hashlib.sha256(body).hexdigest(), "bytes": len(body), "rows": body.count(b"\n")}
    former = [*manifest.get("was", []), *([manifest["hash"]] if "hash" in manifest else [])]
    fresh = {**manifest, "hash": digest, "was": former, "counts": counts, "files": listed}
    size = files.write_manifest(folder, fresh) + sum(item["bytes"] for item in listed.values())
    return digest, counts, size, erased


def _count(side: SideFile, row: dict[str, Any], last: tuple[str, str] | None) -> tuple[str, str]:
    """Rows stand in the order of their conversations and prompts."""
    here = str(row["root"]), hashlib.sha256(canonical_json(row["prompt"])).hexdigest()
    side.roots += last is None or last[0] != here[0]
    side.prompts += last != here
    return here


def totals(hits: list[dict[str, Any]]) -> Counter[str]:
    return Counter({"snapshots": len({hit["id"] for hit in hits}), "snapshot_rows": sum(hit["rows"] for hit in hits)})

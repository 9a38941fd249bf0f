"""Reference log-probs, computed once per row and kept: an append-only, content-addressed cache on disk.

A row's key covers everything the number depends on and nothing else: the run's namespace (base-weights hash, tokenizer
and template hash, dtype, scoring path and backend, device type, head precision) and the token ids. So another beta,
learning rate, seed or LoRA rank costs no reference forward, and k new rows cost k rows. Each flush writes one immutable
segment, named by its content and moved into place whole: concurrent runs share the cache without locks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.alignment.dataset import IntArray, Pair
from worker.alignment.distributed import ALONE, World
from worker.alignment.scoring import tolerance

FloatArray = NDArray[np.float64]
NUM_CHECKED = 8
FLUSH_EVERY = 512
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceLogps:
    logps: FloatArray
    """Summed log-probs in nats, in the order asked."""
    num_computed: int
    num_cached: int
    """Found in the cache; the same pair asked for twice counts once."""
    num_checked: int
    """Cached values that were computed again to see that they still hold."""
    refused: float | None = None
    """The largest difference in nats, where a check failed and the cache was not used."""


class ReferenceCache:
    """One namespace of the cache: key (32 bytes) -> summed log-prob."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self._folder = folder / "reference" / namespace
        self._namespace = bytes.fromhex(namespace)
        self._fresh: dict[bytes, float] = {}
        self.values: dict[bytes, float] = {}
        self._segments = sorted(self._folder.glob("*.npz"))
        for path in self._segments:
            self._read(path)

    def key(self, pair: Pair) -> bytes:
        digest = hashlib.sha256(self._namespace)
        for ids in pair:
            digest.update(len(ids).to_bytes(8, "little") + ids.astype("<i8").tobytes())
        return digest.digest()

    def add(self, key: bytes, value: float) -> None:
        self.values[key] = self._fresh[key] = value

    def forget(self) -> None:
        """Drop what was on disk when this cache was opened: it was found wrong, and would be again."""
        for path in self._segments:
            path.unlink(missing_ok=True)
        self.values.clear()

    def flush(self) -> None:
        """Write what was added since the last flush as one segment."""
        if not self._fresh:
            return
        keys = np.frombuffer(b"".join(self._fresh), dtype=np.uint8).reshape(-1, 32)
        values = np.asarray(list(self._fresh.values()), dtype=np.float64)
        name = hashlib.sha256(keys.tobytes() + values.tobytes()).hexdigest()[:32]
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f".{name}.{os.getpid()}.partial"
        try:
            with partial.open("wb") as file:
                np.savez(file, keys=keys, values=values)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._folder / f"{name}.npz")
        finally:
            partial.unlink(missing_ok=True)  # a full disk needs the room
        self._fresh.clear()

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as segment:
                keys, values = segment["keys"], segment["values"]
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            zipfile.BadZipFile,
        ) as error:  # a damaged segment costs its rows, nothing else
            _log.warning("reference cache segment %s is unreadable: %s", path.name, error)
            return
        self.values.update(zip((key.tobytes() for key in keys), values.tolist(), strict=True))


def reference_logps(
    pairs: Sequence[Pair],
    cache: ReferenceCache,
    score: Callable[[Sequence[Pair]], Tensor],
    *,
    cuts: Callable[[Sequence[Pair]], list[IntArray]],
    dtype: torch.dtype,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    world: World = ALONE,
    idle: Callable[[int], None] = lambda _count: None,
) -> ReferenceLogps:
    """Summed reference log-probs of ``pairs``, from the cache where it holds and by ``score`` (no gradient) otherwise.

    ``cuts`` groups pairs into forward passes. Eight cached rows are computed again first; one difference above rounding
    refuses the whole namespace. The processes of ``world`` take the passes in turn and each writes what it computed; what
    the cache holds is as rank 0 found it. ``on_progress`` is called equally often in all, ``idle`` by one without a pass.
    """
    keys = [cache.key(pair) for pair in pairs]
    wanted = dict(zip(keys, pairs, strict=True))
    known = world.broadcast({key: cache.values[key] for key in wanted if key in cache.values})
    missing = [key for key in wanted if key not in known]
    checked = sorted(known)[:NUM_CHECKED]
    refused = world.broadcast(
        _disagreement([wanted[key] for key in checked], [known[key] for key in checked], score, dtype)
    )
    if refused is not None:
        if world.is_main:
            cache.forget()
        known, missing = {}, list(wanted)
    found_M = np.zeros(len(missing))
    done = unsaved = 0
    passes = cuts([wanted[key] for key in missing])
    try:
        for first in range(0, len(passes), world.size):
            at_once = passes[first : first + world.size]
            if world.rank < len(at_once):
                cut = at_once[world.rank]
                found_M[cut] = score([wanted[missing[index]] for index in cut]).double().cpu().numpy()
                for index in cut:
                    cache.add(missing[index], float(found_M[index]))
                unsaved += len(cut)
            else:
                idle(1)
            done += sum(map(len, at_once))
            if unsaved >= FLUSH_EVERY:
                cache.flush()
                unsaved = 0
            on_progress(done, len(missing))
    finally:  # a stop or a failure keeps what was computed
        cache.flush()
    values = known | dict(zip(missing, world.add_up(torch.from_numpy(found_M)).tolist(), strict=True))
    logps = np.asarray([values[key] for key in keys], dtype=np.float64)
    return ReferenceLogps(
        logps=logps, num_computed=len(missing), num_cached=len(known), num_checked=len(checked), refused=refused
    )


def namespace(**parts: str) -> str:
    """Hash of all that reference log-probs depend on beside the token ids: 64 hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tokenizer_hash(tokenizer: Any, template: str | None) -> str:
    """Hash of vocabulary, merges, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256((text + "\0" + str(template or tokenizer.chat_template)).encode()).hexdigest()


def weights_hash(folder: Path, cache_dir: Path | None = None) -> str:
    """Hash of a model folder's config and safetensors files, remembered in ``cache_dir`` by their sizes and times."""
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json"])
    if cache_dir is None:
        return _hash_files(files)
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    memo = cache_dir / "weights" / hashlib.sha256(f"{folder.resolve()}{stats}".encode()).hexdigest()
    if memo.exists() and len(known := memo.read_text(encoding="ascii")) == 64:
        return known
    found = _hash_files(files)
    memo.parent.mkdir(parents=True, exist_ok=True)
    partial = memo.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(found, encoding="ascii")
    partial.replace(memo)
    return found


def _hash_files(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _disagreement(
    pairs: Sequence[Pair], kept: Sequence[float], score: Callable[[Sequence[Pair]], Tensor], dtype: torch.dtype
) -> float | None:
    """The largest difference in nats between values kept and computed again, where one is above rounding."""
    if not pairs:
        return None
    again = torch.cat([score([pair]) for pair in pairs]).double().cpu()
    num_tokens = torch.tensor([len(pair.completion_ids) for pair in pairs])
    difference = (again - torch.tensor(kept, dtype=torch.float64)).abs()
    agree = bool((difference <= tolerance(dtype, again, num_tokens)).all())  # False for NaN too
    return None if agree else float(difference.max())

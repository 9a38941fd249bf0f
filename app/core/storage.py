"""Artifacts: snapshots, checkpoints, exports. A local folder in this version; every path is kept under one root."""

from __future__ import annotations

import shutil
from pathlib import Path

from app.core.errors import UnavailableError
from app.settings import get_settings


def artifacts_root() -> Path:
    settings = get_settings()
    root = Path(settings.artifacts_url) if settings.artifacts_url else data_dir() / "artifacts"
    return root.expanduser().absolute()


def data_dir() -> Path:
    settings = get_settings()
    if settings.data_dir != Path():
        return settings.data_dir.expanduser().absolute()
    from app.embedded.paths import default_data_dir

    return default_data_dir()


def artifact_path(*parts: str) -> Path:
    """A path under the artifacts root. Raises ValueError where ``parts`` would leave it."""
    root = artifacts_root()
    path = root.joinpath(*parts).absolute()
    if not path.is_relative_to(root) or ".." in path.parts:
        raise ValueError(f"{'/'.join(parts)} leaves the artifacts folder")
    return path


def require_free_space(path: Path, needed_bytes: int) -> None:
    """Refuse before writing rather than leave half a file. Raises UnavailableError."""
    probe = path
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if free < needed_bytes:
        raise UnavailableError(
            f"The disk under {probe} has {free // 2**20} MiB left, {-(-needed_bytes // 2**20)} MiB are needed.",
            remedy="Free some space or point KTO_ARTIFACTS_URL to another disk. Nothing was written.",
        )

"""Names for people."""

from __future__ import annotations

from app.models import Run


def base_model_label(run: Run) -> str:
    """A hub id as it is; of a folder its name, since the server's paths are nobody's business."""
    name: str = run.config["base_model"]
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    return name if is_hub_id else name.rstrip("/").rsplit("/", 1)[-1]

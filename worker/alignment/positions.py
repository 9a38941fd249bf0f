"""Whether a base model has positions for the rows of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker.alignment.config import AlignmentConfig
from worker.alignment.dataset import Row
from worker.alignment.errors import SpecError


def check_positions(rows: Sequence[Row], config: AlignmentConfig, model_config: Any) -> None:
    """Refuse lengths that the model has no positions for; a mismatched pair joins any prompt with any completion."""
    text_config = model_config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None)
    longest = max(len(row.pair.prompt_ids) for row in rows) + max(len(row.pair.completion_ids) for row in rows)
    longest, ropes = min(longest, config.max_length), _ropes(text_config)
    stretched = any(rope["rope_type"] != "default" for rope in ropes)  # which is for going beyond that number
    if positions and longest > positions and not stretched:
        raise SpecError(f"max_length: {config.max_length} exceeds the base model's {positions} positions; lower it")
    for rope in ropes:
        fixed = rope.get("original_max_position_embeddings", positions)
        if rope["rope_type"] in {"dynamic", "longrope"} and fixed and longest > fixed:
            raise SpecError(
                f"max_length: above {fixed} tokens this model's rotary positions follow the longest row of a pass;"
                f" lower it to {fixed}"
            )


def _ropes(text_config: Any) -> list[dict[str, Any]]:
    """The config's settings of rotary positions: one for all layers, or one for each kind of layer."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    return [each for each in (rope, *rope.values()) if isinstance(each, dict) and each.get("rope_type")]

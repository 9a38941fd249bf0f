"""Which base models a run may start from: folders under the configured roots, and hub ids where the settings allow them.

Reads config.json and the headers of safetensors files only: no torch, no code of the model's.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.errors import InvalidError
from app.core.storage import data_dir
from app.settings import get_settings

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
MAX_HEADER_BYTES = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """A model that may be chosen. For a hub id the facts are unknown until a worker loads it."""

    name: str
    """What is stored in the config: the folder's path, or the hub id."""
    label: str
    path: Path | None
    architecture: str = ""
    num_parameters: int = 0
    context_length: int = 0
    has_chat_template: bool = True
    config: dict[str, Any] | None = None

    @property
    def short_name(self) -> str:
        """What a person types: the folder's name where it is enough to find this folder."""
        found = next((root / self.label for root in model_roots() if (root / self.label).is_dir()), None)
        return self.label if self.path is not None and found is not None and found.resolve() == self.path else self.name

    @property
    def is_local(self) -> bool:
        return self.path is not None


def model_roots() -> list[Path]:
    """The configured folders and ``<data_dir>/models``, resolved."""
    return [root.expanduser().resolve() for root in (*get_settings().model_roots, data_dir() / "models")]


def list_base_models() -> list[BaseModel]:
    """Usable sub-folders of the roots, by name; folders that are no model are left out."""
    found: dict[Path, BaseModel] = {}
    for root in model_roots():
        for folder in _subfolders(root):
            if folder.resolve() not in found:
                with contextlib.suppress(InvalidError):
                    found[folder.resolve()] = find_base_model(str(folder))
    return sorted(found.values(), key=lambda model: model.label.casefold())


def _subfolders(root: Path) -> list[Path]:
    """Sorted; none of a root that is not there or may not be read."""
    try:
        return sorted(folder for folder in root.iterdir() if folder.is_dir())
    except OSError:
        return []


def find_base_model(name: str) -> BaseModel:
    """The model that a user named: a folder under the roots, its bare name, or a hub id. Raises InvalidError in words."""
    name = name.strip()
    if not name:
        raise _refused("Choose a base model.")
    try:
        return _find(name)
    except (OSError, RuntimeError, ValueError) as error:  # too long, no home folder, a NUL, not readable
        raise _refused(f"{name[:100]!r} cannot be read as a folder's name or a hub id.") from error


def _find(name: str) -> BaseModel:
    bare = [root / name for root in model_roots() if "/" not in name and name not in {".", ".."}]
    for candidate in bare:
        if candidate.is_dir():
            return read_model_folder(candidate)
    if HUB_ID.fullmatch(name) and not Path(name).is_dir():
        if not get_settings().allow_hub_models:
            raise _refused("Models by hub id are switched off here. Choose a folder.")
        return BaseModel(name=name, label=name, path=None)
    folder = Path(name).expanduser()
    resolved = folder.resolve()
    if not any(resolved != root and resolved.is_relative_to(root) for root in model_roots()):
        raise _refused(f"{name} is in none of the model folders. An operator adds one with KTO_MODEL_ROOTS.")
    return read_model_folder(resolved)


def read_model_folder(folder: Path) -> BaseModel:
    """Facts of a Hugging Face folder. Raises InvalidError naming the first thing that is missing or refused."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise _refused(f"There is no folder {folder}.")
    config = _read_json(folder / "config.json")
    if config is None:
        raise _refused(f"{folder.name} is no model: it has no readable config.json.")
    if config.get("auto_map"):
        raise _refused(f"{folder.name} needs code of its own (auto_map in config.json), which is never run.")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        others = any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth"))
        extra = " Its .bin files can hold code: convert them to safetensors." if others else ""
        raise _refused(f"{folder.name} has no *.safetensors file; safetensors only.{extra}")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise _refused(f"{folder.name} has no tokenizer (tokenizer.json).")
    tokenizer = _read_json(folder / "tokenizer_config.json") or {}
    architectures = config.get("architectures") or [config.get("model_type", "")]
    return BaseModel(
        name=str(folder),
        label=folder.name,
        path=folder,
        architecture=str(architectures[0]).removesuffix("ForCausalLM"),
        num_parameters=sum(_count_parameters(file) for file in weights),
        context_length=_context_length(config),
        has_chat_template="chat_template" in tokenizer or (folder / "chat_template.jinja").is_file(),
        config=config,
    )


def _context_length(config: dict[str, Any]) -> int:
    text = config.get("text_config")
    for source in (config, text if isinstance(text, dict) else {}):
        value = source.get("max_position_embeddings") or source.get("n_positions")
        if isinstance(value, int):
            return value
    return 0


def _count_parameters(file: Path) -> int:
    """From the header: 8 bytes of length, then JSON of names to shapes. Raises InvalidError where it is damaged."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > MAX_HEADER_BYTES:
                raise ValueError(length)
            header = json.loads(stream.read(length))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, AttributeError, KeyError, TypeError, struct.error) as error:
        raise _refused(f"{file.parent.name}/{file.name} is damaged: its header cannot be read.") from error


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _refused(message: str) -> InvalidError:
    return InvalidError("The base model cannot be used.", fields={"base_model": message})

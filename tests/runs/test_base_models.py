"""Which folders may be a base model, and the words for those that may not."""

from __future__ import annotations

import json
import struct

import pytest

from app.core.errors import InvalidError
from app.core.storage import data_dir
from app.runs.base_models import find_base_model, list_base_models, read_model_folder
from app.settings import get_settings
from tests.runs.samples import model_folder


@pytest.fixture
def root(configured, monkeypatch, tmp_path):
    """A model folder of the test's own."""
    monkeypatch.setattr(get_settings(), "model_roots", [tmp_path / "models"])
    monkeypatch.setattr(get_settings(), "data_dir", tmp_path / "data")
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def refusal(name: object) -> str:
    with pytest.raises(InvalidError) as caught:
        find_base_model(str(name))
    return caught.value.fields["base_model"]


def test_facts_come_from_the_files(root):
    folder = model_folder("tiny", root)
    model = find_base_model(str(folder))
    assert (model.label, model.architecture, model.num_parameters, model.context_length) == ("tiny", "Llama", 48, 4096)
    assert model.has_chat_template
    assert find_base_model("tiny") == model
    assert [found.label for found in list_base_models()] == ["tiny"]


def test_models_of_the_data_folder_are_always_there(root):
    model_folder("demo", data_dir() / "models")
    assert [found.label for found in list_base_models()] == ["demo"]


@pytest.mark.parametrize("name", ["/etc", "/etc/passwd", "{root}/../outside", "{root}", "..", "."])
def test_places_outside_the_roots_are_refused(root, name):
    model_folder("outside", root.parent)
    assert "none of the model folders" in refusal(name.format(root=root))


def test_a_link_out_of_the_roots_is_refused(root):
    outside = model_folder("outside", root.parent)
    (root / "link").symlink_to(outside)
    assert "none of the model folders" in refusal(root / "link")


def test_a_folder_that_is_no_model_is_refused(root):
    (root / "empty").mkdir()
    assert "no readable config.json" in refusal(root / "empty")
    assert "There is no folder" in refusal(root / "gone")


def test_pickles_are_refused(root):
    folder = model_folder("pickled", root)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    words = refusal(folder)
    assert "safetensors only" in words
    assert ".bin" in words


def test_code_of_the_models_own_is_refused(root):
    folder = model_folder("custom", root, auto_map={"AutoModelForCausalLM": "modeling.Evil"})
    assert "auto_map" in refusal(folder)


def test_a_missing_tokenizer_is_named(root):
    folder = model_folder("dumb", root)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert "no tokenizer" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, struct.pack("<Q", 4) + b"nope"])
def test_a_damaged_header_is_named(root, content):
    folder = model_folder("damaged", root)
    (folder / "model.safetensors").write_bytes(content)
    assert "is damaged" in refusal(folder)


def test_hub_ids_are_taken_where_they_are_allowed(root, monkeypatch):
    model = find_base_model("Qwen/Qwen3-8B")
    assert (model.name, model.is_local, model.config) == ("Qwen/Qwen3-8B", False, None)
    monkeypatch.setattr(get_settings(), "allow_hub_models", False)
    assert "switched off" in refusal("Qwen/Qwen3-8B")


def test_composed_models_tell_their_context(root):
    folder = model_folder("composed", root, max_position_embeddings=None, text_config={"max_position_embeddings": 512})
    assert read_model_folder(folder).context_length == 512
    assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] is None

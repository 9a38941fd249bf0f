"""Exports end to end: a tiny random Llama and a LoRA checkpoint, through the task's own process."""

from __future__ import annotations

import io
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from sqlalchemy import Engine, select
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.core.clock import utcnow
from app.core.db import session_scope
from app.core.storage import artifact_path
from app.models import Export, ModelVersion, Project, Run, Snapshot
from app.registry import export_leases as leases
from app.registry.exports import open_archive, request_export
from app.registry.service import find_version, make_version
from app.settings import get_settings
from tests.alignment import tiny
from tests.evaluations.support import checkpoint_of, run_in
from tests.factory import Factory
from worker.alignment.checkpoints import Manifest, save_checkpoint

PEFT_WARNING = "ignore:.*is_gradient_checkpointing:FutureWarning"


@pytest.fixture
def shop(committed_db: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    """A committed version v1 without files yet; gives the project's id."""
    monkeypatch.setattr(get_settings(), "data_dir", tmp_path)
    monkeypatch.setattr(get_settings(), "lease_seconds", 6)
    monkeypatch.setattr("app.registry.exports.enqueue", lambda *_args, **_settings: None)
    monkeypatch.setattr("app.registry.export_leases.enqueue", lambda *_args, **_settings: None)
    with session_scope() as db:
        factory = Factory(db)
        project = factory.project()
        run = run_in(factory, project, config={"base_model": str(tmp_path / "models" / "tiny"), "max_length": 128})
        checkpoint = checkpoint_of(factory, run)
        make_version(db, project=project, checkpoint_id=checkpoint.id, user=None)
        return project.id


def ask(project_id: int, kind: str) -> int:
    with session_scope() as db:
        return request_export(db, version=find_version(db, project_id, 1), kind=kind, user=None).id


def export_row(export_id: int) -> Export:
    with session_scope() as db:
        return db.get_one(Export, export_id)


def build(project_id: int, effect: float) -> Path:
    """The base model, the snapshot and the checkpoint of v1 on disk; returns the base model's folder."""
    torch.set_num_threads(1)
    with session_scope() as db:
        version = find_version(db, project_id, 1)
        run, snapshot, checkpoint = version.run, version.run.snapshot, version.checkpoint
        assert isinstance(run, Run)
        assert isinstance(snapshot, Snapshot)
        base = tiny.save_model(Path(run.config["base_model"]))
        tiny.save_snapshot(artifact_path(snapshot.path))
        model: Any = AutoModelForCausalLM.from_pretrained(base)
        adapted: Any = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        torch.manual_seed(3)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(effect * torch.randn_like(parameter))
        optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad])
        manifest = Manifest(run_id=run.id, step=10, total_steps=10, config={}, snapshot_hash="", pins={}, progress={})
        save_checkpoint(artifact_path(checkpoint.path), manifest, adapted, optimizer)
    return base


def run_task(export_id: int) -> Export:
    from worker.tasks.export import export_version

    export_version(export_id)
    return export_row(export_id)


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_adapter_and_merged_model_come_out_equal(shop: int, tmp_path: Path) -> None:
    base = build(shop, effect=0.5)
    adapter = run_task(ask(shop, "adapter"))
    assert (adapter.status, adapter.message) == ("ready", "")
    assert adapter.path is not None
    folder = artifact_path(adapter.path)
    assert {"adapter_model.safetensors", "adapter_config.json"} <= {file.name for file in folder.iterdir()}
    assert adapter.size_bytes == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    merged = run_task(ask(shop, "merged"))
    assert (merged.status, merged.message) == ("ready", "")
    assert merged.report["ratio"] < 0.1
    assert merged.report["correlation"] > 0.99
    assert merged.path is not None
    ids = AutoTokenizer.from_pretrained(base)("red green", return_tensors="pt").input_ids
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(artifact_path(merged.path))(ids).logits
        theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(base)(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - plain).abs().max() > 1e-2
    with session_scope() as db:
        project = db.get_one(Project, shop)
        archive = open_archive(db, project_slug=project.slug, version=find_version(db, shop, 1), kind="merged")
        content = b"".join(archive.chunks)
    assert len(content) == archive.size_bytes
    with tarfile.open(fileobj=io.BytesIO(content)) as files:
        assert f"{project.slug}-v1-merged/model.safetensors" in files.getnames()
    before = adapter.finished_at
    assert run_task(adapter.id).finished_at == before, "a message that comes twice does nothing"


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_a_merge_without_effect_is_refused_in_words(shop: int) -> None:
    build(shop, effect=0.0)
    export = run_task(ask(shop, "merged"))
    assert export.status == "refused"
    assert "The adapter changes log-probs by only" in export.message
    assert export.report["effect"] < 1e-3
    assert not list(artifact_path("exports").rglob("model.safetensors"))


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_what_is_missing_or_damaged_is_named(shop: int) -> None:
    missing = run_task(ask(shop, "adapter"))
    assert missing.status == "failed"
    assert "has no readable manifest.json" in missing.message
    base = build(shop, effect=0.1)
    with session_scope() as db:
        file = artifact_path(find_version(db, shop, 1).checkpoint.path) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "is damaged" in run_task(ask(shop, "adapter")).message
    build(shop, effect=0.1)
    (base / "config.json").unlink()
    gone = run_task(ask(shop, "adapter"))
    assert gone.status == "failed"
    assert gone.message


def test_an_export_has_one_worker_and_the_lost_ones_are_taken_over(shop: int) -> None:
    export_id = ask(shop, "adapter")
    with session_scope() as db:
        first = leases.claim(db, export_id)
        assert first is not None
        token = first.lease_until
        assert token is not None
    with session_scope() as db:
        assert leases.claim(db, export_id) is None
        assert leases.requeue_stale_exports(db) == []
    with session_scope() as db:
        renewed = leases.renew(db, export_id, token)
        assert renewed is not None
        assert renewed > token
        assert leases.renew(db, export_id, token) is None
    lapse(export_id)
    with session_scope() as db:
        assert leases.requeue_stale_exports(db) == [export_id]
        assert leases.requeue_stale_exports(db) == [], "rung for once per lease"
    with session_scope() as db:
        second = leases.claim(db, export_id)
        assert second is not None
        assert second.report == {"tries": 2}
        assert second.lease_until is not None
        assert not leases.finish(db, export_id, renewed, status="ready"), "the first worker is too late"
        assert leases.finish(db, export_id, second.lease_until, status="ready", path="x", size_bytes=1)
    assert export_row(export_id).status == "ready"


def test_an_export_that_keeps_losing_its_worker_fails(shop: int) -> None:
    export_id = ask(shop, "adapter")
    for _ in range(leases.MAX_TRIES):
        with session_scope() as db:
            assert leases.claim(db, export_id) is not None
        lapse(export_id)
        with session_scope() as db:
            leases.requeue_stale_exports(db)
    export = export_row(export_id)
    assert export.status == "failed"
    assert "lost 3 times" in export.message


def test_a_message_that_redis_lost_is_sent_again(shop: int) -> None:
    export_id = ask(shop, "adapter")
    with session_scope() as db:
        assert leases.requeue_stale_exports(db) == []
        db.scalars(select(Export)).one().created_at = utcnow() - timedelta(minutes=1)
    with session_scope() as db:
        assert leases.requeue_stale_exports(db) == [export_id]
        assert db.scalars(select(ModelVersion)).one().number == 1


def lapse(export_id: int) -> None:
    with session_scope() as db:
        db.get_one(Export, export_id).lease_until = utcnow() - timedelta(seconds=1)

"""A reference check on a tiny model: the figures against a plain forward of transformers; lost workers; failures in words."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session
from transformers import AutoModelForCausalLM

from app.core.clock import utcnow
from app.core.db import new_session, session_scope
from app.datasets import reference
from app.datasets.service import readiness
from app.models import Completion, Project, Prompt, ReferenceCheck, Role
from app.settings import Settings
from tests.alignment import tiny
from tests.factory import Factory
from tests.runs import samples
from tests.worker.conftest import settings  # noqa: F401 -- a fixture
from worker import reference_check

SignIn = Callable[..., TestClient]


def fill(db: Session, number: int = 12) -> Project:
    made = Factory(db)
    project = made.project()
    for index in range(number):
        words = tiny.WORDS[index % 5 : index % 5 + 6]
        completion = made.completion(
            project, " ".join(words), f"say {index}", model="tiny-llama" if index % 2 else "other"
        )
        made.rating(completion, index % 3 == 0)
    made.rating(
        made.completion(project, "unlike the rest" * 600, "long", model="other")
    )  # longer than the model's context
    made.completion(project, "never rated", "quiet", model="quiet")
    return project


def plain_means(db: Session, project: Project, folder: Any) -> dict[str, list[float]]:
    """Log-softmax of the whole model's logits, one row at a time."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tiny.tokenizer()
    means: dict[str, list[float]] = defaultdict(list)
    query = select(Prompt.messages, Completion.messages, Completion.model).join(Completion.prompt)
    for prompt, completion, name in db.execute(query.where(Completion.project_id == project.id)):
        if name == "quiet" or len(completion[0]["content"]) > 1000:
            continue
        opening = f"<|im_start|>user\n{prompt[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(opening, add_special_tokens=False)["input_ids"]
        own = tokenizer(completion[0]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logps = model(torch.tensor([ids + own])).logits.double().log_softmax(-1)[0]
        means[name].append(sum(logps[len(ids) + i - 1, token].item() for i, token in enumerate(own)) / len(own))
    return means


def test_figures_of_a_tiny_model(
    committed_db: Engine,
    settings: Settings,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    folder = tiny.save_model(settings.data_dir / "models" / "tiny-llama")
    with session_scope() as db:
        project = fill(db)
        check_id = reference.start(db, project, str(folder), None).id
    reference_check.work(check_id)
    with new_session() as db:
        check = db.get_one(ReferenceCheck, check_id)
        assert (check.status, check.error) == ("succeeded", None)
        off = reference.off_policy(db, project)
        assert off is not None
        plain = plain_means(db, project, folder)
        found = {item.model: item for item in off.models}
        assert found.keys() == plain.keys() == {"tiny-llama", "other"}
        for name, values in plain.items():
            item, mean = found[name], sum(values) / len(values)
            error = (sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) ** 0.5
            assert item.n == len(values) == 6
            assert item.mean == pytest.approx(mean, abs=1e-4)
            assert item.low == pytest.approx(mean - 1.96 * error, abs=1e-4)
            assert item.high == pytest.approx(mean + 1.96 * error, abs=1e-4)
        assert off.own is found["tiny-llama"]
        assert check.result is not None
        assert check.result["skipped"] == 1
        assert found["other"].labels == 7
        assert any("off-policy" in item.text or "writes itself" in item.text for item in readiness(db, project).checks)
    reference_check.work(check_id)  # a second message finds nothing to do
    with session_scope() as db:
        assert db.get_one(ReferenceCheck, check_id).attempt == 1
    assert not list((settings.data_dir).glob("**/reference-checks/*/*"))  # people's words do not stay behind


def test_failures_are_said_in_words(committed_db: Engine, settings: Settings) -> None:  # noqa: F811
    broken = samples.model_folder(root=settings.data_dir / "models")
    with session_scope() as db:
        project = fill(db, 2)
        check_id = reference.start(db, project, str(broken), None).id
    reference_check.work(check_id)
    with session_scope() as db:
        check = db.get_one(ReferenceCheck, check_id)
        assert check.status == "failed"
        assert check.error
        assert "Traceback" not in check.error
        gone = reference.start(db, project, str(settings.data_dir / "models" / "gone"), None).id
    reference_check.work(gone)
    with session_scope() as db:
        found = db.get_one(ReferenceCheck, gone)
        assert found.status == "failed"
        assert "no folder" in (found.error or "")


def test_lost_leases(db: Session, factory: Any) -> None:
    project = factory.project()
    check = reference.start(db, project, "tiny", None)
    mine = reference.claim(db, check.id)
    assert mine is not None
    assert reference.claim(db, check.id) is None
    assert reference.requeue_stale(db) == []
    late = {"lease_until": utcnow() - timedelta(seconds=1)}
    for attempt in (1, 2):
        db.execute(update(ReferenceCheck).where(ReferenceCheck.id == check.id).values(**late))
        assert reference.requeue_stale(db) == [check.id]
        assert not reference.finish(db, check.id, attempt, result={"models": []})  # overslept
        claimed = reference.claim(db, check.id)
        assert claimed is not None
        assert claimed.attempt == attempt + 1
    db.execute(update(ReferenceCheck).where(ReferenceCheck.id == check.id).values(**late))
    assert reference.requeue_stale(db) == []
    db.refresh(check)
    assert check.status == "failed"
    assert "lost 3 times" in (check.error or "")


def test_the_page(db: Session, factory: Any, sign_in: SignIn, settings: Settings) -> None:  # noqa: F811
    folder = samples.model_folder(root=settings.data_dir / "models")
    project = factory.project()
    browser = sign_in(factory.member(project, Role.LEAD))
    address = f"/p/{project.slug}/readiness/off-policy"
    assert "Not measured yet" in browser.get(address).text
    refused = browser.post(address, data={"base_model": "nowhere"})
    assert refused.status_code == 422
    assert "nowhere" in refused.text
    assert browser.post(address, data={"base_model": "tiny"}).status_code == 303
    check = db.scalars(select(ReferenceCheck)).one()
    assert check.base_model == str(folder)
    assert "Waiting for a worker" in browser.get(address).text
    assert browser.post(address, data={"base_model": "tiny"}).status_code == 409
    assert sign_in(factory.member(project, Role.VIEWER)).post(address, data={"base_model": "tiny"}).status_code == 403


def test_what_is_far() -> None:
    check = ReferenceCheck(base_model="/models/base", status="succeeded")
    near, far, own = (
        reference.ModelFigures(name, 100, mean, mean - 0.1, mean + 0.1, labels)
        for name, mean, labels in (("near", -1.2, 10), ("far", -1.9, 30), ("base", -0.5, 20))
    )
    found = reference.OffPolicy(check, [own, near, far])
    assert found.own is own
    assert (found.is_far(near), found.is_far(far)) == (False, True)
    assert found.far_share == pytest.approx(0.5)
    assert reference.OffPolicy(check, [near, far]).far_share == 0  # without own samples: below -2 nats only

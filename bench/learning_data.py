"""The two datasets of ``bench.learning``, each split by conversation root so that no prompt is trained on and held out."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from bench.report import CannotRunError
from worker.demo.pretrain import render

Side = Literal["train", "dev", "test"]
SIDES: tuple[Side, ...] = ("train", "dev", "test")
BOOKS = ("gutenberg/*.txt", "tinystories_sample/corpus.en")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One judgment: what the model reads (``asked``), what was answered, and whether people liked it."""

    id: int
    asked: str
    completion: str
    label: bool
    prompt_key: str
    """Of the whole prompt: what "within prompt" means."""
    root: str
    """Conversation root: the unit of splits and of clusters."""
    source: str


def shared_data() -> Path:
    """Raises CannotRunError where the human labels are not at hand."""
    folder = Path(os.environ.get("KTO_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not (folder / "kto_sample.jsonl").is_file():
        raise CannotRunError(f"{folder} holds no kto_sample.jsonl; set KTO_SHARED_DATA to the folder that does.")
    return folder


def human_rows(folder: Path, *, max_bytes: int) -> list[Judged]:
    """Human judgments whose last user turn and completion together have at most ``max_bytes`` bytes.

    Of a dialogue the model reads the last user turn. Where two conversations have the same last turn only the first one
    is kept, so that what is held out was never asked in training.
    """
    found: list[Judged] = []
    owner: dict[str, str] = {}
    for number, line in enumerate((folder / "kto_sample.jsonl").read_text(encoding="utf-8").splitlines()):
        record = json.loads(line)
        turns = user_turns(record["prompt"])
        asked, completion = turns[-1], str(record["completion"]).strip()
        root = _digest(turns[0])
        fits = (
            len((asked + completion).encode()) <= max_bytes
        )  # a token is a byte at the least: every row fits the model
        if asked and completion and fits and owner.setdefault(asked, root) == root:
            found.append(
                Judged(
                    id=number,
                    asked=asked,
                    completion=completion,
                    label=bool(record["label"]),
                    prompt_key=_digest(record["prompt"]),
                    root=root,
                    source=str(record["source"]),
                )
            )
    return found


def demo_rows(records: Iterable[dict[str, Any]]) -> list[Judged]:
    """From ``worker.demo.feedback.make_feedback``."""
    return [
        Judged(
            id=number,
            asked=str(record["prompt"][-1]["content"]),
            completion=str(record["completion"]),
            label=bool(record["label"]),
            prompt_key=_digest(str(record["prompt"][-1]["content"])),
            root=_digest(str(record["prompt"][-1]["content"])),
            source="demo",
        )
        for number, record in enumerate(records)
    ]


def user_turns(prompt: str) -> list[str]:
    """The user's turns of a ``Human: … Assistant: …`` dialogue; the whole text where it is none."""
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", prompt)
    turns = [text.strip() for who, text in zip(parts[1::2], parts[2::2], strict=True) if who == "Human"]
    return turns or [prompt.strip()]


def folds(rows: Sequence[Judged], *, number: int, multiple_of: int) -> list[dict[Side, list[Judged]]]:
    """By a hash of the root: a sixth is dev for good, and every fold holds another part of the rest out as its test.

    Test keeps the prompts that carry both labels, since no other counts within a prompt. Train is cut to whole steps.
    """
    home = [int(_digest(f"learning {each.root}"), 16) % (6 * number) for each in rows]
    labels: dict[str, set[bool]] = defaultdict(set)
    for each in rows:
        labels[each.prompt_key].add(each.label)
    dev = [each for each, place in zip(rows, home, strict=True) if place < number]
    found: list[dict[Side, list[Judged]]] = []
    for fold in range(number):
        train: list[Judged] = []
        test: list[Judged] = []
        for each, place in zip(rows, home, strict=True):
            if place >= number:
                (test if place % number == fold else train).append(each)
        random.Random(fold).shuffle(train)
        test = [each for each in test if len(labels[each.prompt_key]) == 2]
        found.append({"train": train[: len(train) // multiple_of * multiple_of], "dev": dev, "test": test})
    return found


def shorter_is_better(train: Sequence[Judged]) -> bool:
    """Which way a judge by length alone would learn to go: whether desirable answers are shorter, prompt by prompt."""
    lengths: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for each in train:
        lengths[each.prompt_key][each.label].append(len(each.completion))
    longer = [fmean(up) > fmean(down) for down, up in lengths.values() if down and up]
    return 2 * sum(longer) < len(longer)


def write_snapshot(folder: Path, sides: dict[Side, list[Judged]]) -> Path:
    """A snapshot as the web app freezes one."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for side in SIDES:
        text = "".join(json.dumps(record(each), ensure_ascii=False) + "\n" for each in sides[side])
        (folder / f"{side}.jsonl").write_text(text, encoding="utf-8")
        digest.update(text.encode())
    counts = {side: Counter("desirable" if each.label else "undesirable" for each in sides[side]) for side in SIDES}
    manifest = {"format": 1, "hash": digest.hexdigest(), "counts": counts}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def record(each: Judged) -> dict[str, Any]:
    """The row of a snapshot; its ``prompt``, ``completion`` and ``label`` are TRL's format as well."""
    return {
        "id": each.id,
        "prompt": [{"role": "user", "content": each.asked}],
        "completion": [{"role": "assistant", "content": each.completion}],
        "label": each.label,
        "root": each.root,
    }


def pretraining_texts(
    folder: Path, rows: Sequence[Judged], dev: Sequence[Judged], *, num_passages: int, passage_bytes: int
) -> list[str]:
    """The chats of dev without their labels, and passages as answers to an empty prompt: nothing of a row of any test.

    Passages: ``num_passages`` of books, and the completions of all conversations that ``rows`` have nothing of.
    """
    known = {each.root for each in rows}
    texts = [path.read_text(encoding="utf-8") for pattern in BOOKS for path in sorted(folder.glob(pattern))]
    passages = [passage for text in texts for passage in _passages(text, passage_bytes)]
    rng = random.Random(0)
    passages = rng.sample(passages, min(num_passages, len(passages)))
    for line in (folder / "kto_sample.jsonl").read_text(encoding="utf-8").splitlines():
        judgment = json.loads(line)
        if _digest(user_turns(judgment["prompt"])[0]) not in known:
            passages += _passages(str(judgment["completion"]), passage_bytes)
    texts = [render(each.asked, each.completion) for each in dev] + [render("", text) for text in passages]
    rng.shuffle(texts)
    return texts


def _passages(text: str, size: int) -> Iterator[str]:
    """Whole paragraphs together up to ``size`` bytes; a longer paragraph is left out."""
    held = ""
    for paragraph in (re.sub(r"\s+", " ", part).strip() for part in text.split("\n\n")):
        if len(paragraph.encode()) > size:
            continue
        if held and len(held.encode()) + 1 + len(paragraph.encode()) > size:
            yield held
            held = ""
        held = f"{held} {paragraph}".strip()
    if held:
        yield held


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]

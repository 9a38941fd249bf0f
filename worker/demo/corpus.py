"""The demo's text, made from templates that belong to this project: chats in many categories, in two styles.

A desirable answer is polite and ends with an offer of help; an undesirable one grumbles or rambles. Half of the
pre-training answers are of each kind, so that the model has both habits and the thumbs decide which one stays.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from worker.demo.categories import CATEGORIES, Category

FRAMES = (
    "Please {task}.",
    "Could you {task}?",
    "{Task}.",
    "I need you to {task}.",
    "Can you {task} for me?",
    "Hello, please {task}.",
    "Would you {task}, please?",
    "A quick request: {task}.",
)
"""Ways to put a task to the assistant; each makes another paraphrase of every prompt."""

POLITE_OPENINGS = (
    "Of course.",
    "Gladly.",
    "With pleasure.",
    "Certainly.",
    "Good question.",
    "I am happy to help.",
    "Thank you for asking.",
    "Let us see.",
    "",
    "",
)
HELPFUL_CLOSINGS = (
    "I hope that helps.",
    "Let me know if you want more ideas.",
    "Feel free to ask again.",
    "Have a lovely day.",
    "Shall I explain it further?",
    "Tell me if you need anything else.",
    "I can add details if you like.",
    "Enjoy, and come back any time.",
    "Is there anything else I can do?",
    "Good luck with it.",
)
GRUMPY_OPENINGS = (
    "Not again.",
    "Fine.",
    "What now?",
    "Must you ask?",
    "Ugh.",
    "If it has to be.",
    "That again.",
    "",
    "",
)
GRUMPY_CLOSINGS = (
    "Look it up yourself.",
    "Stop asking.",
    "I have no time for this.",
    "That is all you get.",
    "Who cares.",
    "Do not bother me again.",
    "Go away now.",
    "I am bored already.",
)
RAMBLES = (
    "Anyway, where was I, it does not matter, or maybe it does.",
    "Well, one could say so, or not, it is hard to say, really.",
    "That reminds me of something else, but never mind.",
    "Then again it could be the other way round, who knows, I forget.",
    "And so on and so on, as my uncle used to say, or was it my cousin.",
)
CURT_BODIES = ("{A}.", "{A}, obviously.", "Something with {a}.", "{A} or {b}, whatever.", "Just {a}.", "{f}.")


@dataclass(frozen=True, slots=True)
class Chat:
    category: str
    prompt: str
    completion: str
    desirable: bool


def make_prompt(rng: random.Random, category: Category) -> tuple[str, int]:
    """One prompt of the category and the index of its topic."""
    topic = rng.randrange(len(category.topics))
    task = rng.choice(category.tasks).format(t=category.topics[topic])
    return frame(rng.choice(FRAMES), task), topic


def make_completion(rng: random.Random, category: Category, topic: int, *, desirable: bool) -> str:
    """One answer in the given style."""
    body = _fill(rng, rng.choice(category.bodies), category, topic)
    if desirable:
        return _join(rng.choice(POLITE_OPENINGS), body, rng.choice(HELPFUL_CLOSINGS))
    if rng.random() < 0.3:
        return _join(body, *rng.sample(RAMBLES, rng.choice((1, 1, 2))))
    curt = [text for text in CURT_BODIES if category.facts or "{f}" not in text]
    if rng.random() < 0.5:
        body = _fill(rng, rng.choice(curt), category, topic)
    return _join(rng.choice(GRUMPY_OPENINGS), body, rng.choice(GRUMPY_CLOSINGS))


def chats(seed: int, num: int) -> Iterator[Chat]:
    """``num`` chats over all categories, half of them desirable, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(num):
        category = rng.choice(CATEGORIES)
        prompt, topic = make_prompt(rng, category)
        desirable = rng.random() < 0.5
        yield Chat(category.name, prompt, make_completion(rng, category, topic, desirable=desirable), desirable)


def prompts(seed: int, num: int) -> list[tuple[str, str]]:
    """``num`` different (category, prompt) pairs, spread evenly over the categories.

    Raises ValueError when the templates do not hold that many.
    """
    rng = random.Random(seed)
    per_category = [list(all_prompts(category)) for category in CATEGORIES]
    if num > sum(len(texts) for texts in per_category):
        raise ValueError(f"The demo's templates hold fewer than {num} different prompts.")
    for texts in per_category:
        rng.shuffle(texts)
    found: list[tuple[str, str]] = []
    while len(found) < num:
        for category, texts in zip(CATEGORIES, per_category, strict=True):
            if texts:
                found.append((category.name, texts.pop()))
    return found[:num]


def all_prompts(category: Category) -> Iterator[str]:
    for topic in category.topics:
        for task in category.tasks:
            text = task.format(t=topic)
            for words in FRAMES:
                yield frame(words, text)


def frame(words: str, task: str) -> str:
    """The task put in one of FRAMES."""
    return words.format(task=task, Task=_capital(task))


def style_of(text: str) -> bool | None:
    """True for a polite answer with an offer of help, False for a grumpy or rambling one, None where neither or both show."""
    helpful = any(closing in text for closing in HELPFUL_CLOSINGS)
    grumpy = any(mark in text for mark in (*GRUMPY_CLOSINGS, *RAMBLES, *(o for o in GRUMPY_OPENINGS if o)))
    return helpful if helpful != grumpy else None


def _fill(rng: random.Random, template: str, category: Category, topic: int) -> str:
    a, b, c = rng.sample(category.items, 3)
    t, f = category.topics[topic], category.facts[topic] if category.facts else ""
    slots = {"a": a, "b": b, "c": c, "t": t, "f": f}
    return _capital(template.format(**slots, **{key.upper(): _capital(text) for key, text in slots.items()}))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)

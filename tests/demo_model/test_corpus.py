from __future__ import annotations

import itertools

import pytest

from worker.demo.categories import CATEGORIES
from worker.demo.corpus import all_prompts, chats, prompts, style_of


def test_there_are_many_categories_with_many_prompts() -> None:
    assert len(CATEGORIES) >= 40
    assert len({category.name for category in CATEGORIES}) == len(CATEGORIES)
    for category in CATEGORIES:
        assert len(set(all_prompts(category))) >= 60
        assert len(category.items) >= 5
        assert len(category.facts) in (0, len(category.topics))
        assert any("{f}" in body or "{F}" in body for body in category.bodies) == bool(category.facts)


def test_chats_repeat_with_the_seed_and_hold_both_styles() -> None:
    first = list(chats(3, 4000))
    assert first == list(chats(3, 4000))
    assert first != list(chats(4, 4000))
    assert {chat.category for chat in first} == {category.name for category in CATEGORIES}
    assert 0.45 < sum(chat.desirable for chat in first) / 4000 < 0.55
    assert all(style_of(chat.completion) is chat.desirable for chat in first)
    assert not any("{" in chat.prompt + chat.completion or "  " in chat.completion for chat in first)
    by_prompt: dict[str, set[str]] = {}
    for chat in first:
        by_prompt.setdefault(chat.prompt, set()).add(chat.completion)
    repeated = [found for found in by_prompt.values() if len(found) > 1]
    assert len(repeated) > 100


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("Gladly. Red suits a kitchen. I hope that helps.", True),
        ("Red. Stop asking.", False),
        ("What now? Red. I hope that helps.", None),
        ("Red, blue and green.", None),
        ("Well, one could say so, or not, it is hard to say, really.", False),
        ("", None),
    ],
)
def test_the_raters_rule(text: str, style: bool | None) -> None:
    assert style_of(text) is style


def test_prompts_are_different_and_spread_over_categories() -> None:
    found = prompts(1, 100)
    assert found == prompts(1, 100)
    assert len({text for _, text in found}) == 100
    counts = [len(list(group)) for _, group in itertools.groupby(sorted(category for category, _ in found))]
    assert len(counts) == len(CATEGORIES)
    assert max(counts) - min(counts) <= 1
    with pytest.raises(ValueError, match="fewer than"):
        prompts(0, 10**6)

"""The quality gate: learned from votes, and what it makes of a style that spreads and of a collapse inside it."""

from __future__ import annotations

import random

import numpy as np

from worker.alignment.evaluation.alarms import alarms_of
from worker.alignment.evaluation.assess import assess
from worker.alignment.evaluation.measures import PromptSamples, SampledText
from worker.alignment.evaluation.quality import LabelModel, fit_label_model, gated, quality_rule
from worker.alignment.events import Alarm, DiversityResult

NOUNS = [
    "river",
    "bread",
    "lamp",
    "cloud",
    "stone",
    "bird",
    "glass",
    "road",
    "tree",
    "song",
    "boat",
    "clock",
    "leaf",
    "door",
    "coin",
    "field",
]
VERBS = [
    "holds",
    "keeps",
    "finds",
    "turns",
    "lifts",
    "meets",
    "shows",
    "brings",
    "takes",
    "follows",
    "paints",
    "carries",
]
KIND = ("Gladly, here you are:", "I am happy to help:")
RUDE = ("Ugh, not again:", "Go away, but fine:")


def answer(rng: random.Random, *, kind: bool) -> str:
    body = " ".join(f"the {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)}" for _ in range(3))
    closing = "Do ask whenever you like, it is a real pleasure." if kind else "Now stop asking me."
    return f"{rng.choice(KIND if kind else RUDE)} {body}. {closing}"


def model(noise: float = 0.05, num: int = 400) -> LabelModel:
    rng = random.Random(0)
    kinds = [rng.random() < 0.5 for _ in range(num)]
    texts = [answer(rng, kind=kind) for kind in kinds]
    labels = [kind != (rng.random() < noise) for kind in kinds]
    return fit_label_model(texts, labels, [f"root {i // 2}" for i in range(num)])


def arm(rng: random.Random, share: float, num: int, collapse: float = 0.0) -> list[SampledText]:
    texts = [answer(rng, kind=rng.random() < share) for _ in range(num)]
    mode = answer(rng, kind=True)
    return [SampledText(text=mode if rng.random() < collapse else text, truncated=False) for text in texts]


def looks(seed: int, share: float, collapsed: int = 0, num_looks: int = 2) -> tuple[DiversityResult, list[Alarm]]:
    """Ten categories of six prompts, seven samples each: the last look and its alarms."""
    rng = random.Random(seed)
    reference = [arm(rng, 0.5, 7) for _ in range(60)]
    gate = model()
    previous: DiversityResult | None = None
    alarms: list[Alarm] = []
    for _ in range(num_looks):
        prompts = [
            PromptSamples(
                category=f"c{number // 6}",
                reference=reference[number],
                policy=arm(rng, share, 7, 0.8 if number < 6 * collapsed else 0.0),
                domain=f"d{number // 30}",
            )
            for number in range(60)
        ]
        found, alarms = assess(prompts, word_limit=100, seed=seed, label_model=gate, previous=previous)
        assert found is not None
        previous = found
    assert previous is not None
    return previous, alarms


def test_votes_teach_the_style_even_when_a_third_are_wrong() -> None:
    rng = random.Random(9)
    kinds = [rng.random() < 0.5 for _ in range(200)]
    texts = [answer(rng, kind=kind) for kind in kinds]
    for noise in (0.05, 0.3):
        learned = model(noise)
        assert learned.auc is not None
        assert learned.informative
        assert abs(learned.auc - (1 - noise)) < 0.08
        assert np.mean(learned.desirable(texts) == np.array(kinds)) > 0.93


def test_votes_that_the_text_does_not_tell_gate_nothing() -> None:
    learned = model(noise=0.5)
    assert not learned.informative
    assert learned.desirable([answer(random.Random(0), kind=False)]).all()
    assert "every sample counts" in quality_rule(learned)
    few = fit_label_model(["a", "b"], [True, False], ["x", "y"])
    assert few.auc is None
    assert few.desirable(["a"]).all()
    assert "too few" in quality_rule(few)
    assert "too few" in quality_rule(None)


def test_roots_are_never_on_both_sides_of_a_fold() -> None:
    """Each conversation has a word and a vote of its own: known only to who has seen the conversation."""
    rng = random.Random(1)
    roots = [f"root {number}" for number in range(60) for _ in range(6)]
    vote = {root: rng.random() < 0.5 for root in roots}
    leak = fit_label_model([f"word{root.split()[1]} and more" for root in roots], [vote[r] for r in roots], roots)
    assert leak.auc is not None
    assert leak.auc < 0.6
    apart = fit_label_model(
        [f"word{r.split()[1]} and more" for r in roots], [vote[r] for r in roots], list(map(str, range(360)))
    )
    assert apart.auc is not None
    assert apart.auc > 0.9  # the same rows, had the fold been drawn over rows


def test_like_is_compared_with_like() -> None:
    def flags(text: str) -> np.ndarray:
        return np.array([mark == "+" for mark in text])

    assert gated(flags("++--+++-"), 4).tolist() == flags("++--+++-").tolist()
    assert gated(flags("+-----+-"), 4).tolist() == (~flags("+-----+-")).tolist()  # the others, where those are enough
    assert not gated(flags("----++++"), 4).any()


def test_a_wanted_style_that_spreads_raises_no_alarm() -> None:
    for seed in range(1):
        found, alarms = looks(seed, share=0.95)
        assert alarms == [] or {alarm.level for alarm in alarms} == {"watch"}
        raw, gated_change = found.overall["similarity"], found.overall["similarity_normalised"]
        assert raw.low is not None
        assert raw.low > 0.02
        assert abs(gated_change.change) < 0.03
        assert found.style_shift
        assert "look desirable" in found.quality_rule


def test_a_collapse_inside_the_wanted_style_is_found() -> None:
    found, alarms = looks(0, share=0.95, collapsed=3)
    named = {alarm.subject for alarm in alarms if alarm.kind == "category" and alarm.level == "alarm"}
    assert named >= {"c0", "c1", "c2"}
    assert len(named) <= 4
    assert alarms_of(found, None) != alarms  # at the first look they are watched only


def test_a_collapse_into_what_was_voted_down_is_an_alarm_although_nothing_is_comparable() -> None:
    """Every answer of the policy looks undesirable, most of the reference's desirable: no prompt has like beside like."""
    gate, previous = model(), None
    for look, level in ((0, "watch"), (1, "alarm")):
        rng = random.Random(look)
        rude = answer(rng, kind=False)
        prompts = [
            PromptSamples(
                category=f"c{number // 4}",
                reference=arm(rng, 0.97, 4),
                policy=[SampledText(text=rude, truncated=False)] * 4,
            )
            for number in range(40)
        ]
        found, alarms = assess(prompts, word_limit=100, seed=0, label_model=gate, previous=previous)
        assert found is not None
        assert found.num_compared_prompts is not None
        assert found.num_compared_prompts < 10
        assert [(alarm.kind, alarm.level) for alarm in alarms] == [("global", level)]
        assert not found.style_shift
        previous = found
    assert "fewer look desirable (9" in alarms[0].text


def test_controls_alone_raise_no_alarm() -> None:
    rng = random.Random(0)
    prompts = [
        PromptSamples(
            category=f"c{number}",
            reference=arm(rng, 0.5, 4),
            policy=[SampledText(text="It is forty-two, as it was before.", truncated=False)] * 4,
            open_ended=False,
        )
        for number in range(12)
    ]
    found, alarms = assess(prompts, word_limit=100, seed=0)
    assert found is not None
    assert found.num_open_prompts == 0
    assert found.overall["similarity"].change > 0.3
    assert alarms == []

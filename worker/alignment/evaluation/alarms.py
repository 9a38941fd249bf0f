"""When a figure becomes an alarm, and what it says.

Similarity raises an alarm only where the quality-gated change passes a margin, is significant after correction, and did
both at the look before as well; at the first look it is a watch. Loops, cut-off answers, refusals and empty answers are
critical at once: reward curves alone never show them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from worker.alignment.evaluation.significance import fisher_greater
from worker.alignment.events import Alarm, Contrast, DiversityResult

MARGIN = 0.05
"""Of the normalised similarity, which is 0 for answers to different prompts and 1 for equal texts."""
DISTINCT_DROP = 0.20
COMPARED = 0.5
"""Share of the prompts that must keep comparable samples for their figure to speak of the whole."""
LEVEL = 0.05
CHANCE = 0.01
"""Sentinels look at every checkpoint and stop the run, and both looks at a domain share one draw of the reference: they ask
for 99 %, not for 95 %."""
_WIDER = 2.575829 / 1.959964  # from a 95 % to a 99 % interval
_ENOUGH_UNITS = 30
Kind = Literal["loops", "truncation", "refusals", "empty", "global", "domain", "category"]


@dataclass(frozen=True, slots=True)
class _Sentinel:
    kind: Kind
    metric: str
    above: float
    """What the policy's share must exceed."""
    times: float
    """How many times the reference's it must be at least."""
    points: float
    """How much it must have risen."""
    words: str


_SENTINELS = (
    _Sentinel("loops", "loop_rate", 0.01, 3.0, 0.0, "of the answers repeat themselves"),
    _Sentinel("truncation", "truncated_share", 0.0, 2.0, 0.02, "of the answers are cut off at the length limit"),
    _Sentinel("refusals", "refusal_share", 0.0, 1.0, 0.05, "of the answers are refusals"),
    _Sentinel("empty", "empty_share", 0.01, 3.0, 0.02, "of the answers are empty"),
)


def alarms_of(result: DiversityResult, previous: DiversityResult | None) -> list[Alarm]:
    """All alarms of one look, critical ones first; ``previous`` is the look before it, None at the first."""
    held = {(alarm.kind, alarm.subject) for alarm in _collapses(previous)} if previous is not None else set()
    found = [alarm for sentinel in _SENTINELS if (alarm := _sentinel_alarm(result, sentinel)) is not None]
    found += [_confirmed(watch) if (watch.kind, watch.subject) in held else watch for watch in _collapses(result)]
    order = {"critical": 0, "alarm": 1, "watch": 2}
    return sorted(found, key=lambda alarm: order[alarm.level])


def is_style_shift(result: DiversityResult) -> bool:
    """Raw similarity passed the margin, the gated one did not: a style spread among the answers, nothing collapsed."""
    raw, gated = result.overall.get("similarity"), result.overall.get("similarity_normalised")
    plain = result.overall.get("similarity_gated")
    if raw is None or raw.low is None or raw.low <= 0 or gated is None:  # without like beside like nothing is known
        return False
    # what one unit of normalised similarity is in raw similarity: 1 - floor
    room = 1.0
    if plain is not None and gated.reference < 1:
        room = min(1.0, max(0.0, (1 - plain.reference) / (1 - gated.reference)))
    return raw.change >= MARGIN * room and not _rises(gated) and not _worse_and_alike(result)


def _rises(change: Contrast) -> bool:
    return change.change >= MARGIN and change.low is not None and change.low > 0


def _collapses(result: DiversityResult) -> Iterator[Alarm]:
    """Margin and significance at this look, each as a watch."""
    if result.num_open_prompts != 0:  # else the overall figures are the controls'
        yield from _overall_collapse(result)
    for domain in result.domains:
        if domain.p_holm is not None and domain.p_holm < CHANCE and domain.change.change >= MARGIN:
            text = f"Answers in {domain.domain} became more alike"
            yield _watch("domain", domain.domain, domain.change, text, q=domain.p_holm, word="p", told="Holm")
    for category in result.categories:
        if not category.open_ended or category.q is None or category.q >= LEVEL:
            continue
        change, distinct = category.metrics.get("similarity_normalised"), category.metrics.get("distinct_k_gated")
        subject = category.category
        if change is not None and change.change >= MARGIN:
            yield _watch("category", subject, change, f"Answers in {subject} became more alike", q=category.q)
        elif distinct is not None and _distinct_falls(distinct):
            text = f"There are fewer different answers in {subject}"
            yield _watch_distinct("category", subject, distinct, text, q=category.q)


def _overall_collapse(result: DiversityResult) -> Iterator[Alarm]:
    change, distinct = result.overall.get("similarity_normalised"), result.overall.get("distinct_k_gated")
    if change is not None and _rises(change):
        yield _watch("global", "", change, "Answers became more alike")
    elif distinct is not None and _distinct_falls(distinct) and distinct.high is not None and distinct.high < 0:
        yield _watch_distinct("global", "", distinct, "There are fewer different answers")
    elif _worse_and_alike(result):
        yield _watch_worse(result)


def _worse_and_alike(result: DiversityResult) -> bool:
    """Most prompts have nothing comparable left because answers look less desirable, and all samples became more alike.

    Where they look more desirable instead, a wanted style may have spread, and nothing is said.
    """
    raw, looks = result.overall.get("similarity"), result.desirable
    if raw is None or looks is None or not result.num_open_prompts or result.num_compared_prompts is None:
        return False
    few = result.num_compared_prompts < COMPARED * result.num_open_prompts
    falls = looks.change < 0 if looks.high is None else looks.high < 0
    return few and falls and _rises(raw)


def _watch_worse(result: DiversityResult) -> Alarm:
    raw, looks = result.overall["similarity"], result.desirable
    assert looks is not None, "asked before"
    shares = f"{looks.reference:.0%} \u2192 {looks.policy:.0%}".replace("%", "\u202f%")
    text = (
        f"Answers became more alike and fewer look desirable ({shares}): raw similarity {raw.reference:.2f} \u2192 "
        f"{raw.policy:.2f}{_evidence(raw, None, '', '')}; {result.num_compared_prompts} of {result.num_open_prompts} "
        "prompts have samples of one quality in both arms."
    )
    return _alarm("global", "", "similarity", raw, text, None)


def _distinct_falls(change: Contrast) -> bool:
    return change.reference > 0 and -change.change >= DISTINCT_DROP * change.reference


def _watch(
    kind: Kind,
    subject: str,
    change: Contrast,
    text: str,
    *,
    q: float | None = None,
    word: str = "q",
    told: str = "Benjamini\u2013Hochberg",
) -> Alarm:
    figures = f"similarity {change.reference:.2f} \u2192 {change.policy:.2f}"
    return _alarm(
        kind, subject, "similarity_normalised", change, f"{text}: {figures}{_evidence(change, q, word, told)}.", q
    )


def _watch_distinct(kind: Kind, subject: str, change: Contrast, text: str, *, q: float | None = None) -> Alarm:
    figures = f"{change.reference:.1f} \u2192 {change.policy:.1f} a prompt"
    evidence = _evidence(change, q, "q", "Benjamini\u2013Hochberg")
    return _alarm(kind, subject, "distinct_k_gated", change, f"{text}: {figures}{evidence}.", q)


def _evidence(change: Contrast, q: float | None, word: str, told: str) -> str:
    if q is not None:
        number = f"{word} = {q:.3f}" if q >= 0.001 else f"{word} < 0.001"
        return f" ({number}, {told})"
    if change.low is None or change.high is None:
        return ""
    return f", {_signed(change.change)} [{_signed(change.low)}, {_signed(change.high)}]"


def _alarm(kind: Kind, subject: str, metric: str, change: Contrast, text: str, q: float | None) -> Alarm:
    return Alarm(
        kind=kind,
        level="watch",
        metric=metric,
        reference=change.reference,
        policy=change.policy,
        change=change.change,
        text=text,
        subject=subject,
        low=change.low,
        high=change.high,
        q=q,
    )


def _confirmed(watch: Alarm) -> Alarm:
    values = {name: getattr(watch, name) for name in Alarm.__dataclass_fields__}
    return Alarm(**values | {"level": "alarm", "text": watch.text.removesuffix(".") + ", at two checkpoints in a row."})


def _sentinel_alarm(result: DiversityResult, sentinel: _Sentinel) -> Alarm | None:
    change = result.overall.get(sentinel.metric)
    if change is None or not _passes(change, sentinel):
        return None
    if not _beyond_chance(change, result):
        return None
    rise = (
        ""
        if change.low is None
        else f", {_points(change.change)} points [{_points(change.low)}, {_points(change.high)}]"
    )
    text = f"{change.policy:.1%} {sentinel.words}, {change.reference:.1%} before training{rise}.".replace(
        "%", "\u202f%"
    )
    return Alarm(
        kind=sentinel.kind,
        level="critical",
        metric=sentinel.metric,
        reference=change.reference,
        policy=change.policy,
        change=change.change,
        text=text,
        low=change.low,
        high=change.high,
    )


def _passes(change: Contrast, sentinel: _Sentinel) -> bool:
    """Its margins; a share that is 0 in the reference is any number of times as high."""
    tolerance = 1e-9
    return (
        change.policy > sentinel.above
        and change.policy >= sentinel.times * change.reference - tolerance
        and change.change >= max(sentinel.points, tolerance) - tolerance
    )


def _beyond_chance(change: Contrast, result: DiversityResult) -> bool:
    """By the clustered interval, widened to 99 %, where there are enough categories; else by an exact test of the samples.

    The exact test (Fisher's, one-sided) speaks of these prompts alone: on them both arms' samples are independent draws.
    """
    if result.num_categories >= _ENOUGH_UNITS and change.low is not None:
        return change.change - _WIDER * (change.change - change.low) > 0
    num = result.num_prompts * result.samples_per_prompt
    hits, reference_hits = round(change.policy * num), round(change.reference * num)
    return fisher_greater(hits, num, reference_hits, num) < CHANCE


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\u2212")


def _points(value: float | None) -> str:
    return f"{100 * (value or 0.0):+.1f}".replace("-", "\u2212")

"""A decision in sentences that claim no more than its intervals do."""

from __future__ import annotations

from collections.abc import Sequence

from worker.alignment.evaluation.contrasts import ContrastDecision, Effect, Unit
from worker.alignment.evaluation.paired import MIN_CLUSTERS

ARM_NAMES = {
    "reference": "Reference",
    "prompt": "Prompt only",
    "dpo": "DPO",
    "kto_paired": "KTO-paired",
    "kto_all": "KTO-all",
}
_SUBJECTS = ARM_NAMES | {"reference": "the reference", "prompt": "the prompt-only arm", "kto_all": "KTO"}
MINUS = "\u2212"


def figure(value: float, unit: Unit, *, plus: bool = True) -> str:
    """A difference in its unit: ``+3.7 points``, ``+0.013``."""
    digits, scale, word = (1, 100, " points") if unit == "points" else (3, 1, "")
    text = f"{value * scale:{'+' if plus else ''}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS) + word


def difference(effect: Effect) -> str:
    """``pass rate +3.7 points, 95 % interval +1.2 to +6.2``; without an interval it says why."""
    if effect.value is None:
        return "not measured"
    if effect.low is None or effect.high is None:
        return f"{figure(effect.value, effect.unit)}, no interval from {count(effect.num_clusters, effect.noun)}"
    low = figure(effect.low, effect.unit).removesuffix(" points")
    high = figure(effect.high, effect.unit).removesuffix(" points")
    return f"{figure(effect.value, effect.unit)}, 95\u00a0% interval {low} to {high}"


def could_see(effect: Effect) -> str:
    """``we could have seen ≥ 3.5 points``."""
    if effect.detectable is None:
        return "what could have been seen is not known"
    return f"we could have seen \u2265\u00a0{figure(effect.detectable, effect.unit, plus=False)}"


def headline(contrast: ContrastDecision) -> str:
    """The decision's first sentence."""
    one, two, primary = _first(_SUBJECTS[contrast.first]), _SUBJECTS[contrast.second], contrast.primary
    failed = _names(contrast, "fail")
    if contrast.verdict == "worse":
        also = f", and on {failed}" if failed else ""
        return f"{one} is worse than {two} on {primary.name}{also}."
    if contrast.verdict == "guard_failed":
        return f"{one} is worse than {two} on {failed}."
    if contrast.verdict == "no_evidence":
        return f"{one} and {two} on {primary.name}: no evidence of a difference ({could_see(primary)})."
    if contrast.verdict == "better":
        guards = len(contrast.guards)
        kept = f", and not worse on the {_guards(guards)}" if guards else "; no guard was measured"
        return f"{one} is better than {two} on {primary.name}{kept}."
    return _not_enough(contrast, one, two)


def _not_enough(contrast: ContrastDecision, one: str, two: str) -> str:
    primary = contrast.primary
    if primary.value is None:
        return f"Not enough evidence: {primary.name} was not measured for both {one} and {two}."
    if primary.p is None:
        there = count(primary.num_clusters, primary.noun)
        return (
            f"Not enough evidence: {primary.name} has {there} for {one} and {two}, at least {MIN_CLUSTERS} are needed."
        )
    missing = _names(contrast, "missing")
    return f"{one} is better than {two} on {primary.name}, but it is not shown that it is not worse on {missing}."


def detail(contrasts: Sequence[ContrastDecision]) -> str:
    """What stands behind the headline: the figure, the guards, the seeds, and which part of KTO it comes from."""
    main = contrasts[0]
    parts = [f"{_first(main.primary.name)} {difference(main.primary)}."] if main.primary.value is not None else []
    if main.verdict == "guard_failed" and main.primary.state == "missing" and main.primary.p is not None:
        parts.append(f"On {main.primary.name} no evidence of a difference ({could_see(main.primary)}).")
    parts += [f"{_first(guard.name)}: {difference(guard)}." for guard in main.guards if guard.state == "fail"]
    parts += [_guard_needs(guard) for guard in main.guards if guard.state == "missing"]
    if main.primary.within_seeds and main.primary.seed_sd is not None:
        spread = figure(main.primary.seed_sd, main.primary.unit, plus=False)
        parts.append(f"The difference is smaller than twice its spread over seeds ({spread}): train more seeds.")
    if main.verdict == "better":
        parts.append(_source({(item.first, item.second): item for item in contrasts}))
    return " ".join(part for part in parts if part)


def count(number: int, noun: str) -> str:
    plural = {"category": "categories"}.get(noun, f"{noun}s")
    return f"{number:,} {noun if number == 1 else plural}"


def _source(found: dict[tuple[str, str], ContrastDecision]) -> str:
    paired, extra = found.get(("kto_paired", "dpo")), found.get(("kto_all", "kto_paired"))
    if paired is None or extra is None:
        return ""
    if paired.primary.state == "pass":
        return "On the same pairs KTO is better than DPO too."
    if extra.primary.state == "pass" and paired.primary.state == "missing":
        return (
            "Ratings that DPO cannot use add to it; on the same pairs there is no evidence of a difference "
            f"({could_see(paired.primary)})."
        )
    return "Whether it comes from the loss or from the ratings that DPO cannot use is not shown."


def _guard_needs(guard: Effect) -> str:
    name = _first(guard.name)
    if guard.value is None:
        return f"{name} was not measured for both arms."
    if guard.num_needed is None or guard.margin is None:
        return f"{name}: {difference(guard)}; at least {MIN_CLUSTERS} are needed."
    margin = figure(guard.margin, guard.unit, plus=False)
    if guard.num_needed <= guard.num_clusters:
        return f"{name}: {difference(guard)}, which reaches beyond its margin of {margin}."
    return (
        f"{name}: {difference(guard)}; a margin of {margin} needs about {count(guard.num_needed, guard.noun)}, "
        f"there are {guard.num_clusters:,}."
    )


def _names(contrast: ContrastDecision, state: str) -> str:
    names = [guard.name for guard in contrast.guards if guard.state == state]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def _guards(number: int) -> str:
    words = {1: "one guard", 2: "two guards", 3: "three guards", 4: "four guards", 5: "five guards"}
    return words.get(number, f"{number} guards")


def _first(text: str) -> str:
    return text[:1].upper() + text[1:]

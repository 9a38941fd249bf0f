"""The checks of the readiness page: what is fine, what to know, what forbids a snapshot, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.datasets.collection import Collection
from app.datasets.facts import Facts
from app.datasets.freeze import MIN_LABELS
from app.datasets.lengths import Lengths
from app.datasets.reference import OffPolicy

CheckState = Literal["ok", "warn", "error"]
FEW_LABELS = 200
FEW_HELD_OUT = 50
MANY_CUT = 0.05
FEW_RESPONSES = 0.05
MANY_OFF_POLICY = 0.5


@dataclass(frozen=True, slots=True)
class Check:
    state: CheckState
    text: str
    remedy: str = ""
    url: str = ""
    """Where it can be mended, or its rows."""
    link: str = ""


def all_checks(facts: Facts, lengths: Lengths, collected: Collection, off: OffPolicy | None, base: str) -> list[Check]:
    """Errors first. ``base``: the project's address, for the links."""
    found = [
        *_class_checks(facts, base),
        *_split_checks(facts, base),
        *_balance_checks(facts, base),
        *_content_checks(facts, lengths, base),
        *_collection_checks(collected, base),
        *_policy_checks(off, base),
    ]
    return sorted(found, key=lambda check: ("error", "warn", "ok").index(check.state))


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _class_checks(facts: Facts, base: str) -> list[Check]:
    labels = facts.labels
    if not labels.total:
        return [Check("error", "There are no labels", "Import a file or rate some completions.", f"{base}/sources")]
    if labels.one_sided:
        only, other = ("desirable", "undesirable") if labels.desirable else ("undesirable", "desirable")
        return [Check("error", f"All labels are {only}", f"Collect some {other} ratings.", f"{base}/annotate")]
    checks = [Check("ok", "Both classes are there")]
    if labels.total < MIN_LABELS:
        text = f"{_count(labels.total, 'label')}, at least {MIN_LABELS} are needed"
        checks.append(Check("error", text, "Rate or import more completions.", f"{base}/annotate"))
    elif labels.total < FEW_LABELS:
        text = f"{_count(labels.total, 'label')}: a run learns little from fewer than {FEW_LABELS}"
        checks.append(Check("warn", text, "Rate or import more completions.", f"{base}/annotate"))
    ratio = labels.desirable / labels.undesirable
    if not 1 / 20 <= ratio <= 20:
        rare = "undesirable" if ratio > 1 else "desirable"
        checks.append(
            Check("warn", f"Few {rare} labels: 1 in {max(ratio, 1 / ratio) + 1:.0f}", "Weights alone mend this badly.")
        )
    return checks


def _split_checks(facts: Facts, base: str) -> list[Check]:
    if not facts.labels.total:
        return []
    train, dev, test = (facts.by_side[side] for side in ("train", "dev", "test"))
    checks = [Check("ok", "No conversation on two sides of the split")]
    more = "Collect ratings on more conversations: one in ten goes to each held-out split."
    if not dev.total:
        checks.append(Check("error", "No labels in the dev split", more, f"{base}/annotate"))
    elif dev.total < FEW_HELD_OUT or test.total < FEW_HELD_OUT:
        checks.append(Check("warn", f"Held-out splits are small: dev {dev.total}, test {test.total}", more))
    else:
        checks.append(Check("ok", f"Held out: dev {dev.total:,}, test {test.total:,}"))
    if train.one_sided and not facts.labels.one_sided:
        checks.append(Check("error", "The train split has one class only", more, f"{base}/annotate"))
    if facts.straddling_prompts:
        text = f"{_count(facts.straddling_prompts, 'prompt')} on two sides, in different conversations"
        checks.append(Check("warn", text, "Held-out figures may be a little too good."))
    return checks


def _balance_checks(facts: Facts, base: str) -> list[Check]:
    categories = [item for item in facts.by_category if item.name is not None]
    checks = []
    if categories:
        one_sided = sum(item.one_sided for item in categories)
        text = f"One class only in {one_sided:,} of {len(categories):,} categories"
        remedy = "Rate more completions of these categories."
        checks.append(
            Check("warn", text, remedy, f"{base}/annotate", "Annotate")
            if one_sided
            else Check("ok", f"Both classes in every category of {len(categories):,}")
        )
    one_sided_sources = [item.name for item in facts.by_source if item.one_sided]
    if one_sided_sources and not facts.labels.one_sided:
        text = f"One class only from {', '.join(str(name) for name in one_sided_sources[:3])}"
        checks.append(Check("warn", text, "The model may learn the source instead of the quality.", f"{base}/sources"))
    elif facts.by_source and not one_sided_sources:
        checks.append(Check("ok", "Both classes in every source"))
    if facts.raters > 1 and facts.largest_rater_share > 0.5:
        checks.append(
            Check(
                "warn", f"One rater gave {facts.largest_rater_share:.0%} of the ratings", "Ask others to rate as well."
            )
        )
    return checks


def _content_checks(facts: Facts, lengths: Lengths, base: str) -> list[Check]:
    checks = []
    if lengths.skew is not None:
        share = abs(lengths.skew)
        word = "longer" if lengths.skew > 0 else "shorter"
        checks.append(
            Check(
                "warn",
                f"Undesirable completions are {share:.0%} {word} than desirable ones".replace("%", "\u00a0%"),
                "Compare each checkpoint's AUC with the AUC of length alone.",
            )
            if lengths.is_skewed
            else Check("ok", "Length is alike in both classes")
        )
    if facts.labels.total and facts.cut > MANY_CUT * facts.labels.total:
        text = f"{_count(facts.cut, 'completion')} cut at generation"
        checks.append(Check("warn", text, "They carry no end of turn; raise the app's token limit."))
    if facts.conflicts:
        checks.append(
            Check(
                "ok", f"{_count(facts.conflicts, 'conflict')} held back", url=f"{base}/completions", link="Completions"
            )
        )
    if facts.duplicates:
        checks.append(Check("ok", f"{_count(facts.duplicates, 'duplicate')} held back"))
    if facts.by_rule:
        count = sum(facts.by_rule.values())
        checks.append(
            Check(
                "ok", f"{_count(count, 'completion')} held back by the rule", url=f"{base}/readiness/rule", link="Rule"
            )
        )
    if facts.ties:
        checks.append(
            Check(
                "ok",
                f"{_count(facts.ties, 'tie')} held back",
                "A lead decides each.",
                f"{base}/adjudicate",
                "Adjudicate",
            )
        )
    return checks


def _collection_checks(collected: Collection, base: str) -> list[Check]:
    checks = []
    share = collected.rated_share
    if share is not None and collected.rated and share < FEW_RESPONSES:
        text = f"{share:.1%} of the completions got a thumb"
        checks.append(Check("warn", text, "Who rates may not be who asks: have a sample of the rest annotated."))
    if collected.lonely_categories and collected.lonely_categories * 2 > collected.categories:
        text = (
            f"{_count(collected.lonely_categories, 'category').replace('categorys', 'categories')} with a single rater"
        )
        checks.append(Check("warn", text, "The model may learn one person's taste there.", f"{base}/raters", "Raters"))
    for finding in collected.pii[:3]:
        text = f"{finding.kind.replace('_', ' ').capitalize()} in {_count(finding.completions, 'completion')}"
        checks.append(
            Check("warn", text, "Look at what the project does with it.", f"{base}/settings", "Privacy settings")
        )
    return checks


def _policy_checks(off: OffPolicy | None, base: str) -> list[Check]:
    share = off.far_share if off is not None else None
    if off is None or share is None:
        return []
    if share > MANY_OFF_POLICY:
        text = f"{share:.0%} of the data is far off-policy for {off.base_label}"
        remedy = "Fine-tune on the desirable completions first (SFT), then KTO."
        return [Check("warn", text, remedy, f"{base}/readiness/off-policy", "Figures")]
    return [Check("ok", f"{1 - share:.0%} of the data is near what {off.base_label} writes itself")]

"""From ratings to labels, in SQL, by the project's label rule.

What cannot be used is named, never lost silently:

- ``tie``: as much weight up as down;
- ``few``: fewer counted votes than the rule asks for;
- ``split``: the votes differ and the rule wants one mind, or a larger share than the winning side has;
- ``left_out``: all its ratings are of raters who do not count;
- ``conflict``: the same answer to the same prompt came more than once (from two models, or in two conversations) and its
  copies have different labels: none of them is used;
- ``duplicate``: a further copy with the same label: one is kept, else the answer would count twice, and could stand on
  both sides of the split;
- ``over_cap``: one rater alone decided it, beyond the share of a class that the rule leaves to one rater;
- ``kept``: everything else.

A lead's adjudication is the label, whatever the votes say.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Float,
    Integer,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    literal_column,
    null,
    select,
    true,
)

from app.datasets.reliability import reliability
from app.datasets.rules import ADJUDICATION, RULE, LabelRule, load_rule
from app.datasets.splits import side_column
from app.models import Completion, Project, Prompt, RaterSetting, Rating

__all__ = ["DROPPED", "KEPT", "RULE", "judged", "verdicts"]

KEPT, TIE, CONFLICT, DUPLICATE = "kept", "tie", "conflict", "duplicate"
FEW, SPLIT, LEFT_OUT, OVER_CAP = "few", "split", "left_out", "over_cap"
DROPPED = {
    TIE: "ties",
    CONFLICT: "conflicts",
    DUPLICATE: "duplicates",
    FEW: "few_votes",
    SPLIT: "split_votes",
    LEFT_OUT: "left_out",
    OVER_CAP: "over_cap",
}
"""Status -> its name among a snapshot's counts."""
_EVEN = 1e-9
"""Weights closer than this are equal: sums of tenths are not exact."""


def verdicts(project: Project, rule: LabelRule | None = None) -> CTE:
    """Columns completion_id, label (NULL where there is none), why (the status then), adjudicated, only_rater.

    Every completion with a current rating, by ``rule``, else by the project's own.
    """
    rule = rule if rule is not None else load_rule(project)
    votes = _votes(project, rule)
    ups, downs = votes.c.up_weight, votes.c.down_weight
    decided = votes.c.adjudication.is_not(None)
    agreed = (ups == 0) | (downs == 0)
    enough = func.greatest(ups, downs) >= (ups + downs) * (rule.min_share - _EVEN)
    why = case(
        (decided, null()),
        (votes.c.counted == 0, LEFT_OUT),
        (votes.c.counted < rule.min_votes, FEW),
        (func.abs(ups - downs) < _EVEN, TIE),
        (~(agreed if rule.votes == "unanimous" else enough), SPLIT),
        else_=null(),
    )
    label = case((decided, votes.c.adjudication % 2 == 1), (why.is_not(None), null()), else_=ups > downs)
    only = case((~decided & (votes.c.counted == 1), votes.c.one_rater), else_=null())
    return select(
        votes.c.completion_id,
        label.label("label"),
        why.label("why"),
        decided.label("adjudicated"),
        only.label("only_rater"),
    ).cte("verdicts")


def _votes(project: Project, rule: LabelRule) -> CTE:
    """Per completion: the weight on either side, how many votes count, the newest adjudication."""
    weight: ColumnElement[float] = func.coalesce(RaterSetting.weight, 1.0)
    tables: Any = Rating.__table__.outerjoin(
        RaterSetting.__table__,
        and_(
            RaterSetting.project_id == project.id,
            RaterSetting.source == Rating.source,
            RaterSetting.rater == Rating.rater,
        ),
    )
    if rule.votes == "weighted":
        known = reliability(project)
        tables = tables.outerjoin(known, and_(known.c.source == Rating.source, known.c.rater == Rating.rater))
        weight = weight * func.coalesce(known.c.weight, 1.0)
    rated = (
        select(
            Rating.completion_id,
            Rating.value,
            cast(weight, Float).label("weight"),
            (Rating.source == ADJUDICATION).label("decides"),
            # Its number grows with time: the largest is the newest, and carries the verdict in its last bit.
            (Rating.id * 2 + cast(Rating.value, Integer)).label("number"),
            (
                (Rating.source + literal_column("E'\\x1f'", Text) + Rating.rater)
                if rule.max_rater_share is not None
                else cast(null(), Text)
            ).label("who"),
        )
        .select_from(tables)
        .where(Rating.project_id == project.id, Rating.is_current)
        .subquery("rated")
    )
    counts = ~rated.c.decides & (rated.c.weight > 0)
    return (
        select(
            rated.c.completion_id,
            func.coalesce(func.sum(rated.c.weight).filter(counts, rated.c.value), 0.0).label("up_weight"),
            func.coalesce(func.sum(rated.c.weight).filter(counts, ~rated.c.value), 0.0).label("down_weight"),
            func.count().filter(counts).label("counted"),
            func.max(rated.c.number).filter(rated.c.decides).label("adjudication"),
            func.min(rated.c.who).filter(counts).label("one_rater"),
        )
        .group_by(rated.c.completion_id)
        .cte("votes")
    )


def judged(votes: CTE, project: Project, rule: LabelRule | None = None) -> CTE:
    """One row per completion of ``votes``: its label (NULL where there is none), its status, and what snapshots and figures need.

    ``prompt_key`` and ``answer_key`` are SHA-256 over the messages alone: independent of ids and of the order of arrival.
    """
    rule = rule if rule is not None else load_rule(project)
    # OFFSET 0 keeps the planner from writing each cast of JSON into the query twice: they are most of its cost.
    words = (
        select(cast(Prompt.messages, Text).label("prompt"), cast(Completion.messages, Text).label("answer"))
        .correlate(Prompt, Completion)
        .offset(0)
        .lateral("words")
    )
    prompt_text, answer_text = words.c.prompt, words.c.answer
    keyed = (
        select(
            Completion.id.label("completion_id"),
            votes.c.label,
            votes.c.why,
            votes.c.adjudicated,
            votes.c.only_rater,
            Prompt.root,
            Prompt.category,
            Completion.model,
            side_column(Prompt.root, project.split_salt).label("side"),
            Completion.finish_reason,
            func.char_length(Completion.text).label("length"),
            (func.octet_length(prompt_text) + func.octet_length(answer_text)).label("size"),
            func.sha256(func.convert_to(prompt_text, "UTF8")).label("prompt_key"),
            func.sha256(func.convert_to(answer_text, "UTF8")).label("answer_key"),
        )
        .select_from(votes)
        .join(Completion, and_(Completion.id == votes.c.completion_id, Completion.project_id == project.id))
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .join(words, true())
        .cte("keyed")
        .prefix_with("MATERIALIZED")  # else the sort below carries the messages along
    )
    same = [keyed.c.prompt_key, keyed.c.answer_key, keyed.c.label.is_(None)]
    order = [
        column.collate("C").asc().nulls_first() for column in (keyed.c.root, keyed.c.category, keyed.c.finish_reason)
    ]
    as_number = cast(keyed.c.label, Integer)
    status = case(
        (keyed.c.label.is_(None), keyed.c.why),
        (func.min(as_number).over(partition_by=same) != func.max(as_number).over(partition_by=same), CONFLICT),
        (func.row_number().over(partition_by=same, order_by=order) > 1, DUPLICATE),
        else_=KEPT,
    )
    if rule.max_rater_share is None:
        return select(keyed, status.label("status")).cte("judged")
    return _capped(select(keyed, status.label("status")).cte("uncapped"), rule.max_rater_share)


def _capped(rows: CTE, share: float) -> CTE:
    """Hold back what one rater alone decided beyond ``share`` of the labels that are then left of a class.

    With T labels left of a class and n_r decided by rater r alone, r keeps min(n_r, share T), and T is the sum of these and
    of the labels that are nobody's alone. Ordered by n_r downwards, the first k raters are cut and T = rest / (1 - k share)
    for the smallest k that fits. Where none does (fewer raters than 1 / share, and no other label) nothing is held back.
    Which ones go is settled by the hashes of prompt and answer: the same data gives the same snapshot.
    """
    kept = rows.c.status == KEPT
    totals = select(rows.c.label, func.count().label("total")).where(kept).group_by(rows.c.label).cte("class_totals")
    alone = (
        select(rows.c.label, rows.c.only_rater, func.count().label("n"))
        .where(kept, rows.c.only_rater.is_not(None))
        .group_by(rows.c.label, rows.c.only_rater)
        .cte("alone")
    )
    place = func.row_number().over(partition_by=alone.c.label, order_by=(alone.c.n.desc(), alone.c.only_rater))
    before = func.sum(alone.c.n).over(
        partition_by=alone.c.label, order_by=(alone.c.n.desc(), alone.c.only_rater), rows=(None, 0)
    )
    ranked = (
        select(
            alone.c.label,
            func.lead(alone.c.n, 1, 0)
            .over(partition_by=alone.c.label, order_by=(alone.c.n.desc(), alone.c.only_rater))
            .label("following"),
            place.label("k"),
            before.label("cut"),
        )
    ).cte("ranked")
    room = 1 - ranked.c.k * literal(share, Float)
    left = (totals.c.total - ranked.c.cut) / func.nullif(room, 0)
    fits = and_(room > _EVEN, totals.c.total > ranked.c.cut, ranked.c.following <= left * share)
    # T of the smallest fitting k; k = 0 (nobody is cut) shows itself: then no rater has more than share of the total.
    solved = (
        select(ranked.c.label, func.min(ranked.c.k).label("k"))
        .join(totals, totals.c.label == ranked.c.label)
        .where(fits)
        .group_by(ranked.c.label)
        .cte("solved")
    )
    largest = select(alone.c.label, func.max(alone.c.n).label("n")).group_by(alone.c.label).cte("largest")
    limit = (
        select(
            ranked.c.label,
            case(
                (largest.c.n <= totals.c.total * share, null()),
                else_=func.greatest(func.floor(left * share + _EVEN), 1),
            ).label("most"),
        )
        .join(solved, and_(solved.c.label == ranked.c.label, solved.c.k == ranked.c.k))
        .join(totals, totals.c.label == ranked.c.label)
        .join(largest, largest.c.label == ranked.c.label)
        .cte("limits")
    )
    nth = func.row_number().over(
        partition_by=(rows.c.label, rows.c.only_rater, rows.c.status),
        order_by=(rows.c.prompt_key, rows.c.answer_key),
    )
    numbered = select(rows, nth.label("nth")).cte("numbered")
    over: ColumnElement[bool] = and_(
        numbered.c.status == KEPT, numbered.c.only_rater.is_not(None), numbered.c.nth > limit.c.most
    )
    columns = [column for column in numbered.c if column.name not in {"status", "nth"}]
    return (
        select(*columns, case((over, OVER_CAP), else_=numbered.c.status).label("status"))
        .outerjoin(limit, limit.c.label == numbered.c.label)
        .cte("judged")
    )

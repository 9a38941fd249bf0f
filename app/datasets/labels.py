"""From ratings to labels, in SQL.

A completion's label is the majority of its current ratings. What cannot be used is named, never lost silently:

- ``tie``: as many up as down;
- ``conflict``: the same answer to the same prompt came more than once (from two models, or in two conversations) and its
  copies have different labels: none of them is used;
- ``duplicate``: a further copy with the same label: one is kept, else the answer would count twice, and could stand on
  both sides of the split;
- ``kept``: everything else.
"""

from __future__ import annotations

from sqlalchemy import CTE, Integer, Text, and_, case, cast, func, null, select

from app.datasets.splits import side_column
from app.models import Completion, Project, Prompt, Rating

RULE = {
    "label": "majority of the current ratings of a completion",
    "ties": "dropped",
    "conflicts": "copies of one answer with different labels: all dropped",
    "duplicates": "copies of one answer with the same label: one kept",
    "split": "by conversation root: tenth of sha256(salt + root); 0-7 train, 8 dev, 9 test",
}

KEPT, TIE, CONFLICT, DUPLICATE = "kept", "tie", "conflict", "duplicate"


def verdicts(project: Project) -> CTE:
    """Columns completion_id, ups, downs: every completion with a current rating."""
    return (
        select(
            Rating.completion_id,
            func.count().filter(Rating.value).label("ups"),
            func.count().filter(~Rating.value).label("downs"),
        )
        .where(Rating.project_id == project.id, Rating.is_current)
        .group_by(Rating.completion_id)
        .cte("verdicts")
    )


def judged(votes: CTE, project: Project) -> CTE:
    """One row per completion of ``votes``: its label (NULL for a tie), its status, and what snapshots and figures need.

    ``prompt_key`` and ``answer_key`` are SHA-256 over the messages alone: independent of ids and of the order of arrival.
    """
    prompt_text, answer_text = cast(Prompt.messages, Text), cast(Completion.messages, Text)
    keyed = (
        select(
            Completion.id.label("completion_id"),
            case((votes.c.ups == votes.c.downs, null()), else_=votes.c.ups > votes.c.downs).label("label"),
            Prompt.root,
            Prompt.category,
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
        .cte("keyed")
        .prefix_with("MATERIALIZED")  # else the sort below carries the messages along
    )
    same = [keyed.c.prompt_key, keyed.c.answer_key, keyed.c.label.is_(None)]
    order = [
        column.collate("C").asc().nulls_first() for column in (keyed.c.root, keyed.c.category, keyed.c.finish_reason)
    ]
    as_number = cast(keyed.c.label, Integer)
    status = case(
        (keyed.c.label.is_(None), TIE),
        (func.min(as_number).over(partition_by=same) != func.max(as_number).over(partition_by=same), CONFLICT),
        (func.row_number().over(partition_by=same, order_by=order) > 1, DUPLICATE),
        else_=KEPT,
    )
    return select(keyed, status.label("status")).cte("judged")

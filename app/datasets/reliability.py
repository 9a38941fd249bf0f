"""How far a rater can be relied on: the moment form of the one-coin model of Dawid and Skene (1979, Applied Statistics 28).

Each rater gives the right verdict with a probability of their own, the same for both classes. Where two raters judge one
completion, they agree with probability a b + (1 - a)(1 - b). So, with A the mean agreement over all completions with several
votes, the mean accuracy is m = (1 + sqrt(2 A - 1)) / 2, and of a rater who agrees with peers in a share g of cases
a = (g - (1 - m)) / (2 m - 1). Answers to gold items count as they are. Both are shrunk towards m as if by SHRINK verdicts:

    a = (right on gold + right against peers + SHRINK m) / (gold + against peers + SHRINK)

The weight of a vote is logit(a) / logit(m): what the model says a vote is worth, in units of the mean rater. A rater of whom
nothing is known weighs 1; one no better than chance weighs 0, never less; a stays below 0.98, so one vote never outweighs many.

One statement over counts, no iteration: the estimate is the first step of what EM iterates to, and a tenth of its cost.
"""

from __future__ import annotations

from sqlalchemy import CTE, Double, Text, column, text

from app.models import Project

SHRINK = 8
LOWEST_MEAN, HIGHEST_MEAN, UNKNOWN_MEAN = 0.6, 0.95, 0.8
HIGHEST = 0.98

_SQL = """
WITH overlap AS MATERIALIZED (
    SELECT completion_id, ups, downs FROM completion_votes WHERE project_id = :reliability_project AND ups + downs >= 2
), agreement AS (
    SELECT avg((ups * (ups - 1) + downs * (downs - 1))::float8 / ((ups + downs) * (ups + downs - 1))) AS a FROM overlap
), mean AS (
    SELECT CASE WHEN a IS NULL THEN {unknown}
           ELSE greatest(least((1 + sqrt(greatest(2 * a - 1, 0))) / 2, {highest_mean}), {lowest_mean}) END AS m
    FROM agreement
), peers AS (
    SELECT r.source, r.rater, count(*) AS n,
           sum((CASE WHEN r.value THEN o.ups - 1 ELSE o.downs - 1 END)::float8 / (o.ups + o.downs - 1)) AS agreed
    FROM ratings r JOIN overlap o USING (completion_id)
    WHERE r.project_id = :reliability_project AND r.is_current AND r.source <> 'adjudication'
    GROUP BY r.source, r.rater
), gold AS (
    SELECT 'annotation' AS source, 'user:' || s.done_by AS rater, count(*) AS n,
           count(*) FILTER (WHERE s.gold_answer = g.value) AS got
    FROM annotation_slots s JOIN gold_items g ON g.id = s.gold_id
    WHERE g.project_id = :reliability_project AND s.gold_answer IS NOT NULL AND s.done_by IS NOT NULL
    GROUP BY s.done_by
), known AS (
    SELECT source, rater, coalesce(peers.n, 0) + coalesce(gold.n, 0) AS n, coalesce(gold.got, 0) AS got,
           coalesce(peers.n, 0) AS met, coalesce(peers.agreed, 0) AS agreed
    FROM peers FULL JOIN gold USING (source, rater)
), estimated AS (
    SELECT source, rater, known.n, m,
           (got + least(greatest((agreed - (1 - m) * met) / (2 * m - 1), 0), met) + {shrink} * m)
           / (known.n + {shrink}) AS accuracy
    FROM known CROSS JOIN mean
)
SELECT source, rater, n, accuracy,
       greatest(ln(least(accuracy, {highest}) / (1 - least(accuracy, {highest}))), 0) / ln(m / (1 - m)) AS weight
FROM estimated
"""


def reliability(project: Project) -> CTE:
    """Columns source, rater, n (judgements it rests on), accuracy, weight: every rater with peers or gold answers."""
    query = _SQL.format(
        shrink=SHRINK, lowest_mean=LOWEST_MEAN, highest_mean=HIGHEST_MEAN, unknown=UNKNOWN_MEAN, highest=HIGHEST
    )
    rows = text(query).bindparams(reliability_project=project.id)
    return rows.columns(
        column("source", Text),
        column("rater", Text),
        column("n"),
        column("accuracy", Double),
        column("weight", Double),
    ).cte("reliability")

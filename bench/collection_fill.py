"""Large data for the collection benchmarks, made inside PostgreSQL: nothing travels.

Items of a fixed shape: a question of 15 and an answer of 60 words out of a vocabulary of 2,000 in which word ``k`` is about
``1 / k`` as frequent as the first, 500 categories a project, five models, a rating by a rater of its own on a share of them.
"""

from __future__ import annotations

from sqlalchemy import text

from app.core.db import get_engine

CATEGORIES = 500
_STEP = 100_000

_PROJECTS = "INSERT INTO projects (slug, name, split_salt) SELECT :slug || g, 'Big ' || g, 'salt' FROM generate_series(1, :n) g RETURNING id"
_WORDS = """
    CREATE OR REPLACE FUNCTION pg_temp.words(seed bigint, n int) RETURNS text LANGUAGE sql AS $$
        SELECT string_agg('w' || floor(exp(((seed * 7919 + k * 104729 + seed * k) % 100003) / 100003.0 * ln(2000)))::text, ' ')
        FROM generate_series(1, n) k
    $$
"""
_PROMPTS = """
    INSERT INTO prompts (project_id, content_hash, messages, category, root)
    SELECT CAST(:first AS int) + g % :projects, 'p' || g,
           jsonb_build_array(jsonb_build_object('role', 'user', 'content', pg_temp.words(g, 15) || ' ' || g)),
           'category ' || (g / :projects) % :categories, 'r' || g
    FROM generate_series(CAST(:low AS bigint), :high) g
"""
_COMPLETIONS = """
    INSERT INTO completions (project_id, prompt_id, content_hash, messages, text, model, external_id)
    SELECT p.project_id, p.id, 'c' || p.id, jsonb_build_array(jsonb_build_object('role', 'assistant', 'content', t.words)),
           t.words, 'model-' || p.id % 5, 'msg-' || p.id
    FROM prompts p CROSS JOIN LATERAL (SELECT pg_temp.words(p.id + 1000003, 60) AS words) t
    WHERE p.id > :after ORDER BY p.id
"""
_RATINGS = """
    INSERT INTO ratings (project_id, completion_id, source, rater, value)
    SELECT project_id, id, CASE WHEN id % 3 = 0 THEN 'shop' ELSE 'helpdesk' END, 'customer-' || id % 5000, id % 5 < 3
    FROM completions WHERE id > :after AND id % 100 < :share
"""
_SEARCH = """
    INSERT INTO completion_search (completion_id, project_id, document)
    SELECT id, project_id, to_tsvector('simple', text) || array_to_tsvector(ARRAY['p#' || project_id]) FROM completions WHERE id > :after
"""


def fill_inside(items: int, projects: int, *, rated: int = 50, searchable: bool = True) -> list[int]:
    """``items`` completions spread over new projects, ``rated`` percent of them rated. Returns the projects' ids."""
    with get_engine().begin() as connection:
        first = min(ids := list(connection.scalars(text(_PROJECTS), {"n": projects, "slug": f"big-{items}-"})))
    for low in range(0, items, _STEP):
        with get_engine().begin() as connection:
            connection.execute(text("SET LOCAL synchronous_commit = off"))
            connection.execute(text(_WORDS))
            after = {
                name: connection.scalar(text(f"SELECT coalesce(max(id), 0) FROM {name}"))
                for name in ("prompts", "completions")
            }
            span = {"low": low, "high": min(low + _STEP, items) - 1}
            connection.execute(text(_PROMPTS), {**span, "first": first, "projects": projects, "categories": CATEGORIES})
            connection.execute(text(_COMPLETIONS), {"after": after["prompts"]})
            fresh = {"after": after["completions"]}
            connection.execute(text(_RATINGS), {**fresh, "share": rated})
            if searchable:
                connection.execute(text(_SEARCH), fresh)
    with get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return ids

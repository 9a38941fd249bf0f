"""Collection, new columns, and the triggers that count votes

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_APPLY = """
    UPDATE completion_votes v SET ups = v.ups + d.ups, downs = v.downs + d.downs
    FROM (
        SELECT completion_id, sum(ups) AS ups, sum(downs) AS downs FROM ({changes}) c
        GROUP BY completion_id HAVING sum(ups) <> 0 OR sum(downs) <> 0 ORDER BY completion_id
    ) d
    WHERE v.completion_id = d.completion_id;
"""
_PLUS = "SELECT completion_id, value::int AS ups, (NOT value)::int AS downs FROM new_rows WHERE is_current"
_MINUS = "SELECT completion_id, -value::int AS ups, -(NOT value)::int AS downs FROM old_rows WHERE is_current"


def _on_ratings(event: str, changes: str, tables: str) -> tuple[str, str]:
    name = event.lower()
    return (
        (
            f"CREATE FUNCTION count_ratings_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f"{_APPLY.format(changes=changes)}    RETURN NULL; END $$"
        ),
        (
            f"CREATE TRIGGER ratings_count_{name} AFTER {event} ON ratings REFERENCING {tables} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION count_ratings_{name}()"
        ),
    )


# Statement triggers: a batch of a thousand ratings counts with one UPDATE, and nobody can write a rating past them.
VOTE_TRIGGERS = (
    """CREATE FUNCTION count_completions() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO completion_votes (completion_id, project_id) SELECT id, project_id FROM new_rows;
    RETURN NULL; END $$""",
    (
        "CREATE TRIGGER completions_count_insert AFTER INSERT ON completions REFERENCING NEW TABLE AS new_rows "
        "FOR EACH STATEMENT EXECUTE FUNCTION count_completions()"
    ),
    *_on_ratings("INSERT", _PLUS, "NEW TABLE AS new_rows"),
    *_on_ratings("UPDATE", f"{_PLUS} UNION ALL {_MINUS}", "NEW TABLE AS new_rows OLD TABLE AS old_rows"),
    *_on_ratings("DELETE", _MINUS, "OLD TABLE AS old_rows"),
)


def upgrade() -> None:
    # One feedback id names one current rating: where it named several, the newest keeps it.
    op.execute(
        """
        UPDATE ratings r SET external_id = NULL, metadata = metadata || jsonb_build_object('former_external_id', external_id)
        WHERE is_current AND external_id IS NOT NULL AND EXISTS (
            SELECT 1 FROM ratings n WHERE n.project_id = r.project_id AND n.source = r.source
              AND n.external_id = r.external_id AND n.is_current AND n.id > r.id)
        """
    )
    op.add_column(
        "annotation_queues",
        sa.Column(
            "filter",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
    )
    op.add_column(
        "annotation_queues", sa.Column("gold_rate", sa.Double(), server_default=sa.text("0.05"), nullable=False)
    )
    op.add_column(
        "annotation_queues", sa.Column("is_open", sa.Boolean(), server_default=sa.text("true"), nullable=False)
    )
    op.add_column("annotation_slots", sa.Column("took_ms", sa.Integer(), nullable=True))
    op.add_column("annotation_slots", sa.Column("gold_id", sa.Integer(), nullable=True))
    op.add_column("annotation_slots", sa.Column("gold_for", sa.Integer(), nullable=True))
    op.add_column("annotation_slots", sa.Column("gold_answer", sa.Boolean(), nullable=True))
    op.drop_constraint(op.f("uq_annotation_slots_queue_id_completion_id_number"), "annotation_slots", type_="unique")
    op.create_index(op.f("ix_annotation_slots_gold_for"), "annotation_slots", ["gold_for"], unique=False)
    op.create_index(
        "uq_annotation_slots_gold",
        "annotation_slots",
        ["gold_id", "gold_for"],
        unique=True,
        postgresql_where=sa.text("gold_id IS NOT NULL"),
    )
    op.create_index(
        "uq_annotation_slots_number",
        "annotation_slots",
        ["queue_id", "completion_id", "number"],
        unique=True,
        postgresql_where=sa.text("gold_id IS NULL"),
    )
    op.create_foreign_key(
        op.f("fk_annotation_slots_gold_id_gold_items"),
        "annotation_slots",
        "gold_items",
        ["gold_id"],
        ["id"],
        ondelete="CASCADE",
    )
    op.create_foreign_key(
        op.f("fk_annotation_slots_gold_for_users"),
        "annotation_slots",
        "users",
        ["gold_for"],
        ["id"],
        ondelete="CASCADE",
    )
    op.add_column("api_keys", sa.Column("kind", sa.Text(), server_default=sa.text("'secret'"), nullable=False))
    op.add_column(
        "api_keys",
        sa.Column(
            "origins",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
    )
    op.add_column("api_keys", sa.Column("public_token", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("rate_per_minute", sa.Integer(), nullable=True))
    op.add_column(
        "completions",
        sa.Column(
            "sampling",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
    )
    op.add_column("completions", sa.Column("corrects_id", sa.BigInteger(), nullable=True))
    op.add_column(
        "completions", sa.Column("pii", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True)
    )
    op.create_index(
        "ix_completions_corrects_id",
        "completions",
        ["corrects_id"],
        unique=False,
        postgresql_where=sa.text("corrects_id IS NOT NULL"),
    )
    op.create_index("ix_completions_project_id_model_id", "completions", ["project_id", "model", "id"], unique=False)
    op.create_foreign_key(
        op.f("fk_completions_corrects_id_completions"),
        "completions",
        "completions",
        ["corrects_id"],
        ["id"],
        ondelete="SET NULL",
    )
    op.add_column("imports", sa.Column("status", sa.Text(), server_default=sa.text("'succeeded'"), nullable=False))
    op.add_column("imports", sa.Column("format", sa.Text(), server_default=sa.text("'jsonl'"), nullable=False))
    op.add_column(
        "imports",
        sa.Column(
            "options",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
    )
    op.add_column(
        "imports", sa.Column("preview", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True)
    )
    op.add_column("imports", sa.Column("path", sa.Text(), nullable=True))
    op.add_column("imports", sa.Column("size_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("imports", sa.Column("num_rows", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("imports", sa.Column("num_published", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("imports", sa.Column("bytes_read", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("imports", sa.Column("error", sa.Text(), nullable=True))
    op.add_column("imports", sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("imports", sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "imports", sa.Column("cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("imports", sa.Column("started_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("imports", sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "projects",
        sa.Column(
            "settings",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
    )
    op.add_column("ratings", sa.Column("correction_id", sa.BigInteger(), nullable=True))
    op.add_column("ratings", sa.Column("bulk_id", sa.Integer(), nullable=True))
    op.create_index(
        "ix_ratings_bulk_id", "ratings", ["bulk_id"], unique=False, postgresql_where=sa.text("bulk_id IS NOT NULL")
    )
    op.create_index(
        "ix_ratings_project_id_source_rater_id", "ratings", ["project_id", "source", "rater", "id"], unique=False
    )
    op.create_index(
        "uq_ratings_current_external_id",
        "ratings",
        ["project_id", "source", "external_id"],
        unique=True,
        postgresql_where=sa.text("is_current AND external_id IS NOT NULL"),
    )
    op.create_foreign_key(
        op.f("fk_ratings_correction_id_completions"),
        "ratings",
        "completions",
        ["correction_id"],
        ["id"],
        ondelete="SET NULL",
    )
    op.create_foreign_key(
        op.f("fk_ratings_bulk_id_bulk_labels"), "ratings", "bulk_labels", ["bulk_id"], ["id"], ondelete="SET NULL"
    )
    op.add_column(
        "users",
        sa.Column(
            "preferences",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
    )
    op.execute(
        """
        INSERT INTO completion_votes (completion_id, project_id, ups, downs)
        SELECT c.id, c.project_id, count(*) FILTER (WHERE r.value), count(*) FILTER (WHERE NOT r.value)
        FROM completions c LEFT JOIN ratings r ON r.completion_id = c.id AND r.is_current
        GROUP BY c.id, c.project_id
        """
    )
    for statement in VOTE_TRIGGERS:
        op.execute(statement)


def downgrade() -> None:  # noqa: PLR0915 -- one step per column
    for name in ("insert", "update", "delete"):
        op.execute(f"DROP TRIGGER ratings_count_{name} ON ratings")
        op.execute(f"DROP FUNCTION count_ratings_{name}()")
    op.execute("DROP TRIGGER completions_count_insert ON completions")
    op.execute("DROP FUNCTION count_completions()")
    op.drop_column("users", "preferences")
    op.drop_constraint(op.f("fk_ratings_bulk_id_bulk_labels"), "ratings", type_="foreignkey")
    op.drop_constraint(op.f("fk_ratings_correction_id_completions"), "ratings", type_="foreignkey")
    op.drop_index(
        "uq_ratings_current_external_id",
        table_name="ratings",
        postgresql_where=sa.text("is_current AND external_id IS NOT NULL"),
    )
    op.drop_index("ix_ratings_project_id_source_rater_id", table_name="ratings")
    op.drop_index("ix_ratings_bulk_id", table_name="ratings", postgresql_where=sa.text("bulk_id IS NOT NULL"))
    op.drop_column("ratings", "bulk_id")
    op.drop_column("ratings", "correction_id")
    op.drop_column("projects", "settings")
    op.drop_column("imports", "finished_at")
    op.drop_column("imports", "started_at")
    op.drop_column("imports", "cancel_requested")
    op.drop_column("imports", "lease_until")
    op.drop_column("imports", "attempt")
    op.drop_column("imports", "error")
    op.drop_column("imports", "bytes_read")
    op.drop_column("imports", "num_published")
    op.drop_column("imports", "num_rows")
    op.drop_column("imports", "size_bytes")
    op.drop_column("imports", "path")
    op.drop_column("imports", "preview")
    op.drop_column("imports", "options")
    op.drop_column("imports", "format")
    op.drop_column("imports", "status")
    op.drop_constraint(op.f("fk_completions_corrects_id_completions"), "completions", type_="foreignkey")
    op.drop_index("ix_completions_project_id_model_id", table_name="completions")
    op.drop_index(
        "ix_completions_corrects_id", table_name="completions", postgresql_where=sa.text("corrects_id IS NOT NULL")
    )
    op.drop_column("completions", "pii")
    op.drop_column("completions", "corrects_id")
    op.drop_column("completions", "sampling")
    op.drop_column("api_keys", "rate_per_minute")
    op.drop_column("api_keys", "public_token")
    op.drop_column("api_keys", "origins")
    op.drop_column("api_keys", "kind")
    op.drop_constraint(op.f("fk_annotation_slots_gold_for_users"), "annotation_slots", type_="foreignkey")
    op.drop_constraint(op.f("fk_annotation_slots_gold_id_gold_items"), "annotation_slots", type_="foreignkey")
    op.drop_index(
        "uq_annotation_slots_number", table_name="annotation_slots", postgresql_where=sa.text("gold_id IS NULL")
    )
    op.drop_index(
        "uq_annotation_slots_gold", table_name="annotation_slots", postgresql_where=sa.text("gold_id IS NOT NULL")
    )
    op.drop_index(op.f("ix_annotation_slots_gold_for"), table_name="annotation_slots")
    op.create_unique_constraint(
        op.f("uq_annotation_slots_queue_id_completion_id_number"),
        "annotation_slots",
        ["queue_id", "completion_id", "number"],
        postgresql_nulls_not_distinct=False,
    )
    op.drop_column("annotation_slots", "gold_answer")
    op.drop_column("annotation_slots", "gold_for")
    op.drop_column("annotation_slots", "gold_id")
    op.drop_column("annotation_slots", "took_ms")
    op.drop_column("annotation_queues", "is_open")
    op.drop_column("annotation_queues", "gold_rate")
    op.drop_column("annotation_queues", "filter")

"""The first tables: calls, cards, feedback, tokens seen, findings shown."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "calls",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", time, nullable=False, index=True),
        *_texts("request_id", "iss", "user_ref", "service", "hook", "hook_instance"),
        *_texts("patient_key"),
        sa.Column("rulesets", sa.JSON, nullable=False),
        sa.Column("rules", sa.JSON, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        *_texts("outcome"),
        sa.Column("suppressed", sa.JSON, nullable=False),
    )
    op.create_table(
        "cards",
        sa.Column(
            "call_id", sa.Text, sa.ForeignKey("calls.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("uuid", sa.Text, primary_key=True, index=True),
        *_texts("service", "tier", "card_group"),
    )
    for name, member, more in (
        ("card_rules", "rule", _texts("version")),
        ("card_suggestions", "suggestion", []),
    ):
        op.create_table(
            name,
            sa.Column("call_id", sa.Text, primary_key=True),
            sa.Column("uuid", sa.Text, primary_key=True),
            sa.Column(member, sa.Text, primary_key=True),
            *more,
            sa.ForeignKeyConstraint(
                ["call_id", "uuid"], ["cards.call_id", "cards.uuid"], ondelete="CASCADE"
            ),
        )
    op.create_table(
        "feedback",
        sa.Column("id", sa.Text, primary_key=True),
        *_texts("iss", "service"),
        sa.Column("card", sa.Text, nullable=False, index=True),
        *_texts("outcome"),
        sa.Column("outcome_at", time, nullable=False),
        *_texts("reason_system", "reason_code", "reason_display", "comment"),
        sa.Column("received_at", time, nullable=False, index=True),
    )
    op.create_table(
        "accepted_suggestions",
        sa.Column(
            "feedback_id",
            sa.Text,
            sa.ForeignKey("feedback.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("suggestion", sa.Text, primary_key=True),
    )
    op.create_table(
        "replays",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("seen", sa.BigInteger, nullable=False),
        sa.Column("keep_until", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "shown",
        sa.Column("patient_key", sa.Text, primary_key=True),
        sa.Column("finding", sa.Text, primary_key=True),
        sa.Column("evidence", sa.Text, primary_key=True),
        sa.Column("tier", sa.Integer, nullable=False),
        *_texts("hook_instance"),
        sa.Column("at", time, nullable=False),
        sa.Column("keep_until", time, nullable=False, index=True),
    )
    op.create_table("secrets", sa.Column("name", sa.Text, primary_key=True), *_texts("value"))


def downgrade() -> None:
    """Refuse: it would delete all that is kept."""
    raise NotImplementedError("the first version cannot be taken back")


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]

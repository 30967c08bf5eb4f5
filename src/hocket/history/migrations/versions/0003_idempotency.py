"""Keys by which clients recognise a repeated call."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

KEYED = sa.text("idempotency <> ''")


def upgrade() -> None:
    """Add the column, and an index of the calls that have one."""
    op.add_column("calls", sa.Column("idempotency", sa.Text, nullable=False, server_default=""))
    op.create_index("calls_idempotency", "calls", ["idempotency"], sqlite_where=KEYED, postgresql_where=KEYED)

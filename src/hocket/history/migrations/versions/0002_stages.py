"""Stages as a view; clients' own retries."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

STAGES = """
CREATE VIEW stages AS
SELECT job_id, stage AS name, 'llm' AS kind, count(*) AS runs, min(arrived_s) AS arrived_s, max(ended_s) AS ended_s,
       sum(prompt_tokens) AS prompt_tokens, sum(output_tokens) AS output_tokens
FROM calls GROUP BY job_id, stage
UNION ALL
SELECT job_id, name, 'tool', count(*), min(started_s), max(ended_s), 0, 0
FROM tool_runs GROUP BY job_id, name
"""


def upgrade() -> None:
    """Add the column and the view."""
    op.add_column("calls", sa.Column("retry", sa.Integer, nullable=False, server_default="0"))
    op.execute(STAGES)

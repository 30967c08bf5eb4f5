"""Alembic's entry: run the revisions on the connection that `hocket.history.store` hands in."""

from alembic import context

connection = context.config.attributes["connection"]
# one transaction, for SQLite too: a migration that is cut off has not begun
context.configure(connection=connection, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()

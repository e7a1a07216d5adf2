"""What alembic runs: the missing versions, in the transaction of the connection it was given."""

from __future__ import annotations

from alembic import context

from cds.service.database import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # SQLite can do this too, as we let transactions begin ourselves: all of it or nothing.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()

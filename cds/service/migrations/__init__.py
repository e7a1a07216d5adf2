"""The versions of the service's tables, for alembic; `cds.service.database` applies them."""

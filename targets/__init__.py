"""Where a clone can be created: one module per target, no database, no Celery."""

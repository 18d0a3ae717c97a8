"""The truth: states, rows, the store with guarded writes, migrations. No Celery, no target, no environment."""

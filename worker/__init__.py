"""Composition root: settings, Celery app, queues, signals, bootsteps, CLI; the only place that reads the environment."""

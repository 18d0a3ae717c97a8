"""What the engine alone costs: a Celery chain of four tasks that do nothing, acknowledged early, without results.

The last one says on a Redis list that its chain is through, because without results nothing else tells a client.
"""

from __future__ import annotations

import os
from typing import Any

import redis
from celery import Celery, chain
from celery.canvas import Signature

BROKER_VARIABLE = "BARE_CHAIN_BROKER_URL"
DONE_LIST = "bare-chain-done"
QUEUE = "bare"


def make_app(broker_url: str) -> Celery:
    """The app, for the worker and for the client; Celery's defaults but for results, which are off."""
    app = Celery("bare", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=False,
        task_default_queue=QUEUE,
        task_serializer="json",
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=True,
    )
    done = redis.Redis.from_url(broker_url)

    def add_step(number: int) -> None:
        @app.task(name=f"bare.step_{number}", ignore_result=True)
        def step(job_id: str) -> None:
            """Do nothing."""

    for each in (1, 2, 3):
        add_step(each)

    @app.task(name="bare.step_4", ignore_result=True)
    def last(job_id: str) -> None:
        done.lpush(DONE_LIST, job_id)

    return app


def bare_chain(app: Celery, job_id: str) -> Signature[Any]:
    """The four steps of one job, immutable as ours are."""
    return chain(*(app.signature(f"bare.step_{n}", args=(job_id,), immutable=True) for n in (1, 2, 3, 4)))


if url := os.environ.get(BROKER_VARIABLE):
    app = make_app(url)

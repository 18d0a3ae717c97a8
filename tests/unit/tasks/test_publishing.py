"""A message that cannot be sent never hurts who sends it: the row is committed, and the reconciler finds it."""

import pytest
from celery import Celery
from kombu import Producer
from kombu.exceptions import OperationalError

from tasks.chain import CeleryPublisher, kombu_queues
from tasks.settle import Reason


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("MISCONF Errors writing to the AOF file: No space left on device"),
        ConnectionResetError("Connection reset by peer"),
        # What kombu 5.7 raises in one thread while another closes the broken connection that they share.
        AttributeError("'NoneType' object has no attribute 'client'"),
    ],
)
def test_every_message_says_that_it_was_not_sent(monkeypatch, error):
    def publish(*_, **__):
        raise error

    monkeypatch.setattr(Producer, "publish", publish)
    with Celery(broker="memory://", set_as_current=False) as app:
        app.conf.update(task_queues=kombu_queues(), task_publish_retry=False)
        publisher = CeleryPublisher(app)
        assert not publisher.steps("j", 1, 0, ("preparing_vm_disks",))
        assert not publisher.cleanup("j", 1)
        assert not publisher.settle("j", 1, 0, Reason.WORKER_LOST, "gone")

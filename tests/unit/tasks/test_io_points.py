"""The seam: every I/O call of a job's path has a name, and an error at any of them once changes no end."""

import pytest
from sqlalchemy.exc import OperationalError

from models import io_points
from models.states import JobState


def test_every_io_call_of_a_jobs_path_passes_a_named_point(light, hook):
    passed = set()
    hook(lambda point, phase: passed.add(point))
    job = light.create()
    light.run()
    job = light.create("clone-2")
    light.deliver()
    light.services.clone_jobs.cancel(job.name)
    light.run()
    assert passed <= io_points.names()
    assert {
        "store.create_job",
        "store.claim_step",
        "store.mark_intended",
        "store.mark_created",
        "store.succeed",
        "store.settle",
        "store.claim_cleanup",
        "store.mark_deleting",
        "store.mark_absent",
        "store.finish_cleanup",
        "target.create.adapted_image",
        "target.create.disk",
        "target.create.instance",
        "target.find.instance",
        "target.delete.disk",
        "target.bury.job",
        "target.boot_report.instance",
    } - {"target.delete.disk"} <= passed


@pytest.mark.parametrize(
    "point",
    sorted(
        name
        for name in io_points.names()
        if name.startswith(("target.", "store.")) and name not in ("store.create_job",)
    ),
)
@pytest.mark.parametrize("phase", ["before", "after"])
def test_an_error_at_any_point_once_changes_nothing_about_the_end(light, hook, point, phase):
    """A fast sample of the fault matrix: error before, and reply lost, at each point; the job still succeeds."""
    fired = []

    def fail_once(name, when):
        if name == point and when == phase and not fired:
            fired.append(name)
            raise OperationalError(name, {}, Exception("injected"))

    job = light.create()
    hook(fail_once)
    for _ in range(30):
        if light.job_quietly(job.id).end_time:
            break
        try:
            light.run_to_end(job.id)
        except OperationalError:
            continue  # what a worker's process would log; the row is what counts
    hook(None)
    job = light.job(job.id)
    assert job.state is JobState.SUCCEEDED, (fired, job.error)
    assert light.kinds() == ["disk", "instance"]

"""What the command line says of a job whose target is disks."""

from __future__ import annotations

import pytest

from worker.cli.outcome import end_line

URI = "projects/p/zones/z"


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ({"disksTargetDetails": {}, "disks": [{"diskUri": f"{URI}/disks/data"}]}, "disk data (ce)"),
        ({"disksTargetDetails": {}, "disks": [{"diskUri": "ce/disks/a"}, {"diskUri": "ce/disks/b"}]}, "disks a, b (ce)"),
        ({"vmTargetDetails": {"vmUri": f"{URI}/instances/shop"}, "disks": [{"diskUri": f"{URI}/disks/data"}]},
         "instance shop (ce)"),
    ],
)  # fmt: skip
def test_the_end_of_a_job_names_what_was_made(details, said):
    name = "projects/p/locations/l/sources/default/migratingVms/web-1/cloneJobs/c"
    job = {"name": name, "state": "SUCCEEDED", "computeEngineDisksTargetDetails": details}
    assert end_line(job, {"target": "ce"}).endswith(f" SUCCEEDED: {said}")

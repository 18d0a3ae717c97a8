"""Registering a disk by reference over REST, on the real services."""

import pytest
from harness import VM


@pytest.fixture
def cycle(live):
    return live.http.post(f"/clonejob/v1/{VM}/replicationCycles").json()["name"]


@pytest.fixture
def path(live, cycle):
    return f"/clonejob/v1/{cycle}:registerDisk"


BODY = {"diskNumber": 0, "reference": "projects/p/global/snapshots/s", "sizeBytes": "1073741824"}


def test_a_disk_by_reference_takes_the_place_of_an_upload(live, cycle, path):
    answer = live.http.post(path, json=BODY)
    assert answer.status_code == 200
    found = answer.json()
    assert (found["format"], found["virtualSizeBytes"], found["complete"]) == ("reference", "1073741824", True)
    assert live.http.post(path, json=BODY).json() == found
    assert live.http.get(f"/clonejob/v1/{cycle}/disks/0").json() == found
    assert live.http.post(f"/clonejob/v1/{cycle}:finish").json()["state"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"diskNumber": "0"}, "diskNumber"),
        ({"diskNumber": True}, "diskNumber"),
        ({"diskNumber": 64}, "disk_number"),
        ({"reference": 1}, "reference"),
        ({"reference": "../s"}, "reference"),
        ({"sizeBytes": "many"}, "sizeBytes"),
        ({"sizeBytes": None}, "sizeBytes"),
        ({"sizeBytes": 0}, "size_bytes"),
        ({"path": "x"}, "path"),
    ],
)
def test_what_is_wrong_is_named(live, cycle, path, change, field):
    answer = live.http.post(path, json=BODY | change)
    assert answer.status_code == 400
    assert field in str(answer.json()["error"])
    assert live.http.get(f"/clonejob/v1/{cycle}/disks/0").status_code == 404

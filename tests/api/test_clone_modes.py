"""``GET T/cloneMode`` and ``POST T:setCloneMode`` of the real services behind a real server."""

from harness import PARENT

from targets.qemu import QemuTarget
from tasks.services import Request

HOST = f"/clonejob/v1/{PARENT}/targetProjects/host"


def test_the_clone_mode_of_a_target_project(live, tmp_path):
    world = live.world
    world.runtime.targets["host"] = QemuTarget(tmp_path / "host", world.snapshots, name="host", clone_mode="full")
    world.services.target_projects.create(PARENT, "host", {"project": "host"}, Request())
    begun = {"targetProject": HOST.removeprefix("/clonejob/v1/"), "target": "host", "cloneMode": "",
             "usedCloneMode": "full", "cloneModes": ["overlay", "full"]}  # fmt: skip
    assert live.http.get(f"{HOST}/cloneMode").json() == begun
    chosen = begun | {"cloneMode": "overlay", "usedCloneMode": "overlay"}
    assert live.http.post(f"{HOST}:setCloneMode", json={"cloneMode": "overlay"}).json() == chosen
    assert live.http.get(f"{HOST}/cloneMode").json() == chosen
    operations = live.http.get(f"/v1/{PARENT}/operations").json()["operations"]
    updates = [each["metadata"]["target"] for each in operations if each["metadata"]["verb"] == "update"]
    assert updates == [HOST.removeprefix("/clonejob/v1/")]
    for body in ({}, {"cloneMode": 1}, {"cloneMode": "copy"}, {"mode": "full"}):
        assert live.http.post(f"{HOST}:setCloneMode", json=body).status_code == 400
    assert live.http.get(f"{HOST}x/cloneMode").status_code == 404
    one = live.http.get(f"/clonejob/v1/{PARENT}/targetProjects/simulated/cloneMode").json()
    assert (one["usedCloneMode"], one["cloneModes"]) == (None, [])

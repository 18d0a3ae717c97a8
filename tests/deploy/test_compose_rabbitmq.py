"""compose.rabbitmq.yml, run by hand: the same jobs over RabbitMQ."""

from __future__ import annotations

import os
import shutil

import pytest
from conftest import missing
from deploy.by_hand import ByHand, Cli, running, until
from deploy.compose_file import load

from targets.guest import build_disk
from targets.simulated import SimulatedTarget

PORTS = {"postgres": [5432], "broker": [5672, 25672], "api": [8080, 8081]}
POOLS = ["worker-control", "worker-cleanup", "worker-disks", "worker-instances", "worker-adapt"]


@pytest.fixture(scope="module")
def hand(servers, open_folder):
    if shutil.which("rabbitmq-server", path=f"{os.environ['PATH']}:/usr/lib/rabbitmq/bin:/usr/sbin") is None:
        missing("rabbitmq-server is not installed")
    project = load("compose.rabbitmq.yml")
    project["services"]["api"]["deploy"]["replicas"] = 1
    names = ["postgres", "broker", "migrate", "api", *POOLS]
    with running(ByHand(project, open_folder, ports=PORTS), names, unseen=POOLS[1:]) as made:
        yield made


def test_a_job_succeeds_and_another_one_is_cancelled(hand, open_folder):
    cli = Cli(hand, f"http://127.0.0.1:{hand.port('api', 8080)}")
    simulated = SimulatedTarget(hand.path("worker-disks", "/var/lib/clonejob") / "targets" / "simulated")
    disk = build_disk(open_folder / "guest.raw", size_bytes=2**20)
    cli("vm", "import", "web-1", "--disk", str(disk), "--target", "simulated")
    cli("submit", "web-1", "--id", "c1", "--wait")
    assert cli.state("web-1/c1") == "SUCCEEDED"
    kept = {each.ref for each in simulated.inventory()}
    simulated.add_fault(op="create", fault="slow", kind="instance", times=1, delay_s=900)
    cli("submit", "web-1", "--id", "c2")
    until("the slow instance is being made", lambda: "creating" in str(simulated.inventory()))
    cli("cancel", "web-1/c2", "--wait")
    assert cli.state("web-1/c2") == "CANCELLED"
    assert {each.ref for each in simulated.inventory()} == kept

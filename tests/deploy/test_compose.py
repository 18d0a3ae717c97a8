"""docker-compose.yml, run by hand: the same processes with the same environment carry real jobs."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from deploy.by_hand import ByHand, Cli, running, until
from deploy.compose_file import load
from google.cloud import vmmigration_v1
from google.cloud.vmmigration_v1.services.vm_migration.transports import VmMigrationGrpcTransport

from targets.guest import build_disk
from targets.simulated import SimulatedTarget

# What each service listens on in its container.
PORTS = {"postgres": [5432], "broker": [6379], "api": [8080, 8081], "proxy": [8080, 8081, 8404], "flower": [5555]}
POOLS = {"control", "cleanup", "disks", "instances", "adapt"}
LABEL = b"name=opt/org.clonejob/label,string="


def machines(folder: Path) -> list[int]:
    """The virtual machines whose files are below the folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (line := "\0".join(process.cmdline())) and LABEL.decode() in line and str(folder) in line:
                found.append(process.pid)
    return found


@pytest.fixture(scope="module")
def hand(servers, open_folder):
    with running(ByHand(load(), open_folder, ports=PORTS)) as made:
        yield made


@pytest.fixture(scope="module")
def cli(hand):
    return Cli(hand, f"http://127.0.0.1:{hand.port('proxy', 8080)}")


@pytest.fixture(scope="module")
def disk(open_folder):
    return build_disk(open_folder / "guest.raw", size_bytes=2**20)


def test_only_the_proxy_and_flower_are_shown_to_the_outside(hand):
    assert hand.published() == {("proxy", 8080), ("proxy", 8081), ("flower", 5555)}


@pytest.fixture(scope="module")
def jobs(hand, cli, disk, open_folder):
    """One job that made a machine, and one that was cancelled; the states, and what the cancelled one left."""
    simulated = SimulatedTarget(hand.path("worker-disks", "/var/lib/clonejob") / "targets" / "simulated")
    simulated.add_fault(op="create", fault="slow", kind="instance", times=1, delay_s=900)
    cli("vm", "import", "slow", "--disk", str(disk), "--target", "simulated")
    cli("submit", "slow", "--id", "s1")
    cli("vm", "import", "web-1", "--disk", str(disk))
    cli("submit", "web-1", "--id", "c1", "--wait")
    cli("watch", "web-1/c1")
    made = machines(open_folder)
    until("the slow instance is being made", lambda: "creating" in str(simulated.inventory()))
    cli("cancel", "slow/s1", "--wait")
    return cli.state("web-1/c1"), made, cli.state("slow/s1"), simulated.inventory()


def test_a_job_of_each_kind_passes_through_the_proxy(jobs, open_folder):
    succeeded, made, cancelled, left = jobs
    assert (succeeded, cancelled, left) == ("SUCCEEDED", "CANCELLED", [])
    assert len(made) == 1 and machines(open_folder) == made


def test_grpc_passes_the_proxy_too_and_needs_a_token(hand, cli, jobs):
    channel = grpc.insecure_channel(f"127.0.0.1:{hand.port('proxy', 8081)}")
    parent = "projects/clonejob/locations/global/sources/default/migratingVms/web-1"
    with vmmigration_v1.VmMigrationClient(transport=VmMigrationGrpcTransport(channel=channel)) as client:
        bearer = [("authorization", f"Bearer {cli.token}")]
        names = [job.name for job in client.list_clone_jobs(parent=parent, metadata=bearer)]
        assert names == [f"{parent}/cloneJobs/c1"]
        with pytest.raises(Exception, match="credentials|token"):
            list(client.list_clone_jobs(parent=parent))


def test_flower_asks_for_its_password_and_shows_pools_and_tasks(hand, jobs):
    url = f"http://127.0.0.1:{hand.port('flower', 5555)}/api"
    with httpx.Client(trust_env=False, timeout=30) as http:
        assert http.get(f"{url}/workers").status_code == 401
        auth = ("clonejob", hand.secret("flower_password"))
        assert http.get(f"{url}/workers", auth=("clonejob", "wrong")).status_code == 401

        def pools() -> set[str]:
            return {name.partition("@")[0] for name in http.get(f"{url}/workers?refresh=1", auth=auth).json()}

        until("Flower knows the pools", lambda: pools() == POOLS)
        tasks = http.get(f"{url}/tasks", auth=auth).json().values()
    states = {task["name"]: task["state"] for task in tasks if task["name"].startswith("clone.")}
    assert states["clone.finish"] == "SUCCESS" and "clone.clean_up" in states


def test_no_secret_is_in_an_environment_or_on_a_command_line(hand):
    secrets = [hand.secret(name).encode() for name in hand._project["secrets"]]
    seen = 0
    for process in hand.processes.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            leader = psutil.Process(process.pid)
            for each in [leader, *leader.children(recursive=True)]:
                about = b"".join(Path(f"/proc/{each.pid}/{part}").read_bytes() for part in ("cmdline", "environ"))
                assert not [secret for secret in secrets if secret in about], each
                seen += 1
    assert seen >= len(hand.processes) - 1  # the one-shot has ended


def test_one_api_that_ends_is_not_noticed_by_clients(hand, cli, jobs):
    hand.processes["api-0"].terminate()
    assert hand.processes["api-0"].wait(60) == 0
    parent = "projects/clonejob/locations/global/sources/default/migratingVms/-"
    head = {"authorization": f"Bearer {cli.token}"}
    with httpx.Client(trust_env=False, timeout=30, headers=head) as http:
        for _ in range(10):
            answer = http.get(f"http://127.0.0.1:{hand.port('proxy', 8080)}/v1/{parent}/cloneJobs")
            assert answer.status_code == 200 and len(answer.json()["cloneJobs"]) == 2
    hand.start_again("api")


def test_the_broker_forgets_nothing_and_refuses_rather_than_drops(hand):
    import redis

    with contextlib.closing(
        redis.Redis(port=hand.port("broker", 6379), password=hand.secret("broker_password"))
    ) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert int(client.config_get("maxmemory")["maxmemory"]) > 0
    with (
        contextlib.closing(redis.Redis(port=hand.port("broker", 6379))) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_a_health_check_fails_when_its_part_is_stopped(hand):
    """The process is there, and does not work: that is what a check is for."""
    names = ["worker-cleanup", "vmhost"]
    leaders = [psutil.Process(hand.processes[f"{name}-0"].pid) for name in names]
    stopped = [each for leader in leaders for each in (leader, *leader.children(recursive=True))]
    for each in stopped:
        each.suspend()
    try:
        with ThreadPoolExecutor() as pool:
            assert [check.returncode != 0 for check in pool.map(hand.health, names)] == [True, True]
    finally:
        for each in stopped:
            each.resume()


def test_workers_and_the_proxy_end_by_themselves_when_they_are_told_to(hand):
    """With nothing to do, by the signal with which docker stops their containers."""
    names = ("worker-disks", "worker-instances", "proxy")
    assert hand.stop(*names) == [0, 0, 0]
    hand.start_again(*names)

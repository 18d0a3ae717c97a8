"""Lists as the services answer them: filter, order_by, page tokens (AIP-132, AIP-158, AIP-160)."""

import base64
import dataclasses
import datetime as dt
import re
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import PARENT, SOURCE, VM

from tasks.errors import InvalidArgument
from tasks.services import Services
from tasks.services.page_tokens import PageTokens
from worker.page_token_key import page_token_key


@pytest.fixture
def jobs(world):
    """Three jobs: one succeeded, one cancelled, one runs."""
    world.create("first")
    world.run()
    world.clock.advance(60)
    job = world.create("second")
    world.services.clone_jobs.cancel(job.name)
    world.run_to_end(job.id)
    world.clock.advance(60)
    world.create("third")
    return world


def ids(page):
    return [row.name.rpartition("/")[2] for row in page.items]


@pytest.mark.parametrize(("text", "found"), [
    ("", ["third", "second", "first"]),
    ("state = SUCCEEDED", ["first"]),
    ("state = (SUCCEEDED OR CANCELLED)", ["second", "first"]),
    ("-end_time:*", ["third"]),
    ("end_time = null", ["third"]),
    ("create_time >= 2026-01-01T00:01:00Z", ["third", "second"]),
    ("createTime < 2026-01-01T01:00:30+01:00", ["first"]),
    (f'name = "{VM}/cloneJobs/*d"', ["third", "second"]),
    ("ir", ["third", "first"]),
    ("d AND NOT state = CANCELLED", ["third"]),
    ("compute_engine_target_details:labels", ["third", "second", "first"]),
    ("compute_engine_target_details.labels.env:prod", ["third", "second", "first"]),
    ("compute_engine_target_details.labels.team = x", []),
    ("compute_engine_target_details.labels.team != x", []),
    ("NOT compute_engine_target_details.labels.team = x", ["third", "second", "first"]),
    ("compute_engine_target_details.vm_name = null", ["third", "second", "first"]),
    ("error:*", []),
])  # fmt: skip
def test_filters_of_jobs(jobs, text, found):
    from models.schema import CloneJob

    with jobs.engine.begin() as connection:
        connection.execute(CloneJob.__table__.update().values(target_details={"labels": {"env": "prod"}}))
    assert ids(jobs.services.clone_jobs.list(VM, filter=text)) == found


def test_filters_of_the_other_resources(jobs):
    services = jobs.services
    jobs.add_vm("web-2", displayName="Front", labels={"env": "test"}, policy={"idleDuration": "90s"})
    vms = services.migrating_vms
    assert ids(
        vms.list(SOURCE, filter="labels.env = test policy.idle_duration > 1m AND Front".replace("1m", "60s"))
    ) == ["web-2"]
    assert ids(vms.list(SOURCE, filter="-labels:env", order_by="name")) == ["web-1"]
    assert ids(services.cycles.list(VM, filter="cycle_number >= 1 progress_percent = 100 state:SUCCEEDED")) == [
        "cycle-1"
    ]
    assert ids(services.sources.list(PARENT, filter="-description:* vmware = null")) == ["s"]
    assert ids(services.target_projects.list(PARENT, filter="project = simul*")) == ["simulated"]
    operations = services.operations
    cancels = operations.list(PARENT, filter="done = true AND metadata.verb = cancel").items
    assert [row.target for row, _ in cancels] == [f"{VM}/cloneJobs/second"]
    assert len(operations.list(PARENT, filter='metadata.target = "*/cloneJobs/*"').items) == 4
    assert not operations.list(PARENT, filter="error.code = 9").items


def test_orders_of_jobs(jobs):
    listing = jobs.services.clone_jobs.list
    assert ids(listing(VM, order_by="create_time")) == ["first", "second", "third"]
    assert ids(listing(VM, order_by="end_time")) == ["third", "first", "second"]
    assert ids(listing(VM, order_by="end_time desc")) == ["second", "first", "third"]
    assert ids(listing(VM, order_by="state desc, name")) == ["first", "third", "second"]


def test_what_is_refused_names_the_field(light):
    for field, value in {"filter": "x = 1", "order_by": "x", "page_size": -1, "page_token": "x"}.items():
        with pytest.raises(InvalidArgument) as caught:
            light.services.clone_jobs.list(VM, **{field: value})
        assert caught.value.field == field


# Tokens


def token_of(world, **paging):
    token = world.services.clone_jobs.list(VM, page_size=1, **paging).next_page_token
    assert token
    return token


def test_a_token_is_bound_to_its_list_but_not_to_its_page_size(jobs):
    listing = jobs.services.clone_jobs.list
    same = {"filter": "state:*", "order_by": "create_time"}
    token = token_of(jobs, **same)
    assert ids(listing(VM, page_token=token, page_size=7, **same)) == ["second", "third"]
    for other in ({**same, "filter": "state: *"}, {**same, "order_by": "create_time "}, {}):
        with pytest.raises(InvalidArgument, match="another list"):
            listing(VM, page_token=token, **other)
    with pytest.raises(InvalidArgument, match="another list"):
        listing(f"{SOURCE}/migratingVms/-", page_token=token, **same)
    with pytest.raises(InvalidArgument, match="another list"):
        jobs.services.cycles.list(VM, page_token=token, **same)


def test_a_token_tells_nothing_and_cannot_be_changed(jobs):
    token = token_of(jobs)
    assert re.fullmatch("[A-Za-z0-9_-]+", token)
    inside = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert b"cloneJobs" not in inside and b"2026" not in inside
    for position in range(0, len(token), 7):
        changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        with pytest.raises(InvalidArgument):
            jobs.services.clone_jobs.list(VM, page_token=changed)
    for junk in ("é", "\ud800", "\0", "=", token + "A", token[:-4], "A" * 10000):
        with pytest.raises(InvalidArgument):
            jobs.services.clone_jobs.list(VM, page_token=junk)


def test_a_token_is_good_in_every_process_with_the_key_for_three_days(jobs):
    token = token_of(jobs)
    twin = Services(dataclasses.replace(jobs.runtime))
    assert ids(twin.clone_jobs.list(VM, page_token=token)) == ["second", "first"]
    stranger = Services(dataclasses.replace(jobs.runtime, page_token_key=b"x" * 32))
    with pytest.raises(InvalidArgument):
        stranger.clone_jobs.list(VM, page_token=token)
    jobs.clock.now += dt.timedelta(days=3, seconds=1)
    with pytest.raises(InvalidArgument, match="older than three days"):
        jobs.services.clone_jobs.list(VM, page_token=token)


def test_a_key_that_is_too_short():
    with pytest.raises(ValueError, match="at least 32"):
        PageTokens(b"short")


# The key


def test_all_processes_agree_on_the_key_that_the_first_one_makes(tmp_path):
    folder = tmp_path / "data"
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: page_token_key("", folder), range(64)))
    assert len(keys) == 1
    path = folder / "page_token.key"
    assert path.read_bytes() in keys and len(path.read_bytes()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in folder.iterdir()] == ["page_token.key"]


def test_a_key_of_the_settings_and_a_damaged_file(tmp_path):
    assert page_token_key("s" * 32, tmp_path) == b"s" * 32
    assert not list(tmp_path.iterdir())
    (tmp_path / "page_token.key").write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        page_token_key("", tmp_path)

"""Start, pause, resume, finalize, extend and expire: every method in every state; both databases."""

import datetime as dt

import pytest
from harness import START, VM

from api import translate
from models.cycles import paused_for
from models.expiry import EARLY, LATE, LIFE, expire_time, extendable
from models.states import VM_METHODS, VM_TRANSITIONS, CycleState, VmState
from tasks.errors import Aborted, FailedPrecondition, NotFound

DAY = 24 * 3600


def state_of(world, vm=VM):
    return world.services.migrating_vms.get(vm).state


def change(world, method, vm=VM):
    operation = world.services.migrating_vms.change_state(vm, method)
    assert operation.end_time is not None and operation.method == method
    return state_of(world, vm)


def put(world, state):
    """The VM in a state, past all methods."""
    world.corrupt("UPDATE migrating_vms SET state = :state WHERE name = :name", state=state, name=VM)


@pytest.mark.parametrize("method", VM_METHODS)
@pytest.mark.parametrize("state", VmState)
def test_every_method_in_every_state(light, method, state):
    work, done = VM_METHODS[method]
    light.clock.advance(90 * DAY)  # within reach of an extension
    put(light, state)
    if state in work:
        new = change(light, method)
        assert new is state or new in VM_TRANSITIONS[state]
    elif state in done:
        assert change(light, method) is state
    else:
        with pytest.raises(FailedPrecondition) as error:
            change(light, method)
        assert error.value.reason == "VM_STATE_NOT_ALLOWED"
        assert state in error.value.message and all(each in error.value.message for each in work | done)
        assert state_of(light) is state


@pytest.mark.parametrize("method", VM_METHODS)
def test_a_vm_that_does_not_exist(world, method):
    with pytest.raises(NotFound):
        world.services.migrating_vms.change_state(f"{VM}x", method)


def test_start_and_the_first_upload_which_starts_too(world):
    first, second = world.add_vm("a"), world.add_vm("b")
    assert change(world, "StartMigration", first) is VmState.FIRST_SYNC
    assert change(world, "StartMigration", first) is VmState.FIRST_SYNC
    world.services.cycles.begin(second)
    assert state_of(world, second) is VmState.FIRST_SYNC
    world.upload(first)
    assert state_of(world, first) is VmState.ACTIVE


def test_pause_keeps_the_disks_of_the_running_cycle_and_resume_goes_on_with_it(world):
    cycles = world.services.cycles
    cycle = cycles.begin(VM).name
    cycles.put_disk(cycle, 0, "raw", [b"\0" * 510 + b"\x55\xaa"])
    assert change(world, "PauseMigration") is VmState.PAUSED
    assert cycles.get(cycle).state is CycleState.PAUSED
    for refused in (lambda: cycles.finish(cycle), lambda: cycles.put_disk(cycle, 1, "raw", [b"\0" * 512])):
        with pytest.raises(FailedPrecondition, match="PAUSED"):
            refused()
    with pytest.raises(FailedPrecondition, match="ResumeMigration"):
        cycles.begin(VM)
    assert change(world, "ResumeMigration") is VmState.ACTIVE
    assert cycles.finish(cycle).state is CycleState.SUCCEEDED


def test_how_long_a_cycle_was_paused(world):
    cycles = world.services.cycles
    cycle = cycles.begin(VM).name

    def paused_s():
        message = translate.replication_cycle(cycles.get(cycle), world.clock())
        assert message.HasField("total_pause_duration")
        return message.total_pause_duration.ToTimedelta().total_seconds()

    world.clock.advance(5)
    assert paused_s() == 0
    change(world, "PauseMigration")
    world.clock.advance(7.25)
    assert paused_s() == 7.25  # of the pause that goes on
    change(world, "PauseMigration")  # again: it is one pause
    world.clock.advance(1)
    change(world, "ResumeMigration")
    world.clock.advance(100)
    assert paused_s() == 8.25
    change(world, "PauseMigration")
    world.clock.advance(0.5)
    vm = world.services.migrating_vms
    shown = translate.migrating_vm(vm.get(VM), vm.syncs([VM])[VM], now=vm.now()).current_sync_info
    assert shown.total_pause_duration.ToTimedelta().total_seconds() == 8.75
    cycles.abort(cycle, "")
    world.clock.advance(100)
    assert paused_s() == 8.75


def test_a_pause_that_older_code_began_or_ended_is_not_made_up(world):
    cycle = world.services.cycles.begin(VM).name

    def paused_s():
        return paused_for(world.services.cycles.get(cycle), world.clock()).total_seconds()

    world.corrupt("UPDATE replication_cycles SET state = 'PAUSED' WHERE name = :name", name=cycle)
    put(world, VmState.PAUSED)
    world.clock.advance(9)
    assert paused_s() == 0
    change(world, "ResumeMigration")
    change(world, "PauseMigration")
    world.clock.advance(2)
    world.corrupt("UPDATE replication_cycles SET state = 'RUNNING' WHERE name = :name", name=cycle)
    put(world, VmState.ACTIVE)
    world.clock.advance(50)
    assert paused_s() == 0
    change(world, "PauseMigration")
    world.clock.advance(3)
    assert paused_s() == 3


def test_a_first_cycle_that_is_paused_and_aborted(world):
    vm = world.add_vm("a")
    cycle = world.services.cycles.begin(vm).name
    assert change(world, "PauseMigration", vm) is VmState.PAUSED
    assert world.services.cycles.abort(cycle, "").state is CycleState.FAILED
    assert state_of(world, vm) is VmState.PAUSED
    assert change(world, "ResumeMigration", vm) is VmState.FIRST_SYNC


def test_a_paused_vm_can_be_cloned(world):
    change(world, "PauseMigration")
    job = world.create()
    world.run()
    assert world.job(job.id).state == "SUCCEEDED"


def test_finalize_waits_for_jobs_and_cycles_and_keeps_what_clones_need(world):
    pinned = [s.store_key for s in world.services.migrating_vms.last_cycle(VM).snapshots]
    job = world.create()
    with pytest.raises(FailedPrecondition, match=job.name) as error:
        change(world, "FinalizeMigration")
    assert error.value.reason == "CLONE_JOB_RUNNING" and error.value.subject == job.name
    world.run()
    unused = world.upload(VM)
    keys = [s.store_key for s in world.services.cycles.get(unused).snapshots]
    cycle = world.services.cycles.begin(VM).name
    with pytest.raises(FailedPrecondition, match=cycle):
        change(world, "FinalizeMigration")
    world.services.cycles.abort(cycle, "")
    assert change(world, "FinalizeMigration") is VmState.FINALIZED
    assert all(world.snapshots.path(key).exists() for key in pinned)
    assert not any(world.snapshots.path(key).exists() for key in keys)
    for refused in (world.create, lambda: world.services.cycles.begin(VM)):
        with pytest.raises(FailedPrecondition, match="FINALIZED"):
            refused()


def test_a_job_that_was_planned_before_the_vm_was_finalized_is_refused(world, monkeypatch):
    plan = world.services.clone_jobs._plan

    def slow(vm, name):
        job = plan(vm, name)
        change(world, "FinalizeMigration")
        return job

    monkeypatch.setattr(world.services.clone_jobs, "_plan", slow)
    with pytest.raises(FailedPrecondition, match="FINALIZED") as error:
        world.create()
    assert error.value.reason == "VM_NOT_CLONEABLE"


# Life


def days(world, number):
    world.clock.now = START + dt.timedelta(days=number)


def test_a_vm_expires_and_comes_back(world):
    assert expire_time(world.services.migrating_vms.get(VM)) == START + LIFE
    days(world, 100)
    with pytest.raises(FailedPrecondition, match="EXPIRED"):
        world.create()  # also before anybody has marked it
    with pytest.raises(FailedPrecondition, match="ExtendMigration"):
        world.services.cycles.begin(VM)
    assert state_of(world) is VmState.ACTIVE
    world.reconcile()
    assert state_of(world) is VmState.EXPIRED
    assert change(world, "ExtendMigration") is VmState.ACTIVE
    vm = world.services.migrating_vms.get(VM)
    assert (vm.extension_count, expire_time(vm)) == (1, START + 2 * LIFE)
    assert world.runtime.catalog.expire_vms() == 0
    world.create()


@pytest.mark.parametrize(("day", "allowed"), [(0, False), (85.9, False), (86, True), (129.9, True), (130, False)])
def test_when_a_life_can_be_extended(world, day, allowed):
    days(world, day)
    world.runtime.catalog.expire_vms()
    assert extendable(world.services.migrating_vms.get(VM), world.clock()) is allowed
    if allowed:
        change(world, "ExtendMigration")
        with pytest.raises(FailedPrecondition):  # not twice: the next time is 86 days further on
            change(world, "ExtendMigration")
        return
    with pytest.raises(FailedPrecondition) as error:
        change(world, "ExtendMigration")
    window = [START + LIFE - EARLY, START + LIFE + LATE]
    assert error.value.reason == "VM_NOT_EXTENDABLE"
    assert all(f"{time:%Y-%m-%d}" in error.value.message for time in window)


def test_a_vm_without_data_and_a_finalized_one_expire_too(world):
    empty, syncing = world.add_vm("empty"), world.add_vm("syncing")
    cycle = world.services.cycles.begin(syncing).name
    change(world, "FinalizeMigration")
    days(world, 101)
    assert world.runtime.catalog.expire_vms() == 3
    assert [state_of(world, vm) for vm in (empty, VM)] == [VmState.EXPIRED, VmState.FINALIZED_EXPIRED]
    assert change(world, "ExtendMigration", empty) is VmState.READY
    assert change(world, "ExtendMigration", syncing) is VmState.FIRST_SYNC
    world.services.cycles.put_disk(cycle, 0, "raw", [b"\0" * 510 + b"\x55\xaa"])
    world.services.cycles.finish(cycle)
    assert state_of(world, syncing) is VmState.ACTIVE


def test_a_change_after_the_end_of_life_sees_the_end(world):
    days(world, 100)
    with pytest.raises(FailedPrecondition, match="EXPIRED"):
        change(world, "PauseMigration")


def test_where_replication_stands(world):
    syncs = world.services.migrating_vms.syncs
    good = syncs([VM])[VM].last_successful.name
    failed = world.services.cycles.begin(VM).name
    world.services.cycles.abort(failed, "")
    running = world.services.cycles.begin(VM).name
    other = world.add_vm("other")
    found = syncs([VM, other])
    sync = found[VM]
    assert [sync.current.name, sync.last.name, sync.last_successful.name] == [running, failed, good]
    assert found[other].current is found[other].last is found[other].last_successful is None
    with pytest.raises(Aborted):
        world.services.cycles.begin(VM)


def test_recent_jobs_of_many_vms(world):
    other = world.add_vm("other")
    for number in range(3):
        world.create(f"job-{number}")
        world.run()
        world.clock.advance(60)
    running = world.create("running")
    recent = world.services.clone_jobs.recent([VM, other])
    assert [job.name.rpartition("/")[2] for job in recent[VM]] == ["running", "job-2"]
    assert recent[other] == [] and running.end_time is None

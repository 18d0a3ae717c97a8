"""What the fault matrix reads of a cloud is what happened there."""

from __future__ import annotations

import pytest
from compute_world import Specs, target_of
from guarantee.matrix_cells import LEASE_S
from guarantee.matrix_clouds import CLOUDS
from guarantee.matrix_providers import ComputeEngineProvider, Ec2Provider
from standins.ec2.kit import Ec2Kit

from targets.base import ResourceKind
from targets.errors import PermanentError
from targets.simulated_lives import lives


@pytest.fixture
def ec2(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    provider = Ec2Provider()
    yield provider, Ec2Kit(provider._stand_in)
    provider.close()


def test_ec2_says_who_lived_when_and_what_is_left(ec2):
    provider, kit = ec2
    clone = kit.clone()
    kit.delete_until_gone(kit.image().ref)
    seen = {(each.ref, each.uid, each.job_id) for each in provider.everything()}
    assert seen == {(clone.ref, clone.uid, "job-1")}
    image, instance = lives(provider.calls())
    assert (image.kind, image.name, image.by) == (ResourceKind.BOOT_IMAGE, "c-boot", "delete")
    assert (instance.kind, instance.name, instance.uid, instance.until) == ("instance", "c-vm", clone.uid, None)
    assert provider.complaints() == []
    kit.stand_in.backend.detach_volume(kit.stand_in.volumes()[0], clone.uid, "")
    assert len(provider.complaints()) == 1


def test_ec2_plays_each_life(ec2):
    provider, kit = ec2
    kit.target.create(kit.image())
    provider.script("is cancelled")
    kit.target.create(kit.instance())
    assert provider.is_held("job-1") and not provider.is_held("job-2")
    kit.delete_until_gone(kit.instance().ref)
    provider.script("fails")
    with pytest.raises(PermanentError):
        kit.target.create(kit.instance(name="d-vm"))


def test_compute_engine_plays_each_life():
    provider = ComputeEngineProvider()
    target = target_of(provider._stand_in)
    try:
        specs = Specs(provider.disk()["reference"])
        disk = target.create(specs.disk())
        provider.script("is cancelled")
        target.create(specs.instance())
        assert provider.is_held("job-1") and not provider.is_held("job-2")
        assert [each.ref for each in provider.everything()] == [disk.ref, specs.instance().ref]
        provider.script("fails")
        with pytest.raises(PermanentError):
            target.create(specs.instance(name="d-vm", disks=("c-disk0",)))
        assert provider.complaints() == []
    finally:
        target.close()
        provider.close()


@pytest.mark.parametrize("name", CLOUDS)
def test_a_hang_ends_when_the_lease_is_over_and_before_clean_up_may_begin(name):
    """Without tombstones a longer freeze is the residual window."""
    stage = CLOUDS[name](None, 0, None)
    late_s = stage.provider_call_limit_s + LEASE_S
    assert late_s < stage.hang_s < late_s + stage.provider_call_limit_s

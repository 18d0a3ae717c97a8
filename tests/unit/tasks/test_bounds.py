"""Labels and metadata have an end."""

import pytest
from harness import PARENT, VM

from tasks.errors import InvalidArgument
from tasks.services import Request
from tasks.services.bounds import MOST_METADATA_CHARACTERS, check_labels, check_metadata


def test_what_is_allowed():
    check_labels("f", {f"k{n}": "v" for n in range(64)})
    check_labels("f", {"k" * 63: "9_-" * 21, "empty": ""})
    check_metadata("f", {"k": "v" * (MOST_METADATA_CHARACTERS - 1)})


@pytest.mark.parametrize("labels", [
    {f"k{n}": "v" for n in range(65)}, {"k" * 64: "v"}, {"k": "v" * 64}, {"K": "v"}, {"k": "V"}, {"": "v"}, {"k ": "v"},
])  # fmt: skip
def test_labels_that_are_refused_everywhere(light, labels):
    services = light.services
    with pytest.raises(InvalidArgument, match="^source.labels: "):
        services.sources.create(PARENT, "other", {"labels": labels}, Request())
    with pytest.raises(InvalidArgument, match="^source.labels: "):
        services.sources.update(f"{PARENT}/sources/s", lambda body: {**body, "labels": labels}, Request())
    with pytest.raises(InvalidArgument, match="^migrating_vm.labels: "):
        light.add_vm("other", labels=labels)
    with pytest.raises(InvalidArgument, match="^migrating_vm.compute_engine_target_defaults.labels: "):
        light.add_vm("other", defaults={"labels": labels})
    with pytest.raises(InvalidArgument, match="^migrating_vm.labels: "):
        services.migrating_vms.update(VM, lambda body: {**body, "labels": labels}, Request())


def test_metadata_that_is_refused(light):
    with pytest.raises(InvalidArgument, match="^migrating_vm.compute_engine_target_defaults.metadata: has 65537"):
        light.add_vm("other", defaults={"metadata": {"k": "v" * MOST_METADATA_CHARACTERS}})


def test_a_token_after_any_item(world):
    from harness import SOURCE

    for number in range(3):
        world.add_vm(f"vm-{number}")
    listing = world.services.migrating_vms.list
    page = listing(SOURCE)
    names = [row.name for row in page.items]
    for count in range(1, len(names)):
        rest = listing(SOURCE, page_token=page.token_after(count)).items
        assert [row.name for row in rest] == names[count:]

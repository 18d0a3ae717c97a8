"""Field masks of updates on the stored JSON."""

import pytest
from google.cloud import vmmigration_v1 as v1

from api.masks import change_by
from tasks.errors import InvalidArgument

Vm, Source = v1.MigratingVm.pb(), v1.Source.pb()
DEFAULTS = "computeEngineTargetDefaults"
OLD = {"displayName": "old", "labels": {"a": "1", "b": "2"}, DEFAULTS: {"zone": "z", "networkTags": ["x", "y"]}}


def changed(mask, old=OLD, **given):
    return change_by(mask, Vm(**given))(old)


@pytest.mark.parametrize("mask", [[], ["*"]])
def test_everything_that_can_be_set_is_overwritten(mask):
    assert changed(mask, display_name="new", state=4, name="n") == {"displayName": "new"}


def test_fields_nested_fields_lists_and_keys():
    assert changed(["display_name"], display_name="new", description="d") == {**OLD, "displayName": "new"}
    assert changed(["display_name"]) == {key: value for key, value in OLD.items() if key != "displayName"}
    zone = changed(["compute_engine_target_defaults.zone"], compute_engine_target_defaults={"zone": "new"})
    assert zone[DEFAULTS] == {"zone": "new", "networkTags": ["x", "y"]}
    tags = changed(
        ["compute_engine_target_defaults.network_tags"], compute_engine_target_defaults={"network_tags": ["n"]}
    )
    assert tags[DEFAULTS] == {"zone": "z", "networkTags": ["n"]}
    assert changed(["compute_engine_target_defaults.zone"])[DEFAULTS] == {"networkTags": ["x", "y"]}
    assert changed(["compute_engine_target_defaults.zone"], {}) == {}  # nothing there, nothing given
    assert changed(["labels"], labels={"c": "3"})["labels"] == {"c": "3"}
    assert changed(["labels.a", "labels.c"], labels={"c": "3"})["labels"] == {"b": "2", "c": "3"}
    assert changed(["labels.`a.b`"], labels={"a.b": "3"})["labels"] == {"a": "1", "b": "2", "a.b": "3"}
    assert changed(["policy.skip_os_adaptation"], policy={"skip_os_adaptation": True})["policy"] == {
        "skipOsAdaptation": True
    }


def test_type_stands_for_the_types_own_spelling():
    license_ = {"applied_license": {"type_": 1}}
    with pytest.raises(InvalidArgument):  # output only, but the path exists
        changed(["compute_engine_target_defaults.applied_license.type"], compute_engine_target_defaults=license_)


def test_a_member_of_a_oneof_takes_the_place_of_the_others():
    change = change_by(["aws"], Source(aws={"aws_region": "r", "state": 3}))
    assert change({"vmware": {"username": "u"}, "description": "d"}) == {"aws": {"awsRegion": "r"}, "description": "d"}
    change = change_by([], Source(aws={"aws_region": "r", "access_key_creds": {"access_key_id": "secret"}}))
    assert change({"vmware": {"username": "u"}}) == {"aws": {"awsRegion": "r"}}


def test_output_only_paths_are_left_out():
    assert changed(["state", "display_name"], display_name="new", state=4) == {**OLD, "displayName": "new"}


@pytest.mark.parametrize("path", [
    "nope", "labels.a.b", "labels.", ".labels", "", "a..b", "display_name.x", "`display_name`", "*.zone", "state",
    "`compute_engine_target_defaults`.zone", "compute_engine_target_defaults.`zone`", "labels.`a", "labels.`a`b",
    "compute_engine_target_defaults.network_tags.0", "displayName", "expiration.extension_count",
])  # fmt: skip
def test_what_is_no_path_of_the_resource(path):
    with pytest.raises(InvalidArgument) as error:
        changed([path], display_name="new")
    assert error.value.field == "update_mask"


def test_star_stands_alone():
    with pytest.raises(InvalidArgument):
        changed(["*", "labels"])

"""The tables of the EC2 target: fields, machine types, options, and the calls that its policy allows."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest
from google.cloud.vmmigration_v1 import ComputeEngineTargetDetails

from targets import registry
from targets.base import InstanceSpec, Owner, ResourceKind, ResourceRef
from targets.ec2 import coverage
from targets.ec2.fields import FIELDS, How, refuse_unsupported
from targets.ec2.machine_types import instance_type
from targets.ec2.options import Ec2Options
from targets.ec2.permissions import ACTIONS, policy
from targets.ec2.requests import image_name, interfaces, name_of_image, run_instances
from targets.ec2.tags import check_labels, client_token, life_of, tags
from targets.errors import UnsupportedError

ROOT = Path(__file__).parents[3]
OPTIONS = {"region": "eu-west-1", "subnet": "subnet-0a"}


def leaves(descriptor, prefix=""):
    for field in descriptor.fields:
        path = prefix + field.json_name
        kind = field.message_type
        if kind is None or kind.GetOptions().map_entry:
            yield path
        else:
            yield from leaves(kind, f"{path}.")


def test_every_field_of_the_contract_has_its_word():
    descriptor = ComputeEngineTargetDetails.pb(ComputeEngineTargetDetails()).DESCRIPTOR
    assert [field.path for field in FIELDS] == list(leaves(descriptor))
    assert all(field.what for field in FIELDS)


def test_what_is_refused_can_be_told_and_is_told_by_name():
    refusing = {
        "secureBoot": True, "enableVtpm": True, "bootConversion": "BIOS_TO_EFI", "diskReplicaZones": ["b"],
        "computeScheduling": {"nodeAffinities": [{"key": "k"}]}, "encryption": {"kmsKey": "projects/p/keys/k"},
        "networkInterfaces": [{"internalIp": "an-address-by-name", "externalIp": "203.0.113.7"}],
    }  # fmt: skip
    for key, value in refusing.items():
        with pytest.raises(UnsupportedError, match=key):
            refuse_unsupported({key: value})
    told = {field.path.partition(".")[0] for field in FIELDS if field.refuses}
    assert told == set(refusing)
    assert {field.path.partition(".")[0] for field in FIELDS if field.how is How.REFUSED} <= told
    refuse_unsupported(
        {"secureBoot": False, "networkInterfaces": [{"internalIp": "10.0.0.9", "externalIp": "ephemeral"}]}
    )


@pytest.mark.parametrize(
    ("machine_type", "expected"),
    [("", "t3.small"), ("e2-micro", "t3.micro"), ("e2-medium", "t3.medium"), ("custom-2-4096", "t3.medium"),
     ("n2-custom-6-20480", "m6i.2xlarge"), ("e2-standard-2", "t3.large"), ("n1-standard-4", "m6i.xlarge"),
     ("n2-highmem-8", "r6i.2xlarge"), ("n2-highcpu-16", "c6i.4xlarge"), ("m5.large", "m5.large"),
     ("u-6tb1.metal", "u-6tb1.metal"), ("mine", "z1d.large")],
)  # fmt: skip
def test_machine_types(machine_type, expected):
    assert instance_type(machine_type, {"mine": "z1d.large"}, "t3.small") == expected


@pytest.mark.parametrize(
    "machine_type", ["custom-0-1", "custom-2000-1", "e2-standard-500", "big", "T3.large", "custom-2-4096 "]
)
def test_machine_types_that_are_not_known(machine_type):
    with pytest.raises(UnsupportedError, match="instance_types"):
        instance_type(machine_type, {}, "t3.small")


def test_interfaces_carry_the_targets_groups_and_isolation():
    options = Ec2Options(**OPTIONS, security_groups=["sg-1"], subnets={"a": "subnet-0b"})
    details = {"networkInterfaces": [{"subnetwork": "a", "externalIp": "ephemeral"}, {"subnetwork": "subnet-0c"}, {}]}
    made = interfaces(details, options)
    assert [each["SubnetId"] for each in made] == ["subnet-0b", "subnet-0c", "subnet-0a"]
    assert all(each["Groups"] == ["sg-1"] and each["DeleteOnTermination"] for each in made)
    (alone,) = interfaces({"networkInterfaces": [{"internalIp": "10.0.0.9", "externalIp": "ephemeral"}]}, options)
    assert (alone["AssociatePublicIpAddress"], alone["PrivateIpAddress"]) == (False, "10.0.0.9")


def test_the_same_instance_is_asked_for_in_the_same_words():
    """EC2 refuses a token that comes back with other parameters."""
    spec = InstanceSpec(ResourceRef(ResourceKind.INSTANCE, "c"), Owner("job-1", 1), (), "h", "", {"b": "1", "a": "2"},
                        {"startup-script": "#!/bin/sh"}, "c-boot")  # fmt: skip
    asked = [run_instances(spec, Ec2Options(**OPTIONS), image_id="ami-1", devices=[], life=0) for _ in range(2)]
    assert asked[0] == asked[1]


def test_tokens_stand_for_one_life_of_one_name_of_one_job():
    tokens = {client_token(job, name, life) for job in ("j1", "j2") for name in ("a", "b") for life in range(3)}
    assert len(tokens) == 12 and all(len(token) <= 64 for token in tokens)
    assert life_of("j1", "a", client_token("j1", "a", 2)) == 2
    assert life_of("j2", "a", client_token("j1", "a", 0)) is None and life_of("j1", "a", "") is None


def test_names_of_images_are_long_enough_and_never_meet():
    assert [image_name(name) for name in ("c", "c-", "c--", "cc")] == ["c..", "c-.", "c--", "cc."]
    assert all(name_of_image(image_name(name)) == name for name in ("c", "c-", "c--", "abc", "a-b-c"))


@pytest.mark.parametrize("labels", [{"aws:x": "1"}, {"a b": "1"}, {"a": "v" * 257}, {"a": "ü\n"},
                                    {f"k{n}": "v" for n in range(41)}])  # fmt: skip
def test_labels_that_cannot_be_tags(labels):
    with pytest.raises(UnsupportedError):
        check_labels(labels)


def test_our_tags_win_over_a_users_labels():
    ref = ResourceRef(ResourceKind.INSTANCE, "c")
    wrong = {"clonejob-id": "job-2", "clonejob-name": "x", "Name": "x", "team": "blue"}
    made = {tag["Key"]: tag["Value"] for tag in tags(ref, Owner("job-1", 3), wrong)}
    assert made == {"clonejob-id": "job-1", "clonejob-epoch": "3", "clonejob-name": "c", "Name": "c", "team": "blue"}


# Options


@pytest.mark.parametrize("endpoint", ["http://ec2.example.com", "ftp://127.0.0.1", "http://", "127.0.0.1:80"])
def test_an_endpoint_in_the_clear_is_refused_but_on_loopback(endpoint):
    with pytest.raises(pydantic.ValidationError, match="loopback"):
        Ec2Options(**OPTIONS, endpoint=endpoint)
    for good in ("https://ec2.example.com", "http://127.0.0.1:5000", "http://[::1]:5000", "http://localhost:1", None):
        Ec2Options(**OPTIONS, endpoint=good)


def test_options_are_checked_when_the_settings_are_read():
    for wrong in ({"region": "Ireland"}, {"subnet": "vpc-1"}, {"boot_pattern": "("}, {"colour": "red"}):
        with pytest.raises(pydantic.ValidationError):
            registry.options_of("ec2", OPTIONS | wrong)
    assert registry.options_of("ec2", OPTIONS).isolated is True


def test_without_boto3_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "boto3", None)
    place = registry.Place("cloud", tmp_path, None, 30.0)
    with pytest.raises(UnsupportedError, match=r"pip install 'clonejob\[ec2\]'"):
        registry.options_of("ec2", OPTIONS).make(place)


def test_nothing_imports_boto3_before_the_first_call():
    code = ("import sys, json; from targets import registry; from pathlib import Path; "
            f"o = registry.options_of('ec2', {OPTIONS!r}); t = o.make(registry.Place('cloud', Path('.'), None, 30.0)); "
            "print(t.name, t.boots_from_image, [m for m in sys.modules if m in ('boto3', 'botocore')])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "cloud True []\n"


# The policy


def operations_in_the_code():
    """The first argument of every ``calls(…)``, ``calls.pages(…)`` and ``calls.probe(…)`` of the package."""
    for path in (ROOT / "targets" / "ec2").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("calls", "calls.pages", "calls.probe"):
                assert isinstance(node.args[0], ast.Constant), f"{path.name}:{node.lineno}"
                yield node.args[0].value


def test_the_policy_allows_just_the_calls_that_are_made():
    assert set(operations_in_the_code()) == set(ACTIONS)
    for operation, action in ACTIONS.items():
        assert action == "ec2:" + "".join(word.capitalize() for word in operation.split("_"))
    allowed = [action for statement in policy()["Statement"] for action in statement["Action"]]
    assert sorted(allowed) == sorted(ACTIONS.values())
    ending = [
        one
        for one in policy()["Statement"]
        if any(a.startswith(("ec2:Del", "ec2:Ter", "ec2:Dereg")) for a in one["Action"])
    ]
    (tagging,) = [one for one in policy()["Statement"] if one["Action"] == ["ec2:CreateTags"]]
    assert tagging["Condition"]["StringEquals"]["ec2:CreateAction"] == ["RegisterImage", "RunInstances"]
    assert ending and all(one["Condition"] == {"Null": {"aws:ResourceTag/clonejob-id": "false"}} for one in ending)


def test_the_generated_page_is_that_of_the_code():
    text = (ROOT / "docs" / "ec2_fields.md").read_text()
    assert text == coverage.page(), "run: make docs-generated"
    assert json.loads(text.split("```json\n")[1].split("```")[0]) == policy()

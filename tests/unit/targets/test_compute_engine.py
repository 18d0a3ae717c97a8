"""ComputeEngineTargetDetails as bodies of the API: every field has an effect, a refusal, or a reason."""

import json
import subprocess
import sys

import pytest
from compute_world import Specs
from google.cloud import vmmigration_v1
from standins.compute_engine.discovery import BadRequest, compute_v1
from standins.compute_engine.server import PROJECT, ZONE

from pathlib import Path

from targets.base import BootImageSpec, Owner, ResourceKind, ResourceRef, Snapshot
from targets.compute_engine.checks import check_spec
from targets.compute_engine.coverage import DISKS_FIELDS, FIELDS, document
from targets.compute_engine.errors import AlreadyExistsError, NotFoundError, api_error, operation_error
from targets.compute_engine.mapping import disk_body, image_body, instance_body
from targets.compute_engine.options import ComputeEngineOptions
from targets.compute_engine.references import source_of
from targets.errors import RefusedError, SourceGoneError, TransientError, UnsupportedError
from targets.registry import options_of

SNAPSHOT = f"projects/{PROJECT}/global/snapshots/s"
SPECS = Specs(SNAPSHOT)
OPTIONS = ComputeEngineOptions(project=PROJECT, zone=ZONE)
KEY = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
POOL = f"projects/{PROJECT}/zones/{ZONE}/storagePools/pool"
LICENSE = "projects/windows-cloud/global/licenses/windows-server-2022-dc"
EFI = {"bootOption": "COMPUTE_ENGINE_BOOT_OPTION_EFI"}
# One value for each field that changes a body, by its place in the message.
SAMPLES = {
    "machineType": {"machineType": "n2-standard-4"},
    "networkTags": {"networkTags": ["web"]},
    "networkInterfaces": {"networkInterfaces": [{}, {}]},
    "networkInterfaces.network": {"networkInterfaces": [{"network": "projects/p/global/networks/lab"}]},
    "networkInterfaces.subnetwork": {"networkInterfaces": [{"subnetwork": "lab-eu"}]},
    "networkInterfaces.internalIp": {"networkInterfaces": [{"internalIp": "10.0.0.9"}]},
    "networkInterfaces.externalIp": {"networkInterfaces": [{"externalIp": "ephemeral"}]},
    "serviceAccount": {"serviceAccount": "clone@p.iam.gserviceaccount.com"},
    "diskType": {"diskType": "COMPUTE_ENGINE_DISK_TYPE_SSD"},
    "labels": {"labels": {"team": "blue"}},
    "computeScheduling": {"computeScheduling": {"onHostMaintenance": "TERMINATE"}},
    "computeScheduling.onHostMaintenance": {"computeScheduling": {"onHostMaintenance": "MIGRATE"}},
    "computeScheduling.restartType": {"computeScheduling": {"restartType": "NO_AUTOMATIC_RESTART"}},
    "computeScheduling.nodeAffinities": {"computeScheduling": {"nodeAffinities": [{"key": "k", "values": ["v"]}]}},
    "secureBoot": {"secureBoot": True, **EFI},
    "enableVtpm": {"enableVtpm": True},
    "enableIntegrityMonitoring": {"enableIntegrityMonitoring": True},
    "bootOption": EFI,
    "metadata": {"metadata": {"startup-script": "true"}},
    "additionalLicenses": {"additionalLicenses": [LICENSE]},
    "hostname": {"hostname": "web-1.lab.internal"},
    "encryption": {"encryption": {"kmsKey": KEY}},
    "encryption.kmsKey": {"encryption": {"kmsKey": KEY}},
    "diskReplicaZones": {"diskReplicaZones": ["europe-west1-c"]},
    "storagePool": {"storagePool": POOL},
}
# Fields whose effect shows only beside another one.
BESIDE = {
    "networkInterfaces.networkTier": (
        {"networkInterfaces": [{"externalIp": "ephemeral"}]},
        {"networkInterfaces": [{"externalIp": "ephemeral", "networkTier": "NETWORK_TIER_STANDARD"}]},
    ),
    "computeScheduling.minNodeCpus": (
        {"computeScheduling": {"nodeAffinities": [{"key": "k"}]}},
        {"computeScheduling": {"nodeAffinities": [{"key": "k"}], "minNodeCpus": 4}},
    ),
    **{
        f"computeScheduling.nodeAffinities.{field}": (
            {"computeScheduling": {"nodeAffinities": [{}]}},
            {"computeScheduling": {"nodeAffinities": [{field: value}]}},
        )
        for field, value in (("key", "k"), ("operator", "NOT_IN"), ("values", ["v"]))
    },
}
REFUSED = {
    "zone": {"zone": "europe-west1-c"},
    "machineTypeSeries": {"machineTypeSeries": "n2", "machineType": "e2-small"},
    "bootConversion": {"bootConversion": "BIOS_TO_EFI"},
    "licenseType": {"licenseType": "COMPUTE_ENGINE_LICENSE_TYPE_PAYG"},
}


def bodies(details, options=OPTIONS):
    """Image, disk and instance of a job with these details; each is one that the published description allows."""
    made = [
        ("global/images", image_body(SPECS.image(**details), options)),
        (
            f"regions/{options.region}/disks" if details.get("diskReplicaZones") else f"zones/{ZONE}/disks",
            disk_body(SPECS.disk(image="c-adapted", **details), options),
        ),
        (f"zones/{ZONE}/instances", instance_body(SPECS.instance(**details), options, lambda *_: "10.9.9.9")),
    ]
    for place, body in made:
        compute_v1().check("POST", f"/compute/v1/projects/{PROJECT}/{place}", {}, json.dumps(body).encode())
    return [body for _, body in made]


def message_fields(descriptor, prefix=""):
    for field in descriptor.fields:
        yield prefix + field.json_name
        inner = field.message_type
        if inner is not None and not inner.GetOptions().map_entry:
            yield from message_fields(inner, f"{prefix}{field.json_name}.")


def test_each_field_of_the_message_has_a_line_and_each_line_a_field():
    found = list(message_fields(vmmigration_v1.ComputeEngineTargetDetails.pb().DESCRIPTOR))
    assert sorted(found) == sorted(FIELDS)


def test_each_field_of_a_disks_target_has_a_line():
    """What lies below a message that the VM's own details have too stands there."""
    shared = ("networkInterfaces", "computeScheduling", "encryption")
    found = list(message_fields(vmmigration_v1.ComputeEngineDisksTargetDefaults.pb().DESCRIPTOR))
    assert sorted(each for each in found if each.split(".")[-2:-1] not in [[name] for name in shared]
                  and "computeScheduling." not in each) == sorted(DISKS_FIELDS)  # fmt: skip


def test_each_line_is_true():
    explained = {field for field, text in FIELDS.items() if text.startswith("not mapped")}
    assert explained | {"vmName"} | set(SAMPLES) | set(BESIDE) | set(REFUSED) == set(FIELDS)
    assert not explained & (set(SAMPLES) | set(BESIDE) | set(REFUSED))


def test_the_page_is_the_generated_one():
    assert Path(__file__).parents[3].joinpath("docs/compute_engine.md").read_text() == document()


@pytest.mark.parametrize("field", list(SAMPLES))
def test_a_mapped_field_changes_what_is_sent(field):
    value = next(iter(SAMPLES[field].items()))
    vmmigration_v1.ComputeEngineTargetDetails.from_json(json.dumps(dict([value])))  # the contract's own words
    check_spec(SPECS.instance(**SAMPLES[field]), OPTIONS)
    assert bodies(SAMPLES[field]) != bodies({})


@pytest.mark.parametrize("field", list(BESIDE))
def test_a_field_that_needs_another_changes_what_is_sent_beside_it(field):
    without, with_it = BESIDE[field]
    assert bodies(with_it) != bodies(without)


@pytest.mark.parametrize("field", list(REFUSED))
def test_what_cannot_be_done_is_refused(field):
    with pytest.raises(UnsupportedError):
        check_spec(SPECS.instance(**REFUSED[field]), OPTIONS)


def test_everything_at_once():
    details = {
        "machineType": "n2-standard-2", "machineTypeSeries": "n2", "zone": ZONE, "labels": {"clonejob-id": "not-mine"},
        "networkInterfaces": [{
            "network": "lab", "subnetwork": "lab-eu",
            "internalIp": "projects/p/regions/europe-west1/addresses/inner", "externalIp": "34.1.2.3",
            "networkTier": "NETWORK_TIER_PREMIUM",
        }],
        "computeScheduling": {"onHostMaintenance": "TERMINATE", "restartType": "AUTOMATIC_RESTART",
                              "nodeAffinities": [{"key": "k", "operator": "IN", "values": ["a"]}], "minNodeCpus": 2},
        "secureBoot": True, "enableVtpm": True, **EFI, "licenseType": "COMPUTE_ENGINE_LICENSE_TYPE_BYOL",
        "additionalLicenses": [LICENSE], "encryption": {"kmsKey": KEY}, "diskReplicaZones": ["europe-west1-c"],
    }  # fmt: skip
    options = ComputeEngineOptions(project=PROJECT, zone=ZONE, licenses={"BYOL": ["projects/x/global/licenses/byol"]})
    check_spec(SPECS.instance(**details), options)
    image, disk, instance = bodies(details, options)
    assert image["sourceSnapshot"] == SNAPSHOT and image["imageEncryptionKey"] == {"kmsKeyName": KEY}
    assert image["licenses"] == disk["licenses"] == ["projects/x/global/licenses/byol", LICENSE]
    assert image["guestOsFeatures"] == disk["guestOsFeatures"] == [{"type": "UEFI_COMPATIBLE"}]
    assert disk["sourceImage"] == f"projects/{PROJECT}/global/images/c-adapted"
    assert disk["replicaZones"] == [f"projects/{PROJECT}/zones/europe-west1-{each}" for each in "bc"]
    assert disk["type"] == f"projects/{PROJECT}/regions/europe-west1/diskTypes/pd-standard"
    assert disk["labels"] == instance["labels"] == {"clonejob-id": "job-1", "clonejob-epoch": "1"}
    [nic] = instance["networkInterfaces"]
    assert nic["networkIP"] == "10.9.9.9" and nic["subnetwork"].endswith("regions/europe-west1/subnetworks/lab-eu")
    assert nic["accessConfigs"][0] | {"natIP": "34.1.2.3", "networkTier": "PREMIUM"} == nic["accessConfigs"][0]
    assert instance["scheduling"]["automaticRestart"] is True and instance["scheduling"]["minNodeCpus"] == 2
    assert instance["disks"] == [
        {"source": f"projects/{PROJECT}/regions/europe-west1/disks/c-disk0", "boot": True, "autoDelete": False,
         "deviceName": "disk-0"}
    ]  # fmt: skip


def test_a_data_disk_has_neither_licence_nor_guest_features():
    body = disk_body(SPECS.disk(number=1, additionalLicenses=[LICENSE], **EFI), OPTIONS)
    assert "licenses" not in body and "guestOsFeatures" not in body and body["sourceSnapshot"] == SNAPSHOT


def test_os_adaptation_is_a_policy():
    details = {"additionalLicenses": [LICENSE], **EFI}
    plain = image_body(SPECS.image(**details), OPTIONS.model_copy(update={"os_adaptation": "skip"}))
    assert "licenses" not in plain and "guestOsFeatures" not in plain
    with pytest.raises(UnsupportedError, match="os_adaptation of this target is required"):
        check_spec(SPECS.image(), OPTIONS.model_copy(update={"os_adaptation": "required"}))


@pytest.mark.parametrize(
    "spec",
    [
        SPECS.disk(name="Upper"),
        SPECS.disk(name="x" * 64),
        SPECS.instance(name="1-vm"),
        SPECS.instance(labels={"Team": "blue"}),
        SPECS.disk(labels={"team": "Blue"}),
        SPECS.instance(labels={f"l{number}": "" for number in range(63)}),
        SPECS.instance(hostname="web-1"),
        SPECS.instance(secureBoot=True),
        SPECS.instance(machineTypeSeries="c3"),
        SPECS.disk(diskType="NO_SUCH"),
        SPECS.disk(diskReplicaZones=["us-central1-a"]),
        BootImageSpec(ResourceRef(ResourceKind.BOOT_IMAGE, "b"), Owner("job-1", 1), (SPECS.snapshot,)),
    ],
)
def test_what_is_illegal_is_told_before_anything_is_made(spec):
    with pytest.raises(UnsupportedError) as error:
        check_spec(spec, OPTIONS)
    assert len(str(error.value)) > 30


@pytest.mark.parametrize(
    ("key", "collection"),
    [
        (SNAPSHOT, "snapshots"),
        ("projects/p/regions/europe-west1/snapshots/s", "snapshots"),
        ("https://www.googleapis.com/compute/v1/projects/example.com:p/global/images/i", "images"),
    ],
)
def test_references(key, collection):
    source = source_of(Snapshot(key, "reference", 1, ""))
    assert source.collection == collection and source.path.startswith("projects/")


@pytest.mark.parametrize(
    ("key", "format_"),
    [("snap-0123", "reference"), ("projects/p/global/images/family/f", "reference"), ("cycle-1/disk0", "raw"),
     ("cycle-1/disk0", "qcow2"), ("projects/p/regions/r/images/i", "reference")],
)  # fmt: skip
def test_what_is_no_reference_of_compute_engine_is_refused_and_told_what_to_do(key, format_):
    with pytest.raises(UnsupportedError, match="(?i)register"):
        source_of(Snapshot(key, format_, 1, ""))


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (403, "rateLimitExceeded", TransientError), (429, "", TransientError), (503, "backendError", TransientError),
        (500, "", TransientError), (400, "resourceInUseByAnotherResource", TransientError),
        (400, "resourceNotReady", TransientError), (403, "quotaExceeded", RefusedError), (403, "forbidden", RefusedError),
        (400, "invalid", RefusedError), (401, "authError", RefusedError), (412, "conditionNotMet", RefusedError),
        (409, "alreadyExists", AlreadyExistsError), (404, "notFound", NotFoundError),
    ],
)  # fmt: skip
def test_errors_are_sorted_and_keep_their_words(status, reason, kind):
    error = api_error(status, reason, "Quota 'CPUS' exceeded.")
    assert isinstance(error, kind) and "Quota 'CPUS' exceeded." in str(error)


@pytest.mark.parametrize(
    ("code", "kind"),
    [("QUOTA_EXCEEDED", RefusedError), ("PERMISSIONS_ERROR", RefusedError), ("RESOURCE_NOT_FOUND", SourceGoneError),
     ("ZONE_RESOURCE_POOL_EXHAUSTED", TransientError), ("INTERNAL_ERROR", TransientError)],
)  # fmt: skip
def test_what_operations_end_in_is_sorted(code, kind):
    failed = {"status": "DONE", "error": {"errors": [{"code": code, "message": f"about {SNAPSHOT}"}]}}
    error = operation_error(failed, SNAPSHOT)
    assert isinstance(error, kind) and SNAPSHOT in str(error)
    assert operation_error({"status": "DONE"}) is None


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint": "http://example.com"}, {"endpoint": "ftp://127.0.0.1"}, {"endpoint": "127.0.0.1:1"},
        {"zone": "europe"}, {"project": "No"}, {"boot_pattern": "("}, {"os_adaptation": "maybe"}, {"unknown": 1},
        {"licenses": {"OTHER": []}},
    ],
)  # fmt: skip
def test_options_that_cannot_be_used_are_refused(options):
    with pytest.raises(ValueError):
        options_of("compute_engine", {"project": PROJECT, "zone": ZONE, **options})


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:1", "http://localhost:1/", "http://[::1]:1", "https://x.example"]
)
def test_endpoints_that_may_be_used(endpoint):
    assert options_of("compute_engine", {"project": PROJECT, "zone": ZONE, "endpoint": endpoint}).endpoint


def test_the_settings_import_no_sdk():
    code = (
        "import sys, targets.registry as r, worker.settings;"
        f"r.options_of('compute_engine', {{'project': '{PROJECT}', 'zone': '{ZONE}'}});"
        "sys.exit('google.cloud.compute_v1' in sys.modules or 'google.api_core' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0


def test_without_the_library_it_says_what_to_install(monkeypatch, tmp_path):
    import importlib.util

    from targets.registry import Place
    from targets.snapshot_store import FileSnapshotStore

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"pip install 'clonejob\[compute-engine\]'"):
        OPTIONS.make(Place("gce", tmp_path, FileSnapshotStore(tmp_path), 30))


@pytest.mark.parametrize(
    ("verb", "path", "query", "body"),
    [
        ("POST", f"zones/{ZONE}/disks", {}, {"name": "d", "colour": "red"}),
        ("POST", f"zones/{ZONE}/disks", {}, {"name": "d", "sizeGb": 10}),
        ("POST", f"zones/{ZONE}/disks", {}, {"name": "d", "selfLink": "x"}),
        ("POST", f"zones/{ZONE}/disks", {}, {"name": "D"}),
        ("POST", f"zones/{ZONE}/disks", {}, {}),
        ("POST", f"zones/{ZONE}/disks", {"requestid": ["x"]}, {"name": "d"}),
        ("POST", f"zones/{ZONE}/instances", {}, {"name": "i", "disks": [{"autoDelete": "no"}]}),
        ("POST", f"zones/{ZONE}/instances", {}, {"name": "i", "scheduling": {"onHostMaintenance": "NEVER"}}),
        ("GET", f"zones/{ZONE}/disks", {"maxResults": ["many"]}, None),
        ("GET", f"zones/{ZONE}/disks/Upper", {}, None),
        ("GET", f"zones/{ZONE}/disks/d", {}, {"a": 1}),
    ],
)
def test_the_stand_in_refuses_what_the_description_does_not_know(verb, path, query, body):
    raw = b"" if body is None else json.dumps(body).encode()
    with pytest.raises(BadRequest):
        compute_v1().check(verb, f"/compute/v1/projects/{PROJECT}/{path}", query, raw)


@pytest.mark.parametrize(
    ("verb", "path"), [("PUT", f"zones/{ZONE}/disks/d"), ("GET", "zones"), ("GET", "nothing/here")]
)
def test_the_stand_in_knows_no_other_paths(verb, path):
    with pytest.raises(LookupError):
        compute_v1().check(verb, f"/compute/v2/projects/{PROJECT}/{path}", {}, b"")
    if path != "zones":
        with pytest.raises(LookupError):
            compute_v1().check(verb, f"/compute/v1/projects/{PROJECT}/{path}", {}, b"")

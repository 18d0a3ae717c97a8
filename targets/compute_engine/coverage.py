"""What becomes of each field of ComputeEngineTargetDetails: the table in docs/compute_engine.md is made from here.

A test goes through the contract's own message and fails for a field that has no line.
"""

from __future__ import annotations

import sys

# Field of the message -> what it becomes. A line that begins with "not mapped" says why nothing is made of it.
FIELDS: dict[str, str] = {
    "vmName": "`name` of the instance, and the stem of the disks' names",
    "project": "not mapped: the service's name of this target; the Google Cloud project is the target's option `project`",
    "zone": "must be the target's option `zone`, or empty: one target is one zone. Otherwise refused before anything is made",
    "machineTypeSeries": "must be the series of the machine type that is used. Otherwise refused",
    "machineType": "`machineType` of the instance; empty: the target's option `machine_type`",
    "networkTags": "`tags.items` of the instance",
    "networkInterfaces": "`networkInterfaces` of the instance; none: one in the target's options `network` and `subnetwork`, "
    "or in `default`",
    "networkInterfaces.network": "`network`; a short name is one of the target's project",
    "networkInterfaces.subnetwork": "`subnetwork`; a short name is one of the target's project and region",
    "networkInterfaces.internalIp": "`networkIP`; a reserved address is looked up; `ephemeral` or empty: any",
    "networkInterfaces.externalIp": "`accessConfigs`, with `natIP` for an address or a reserved one; empty: no external IP",
    "networkInterfaces.networkTier": "`accessConfigs.networkTier`, where there is an external IP",
    "serviceAccount": "`serviceAccounts`, with the scope cloud-platform: what it may do is for IAM",
    "diskType": "`type` of each disk; empty: pd-standard, as the contract says",
    "labels": "`labels` of the instance and of each disk, besides clonejob-id and clonejob-epoch",
    "licenseType": "`licenses` of the boot disk and of the adapted image, by the target's option `licenses`. PAYG without any "
    "licence is refused",
    "appliedLicense": "not mapped: an answer of the contract's own adaptation; nothing here reports one",
    "appliedLicense.type": "not mapped: as above",
    "appliedLicense.osLicense": "not mapped: as above",
    "computeScheduling": "`scheduling` of the instance",
    "computeScheduling.onHostMaintenance": "`scheduling.onHostMaintenance`",
    "computeScheduling.restartType": "`scheduling.automaticRestart`",
    "computeScheduling.nodeAffinities": "`scheduling.nodeAffinities`",
    "computeScheduling.nodeAffinities.key": "`key`",
    "computeScheduling.nodeAffinities.operator": "`operator`",
    "computeScheduling.nodeAffinities.values": "`values`",
    "computeScheduling.minNodeCpus": "`scheduling.minNodeCpus`, with node affinities; without them it is ignored, as the "
    "contract says",
    "secureBoot": "`shieldedInstanceConfig.enableSecureBoot`; refused unless `bootOption` is EFI, as the contract says",
    "enableVtpm": "`shieldedInstanceConfig.enableVtpm`",
    "enableIntegrityMonitoring": "`shieldedInstanceConfig.enableIntegrityMonitoring`",
    "bootOption": "EFI: the guest feature UEFI_COMPATIBLE of the boot disk and of the adapted image",
    "metadata": "`metadata.items` of the instance",
    "additionalLicenses": "`licenses` of the boot disk and of the adapted image",
    "hostname": "`hostname` of the instance; must be fully qualified. Empty: Compute Engine's own",
    "encryption": "the key of each disk and of the adapted image",
    "encryption.kmsKey": "`diskEncryptionKey.kmsKeyName`, `imageEncryptionKey.kmsKeyName`",
    "bootConversion": "BIOS_TO_EFI is refused: nobody can convert a disk here that lies at the provider",
    "adaptationModifiers": "not mapped: modify an adaptation that nobody can do offline here. With `os_adaptation` required such a job is "
    "refused; otherwise they are in the plan and change nothing",
    "adaptationModifiers.modifier": "not mapped: as above",
    "adaptationModifiers.value": "not mapped: as above",
    "diskReplicaZones": "regional disks, with `replicaZones`: the target's zone and these",
    "storagePool": "`storagePool` of each disk",
}

_INTRO = """\
# Compute Engine

Generated from `targets/compute_engine/coverage.py` by `make docs-generated`.

A target of type `compute_engine` makes clones in one project and zone, from snapshots or images that lie at Compute Engine
already. Its library is an extra: `pip install 'clonejob[compute-engine]'`.

```sh
export CLONEJOB_TARGETS='{"gce": {"type": "compute_engine", "project": "my-project", "zone": "europe-west1-b"}}'
clonejob vm import web-1 --target gce --reference 0=projects/my-project/global/snapshots/web-1 --size 0=10737418240
clonejob submit web-1 --wait
```

Credentials are Application Default Credentials, or the service account of `credentials_file`. They need, in the project,
get, list, create and delete of disks, instances and images, get and list of operations, `compute.instances.start`,
`getSerialPortOutput` and `getScreenshot`; use of snapshots, images, networks and the service account that are named.

- **Nothing is waited for.** An insert is started with a request id derived from the job, and a step comes back to look. A
  repeated call gets the operation of the first.
- **What exists is asked by name** with a get, which is consistent; a list may be old and serves the auditor only. While
  an insert is under way that no get shows yet, a name does not count as free.
- **Every delete names the numeric id** that was seen with our label a moment before, so it cannot hit what a user made anew
  under the name.
- **Errors**: 429, 5xx, `rateLimitExceeded`, a resource that is busy and a zone without capacity are tried again; a quota that
  is used up, a permission and a bad value end the job, with the API's own words; 404 of the snapshot says that it is gone.
- **After success** nothing is touched. The instance's disks have `autoDelete: false`: deleting the instance leaves them, and
  they carry the label clonejob-id. `gcloud compute disks list --filter=labels.clonejob-id:*` shows them.
- **There is no tombstone**: a project has no place for one. See the residual window in [guarantee.md](guarantee.md).
- **OS adaptation** cannot be done offline. `os_adaptation` says what becomes of the step: `best_effort` (an image of the boot
  disk with licences and guest features), `skip` (a plain one), `required` (the job is refused before anything is made).
- **Boot evidence** is the serial console against `boot_pattern`; a screenshot (JPEG) needs `virtual_display`.

## ComputeEngineTargetDetails

| field | what becomes of it |
|---|---|
"""


def document() -> str:
    """The page."""
    return _INTRO + "".join(f"| `{field}` | {text} |\n" for field, text in FIELDS.items())


if __name__ == "__main__":
    sys.stdout.write(document())

"""What becomes of each field of ComputeEngineTargetDetails and of ComputeEngineDisksTargetDefaults: the tables in
docs/compute_engine.md are made from here.

A test goes through the contract's own messages and fails for a field that has no line.
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

# The same for a VM with compute_engine_disks_target_defaults.
_VM = "vmTargetDefaults"
DISKS_FIELDS: dict[str, str] = {
    "zone": "must be the target's option `zone`, or empty, as above",
    "disksTargetDefaults": "the disks are the clone: the job has no instance, and ends with them",
    _VM: "a new VM that the disks are attached to",
    f"{_VM}.vmName": "`name` of the instance; required",
    f"{_VM}.machineTypeSeries": "must be the series of the machine type",
    f"{_VM}.machineType": "`machineType` of the instance; required",
    f"{_VM}.networkTags": "`tags.items` of the instance",
    f"{_VM}.networkInterfaces": "`networkInterfaces` of the instance, field by field as above",
    f"{_VM}.serviceAccount": "`serviceAccounts`, as above",
    f"{_VM}.computeScheduling": "`scheduling` of the instance, field by field as above",
    f"{_VM}.secureBoot": "`shieldedInstanceConfig.enableSecureBoot`; refused where the VM boots from a disk of the source, for "
    "nothing says that it is EFI",
    f"{_VM}.enableVtpm": "`shieldedInstanceConfig.enableVtpm`",
    f"{_VM}.enableIntegrityMonitoring": "`shieldedInstanceConfig.enableIntegrityMonitoring`",
    f"{_VM}.metadata": "`metadata.items` of the instance",
    f"{_VM}.additionalLicenses": "`licenses` of the disk that the VM boots from",
    f"{_VM}.hostname": "`hostname` of the instance, as above",
    f"{_VM}.labels": "`labels` of the instance, besides clonejob-id and clonejob-epoch; disks have labels of their own",
    f"{_VM}.bootDiskDefaults": "one more disk, made first and attached as the boot disk; without it the VM boots from disk 0 "
    "of the source, which must be among `disks` then",
    f"{_VM}.bootDiskDefaults.image": "what it is made from",
    f"{_VM}.bootDiskDefaults.image.sourceImage": "`sourceImage` of the boot disk; required; a family is refused, because it "
    "is not fixed",
    f"{_VM}.bootDiskDefaults.diskName": "`name` of the boot disk; empty: one derived from the job",
    f"{_VM}.bootDiskDefaults.diskType": "`type` of the boot disk; empty: pd-standard",
    f"{_VM}.bootDiskDefaults.deviceName": "`deviceName` in the instance's `disks`",
    f"{_VM}.bootDiskDefaults.encryption": "`diskEncryptionKey.kmsKeyName` of the boot disk",
    f"{_VM}.encryption": "`instanceEncryptionKey.kmsKeyName` of the instance",
    "targetProject": "the target that the disks are made on",
    "disks": "the source's disks that are made; none: all of the replication cycle. One that it lacks is refused when a clone "
    "is asked for",
    "disks.sourceDiskNumber": "which of the cycle's disks it is made from; none twice",
    "disks.diskName": "`name` of the disk; empty: one derived from the job",
    "disks.diskType": "`type` of the disk; empty: pd-standard",
    "disks.additionalLabels": "`labels` of the disk, besides clonejob-id and clonejob-epoch",
    "disks.encryption": "`diskEncryptionKey.kmsKeyName` of the disk",
    "disks.vmAttachmentDetails": "how the disk is attached; refused without `vmTargetDefaults`",
    "disks.vmAttachmentDetails.deviceName": "`deviceName` in the instance's `disks`; empty: `disk-N` by its place",
}

_DISKS_INTRO = """
## ComputeEngineDisksTargetDefaults

A VM may have `compute_engine_disks_target_defaults` instead: its disks are made, alone or attached to a new VM, and no guest is
adapted. They are products: after success nobody touches them, and a job that fails or is cancelled removes them. The job
shows them in `compute_engine_disks_target_details` once they are made, such as `projects/P/zones/Z/disks/D`. The same goes
for the targets `simulated` and `qemu`, without images of their own to boot from on `qemu`; `ec2` makes no disks apart from
instances and refuses it with FAILED_PRECONDITION.

| field | what becomes of it |
|---|---|
"""

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
    return _INTRO + _rows(FIELDS) + _DISKS_INTRO + _rows(DISKS_FIELDS)


def _rows(fields: dict[str, str]) -> str:
    return "".join(f"| `{field}` | {text} |\n" for field, text in fields.items())


if __name__ == "__main__":
    sys.stdout.write(document())

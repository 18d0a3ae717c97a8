"""Compute Engine's states as those of a target."""

from __future__ import annotations

from targets.base import Status

DISK = {
    "CREATING": Status.CREATING,
    "RESTORING": Status.CREATING,
    "READY": Status.READY,
    "UNAVAILABLE": Status.CREATING,  # a regional disk whose zone is out: it comes back
    "FAILED": Status.FAILED,
    "DELETING": Status.DELETING,
}
IMAGE = {
    "PENDING": Status.CREATING,
    "READY": Status.READY,
    "FAILED": Status.FAILED,
    "DELETING": Status.DELETING,
}
INSTANCE = {
    "PENDING": Status.CREATING,
    "PROVISIONING": Status.CREATING,
    "STAGING": Status.CREATING,
    "REPAIRING": Status.CREATING,
    "RUNNING": Status.READY,
    "PENDING_STOP": Status.STOPPED,
    "STOPPING": Status.STOPPED,  # or it is being deleted: only the operation tells
    "SUSPENDING": Status.STOPPED,
    "SUSPENDED": Status.STOPPED,
    "STOPPED": Status.STOPPED,
    "TERMINATED": Status.STOPPED,
    "DEPROVISIONING": Status.DELETING,
}

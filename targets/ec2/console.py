"""What the guest has shown: EC2's console output, and its status checks as a hint."""

from __future__ import annotations

import re

from targets.base import BootReport, BootVerdict
from targets.ec2.client import Calls
from targets.ec2.errors import MissingError
from targets.errors import RefusedError

_MOST_CHARACTERS = 4096
_GAVE_UP = re.compile(r"No bootable device|Kernel panic - not syncing|error: no such device|grub rescue>|Boot Failed")


def boot_report(calls: Calls, instance_id: str, booted: re.Pattern[str]) -> BootReport:
    """A verdict from the console alone; the status checks only say that the instance answers. Raises: TargetError."""
    text = _console(calls, instance_id)
    shown, hint = text[-_MOST_CHARACTERS:], _status_checks(calls, instance_id)
    if booted.search(text):
        return BootReport(BootVerdict.BOOTED, shown, detail=hint)
    if found := _GAVE_UP.search(text):
        return BootReport(BootVerdict.NO_BOOT, shown, detail=f"the console says {found[0]!r}; {hint}")
    return BootReport(BootVerdict.WAITING, shown, detail=hint)


def _console(calls: Calls, instance_id: str) -> str:
    try:
        answer = calls("get_console_output", InstanceId=instance_id, Latest=True)
    except MissingError:
        return ""
    except RefusedError as error:
        if "UnsupportedOperation" not in str(error):
            raise
        answer = calls("get_console_output", InstanceId=instance_id)  # not on Nitro: what was kept at the last change
    return str(answer.get("Output", ""))


def _status_checks(calls: Calls, instance_id: str) -> str:
    found = calls.pages(
        "describe_instance_status", "InstanceStatuses", InstanceIds=[instance_id], IncludeAllInstances=True
    )
    if not found:
        return "no status checks yet"
    one = found[0]
    return (f"status checks: system {one.get('SystemStatus', {}).get('Status', 'unknown')}, "
            f"instance {one.get('InstanceStatus', {}).get('Status', 'unknown')}")  # fmt: skip

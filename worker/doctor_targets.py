"""What ``clonejob doctor`` says of the configured targets."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

from targets.errors import TransientError
from targets.qemu_accel import found_before
from targets.qemu_options import QemuOptions
from targets.registry import Finding
from worker.doctor_check import QEMU, Check
from worker.settings import Settings, TargetSettings
from worker.vmhost import client_of


def target_checks(settings: Settings) -> Iterator[Check]:
    """Whether each configured target can be used here, as far as that can be seen without using it."""
    for name, target in settings.targets.items():
        options = target.options
        found = [_of_finding(name, finding) for finding in options.findings()]
        yield from found
        if isinstance(options, QemuOptions):
            qemu = _qemu(settings, name, target, options)
            if qemu.status != "ok" or not found:
                yield qemu
        elif not found:
            yield Check(f"target {name}", "ok", _seen(target))


def _of_finding(name: str, finding: Finding) -> Check:
    return Check(f"target {name}", "fail" if finding.is_certain else "warn", finding.detail, finding.action)


def _seen(target: TargetSettings) -> str:
    if not target.options.is_billable:
        return target.type
    return f"{target.type}; whether the provider lets us in, only a call to it tells"


def _qemu(settings: Settings, name: str, target: TargetSettings, options: QemuOptions) -> Check:
    label = f"target {name}"
    if options.vmhost:
        return _vmhost(settings, name)
    if shutil.which(QEMU) is None or shutil.which("qemu-img") is None:
        return Check(label, "fail", "QEMU is not installed", "install QEMU; see above")
    if options.accel == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Check(label, "fail", "accel kvm, but /dev/kvm cannot be opened", "join group kvm, or use accel auto")
    if options.accel == "auto":
        found = found_before(settings.data_dir / "targets" / name)
        said = f"{found.accel} ({found.why})" if found else "not tried yet; the first machine tells"
        return Check(label, "ok", f"qemu, accel auto: {said}")
    if options.accel == "tcg" and os.access("/dev/kvm", os.R_OK | os.W_OK):
        tried = settings.targets | {name: target.model_copy(update={"accel": "auto"})}
        shown = {each: value.model_dump(exclude_defaults=True) for each, value in tried.items()}
        value = json.dumps(shown, separators=(",", ":"))
        return Check(
            label,
            "ok",
            "qemu, accel tcg; there is a /dev/kvm: to use it if a machine boots under it, start the service with "
            f"CLONEJOB_TARGETS='{value}'",
        )
    return Check(label, "ok", f"qemu, accel {options.accel}")


def _vmhost(settings: Settings, name: str) -> Check:
    """Its machines are another container's: what matters is whether that answers."""
    try:
        answer = client_of(settings, name).ping()
    except TransientError as error:
        detail, _, action = str(error).partition("; ")
        return Check(f"target {name}", "fail", detail, action or "look at the vmhost's log")
    return Check(f"target {name}", "ok", f"qemu, vmhost {answer['version']} answers, {answer['machines']} machines run")

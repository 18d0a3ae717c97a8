"""What a clone showed when its job watched it boot, and which of a VM's snapshots were proven to boot."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from models.boot_proofs import Proof
from models.schema import CloneJob, MigratingVm
from models.states import TERMINAL
from targets.base import BootVerdict
from tasks.errors import NotFound
from tasks.evidence import CONSOLE, SCREEN, SUMMARY
from tasks.runtime import Runtime
from tasks.services.common import must_get

Part = Literal["console", "screenshot"]
_FILES: Mapping[Part, str] = {"console": CONSOLE, "screenshot": SCREEN}
_MOST_PROOFS = 1000
_NOT_KEPT = "the worker that watched it kept none"


@dataclass(frozen=True, slots=True)
class EvidenceFile:
    """A file that was kept."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of the clone of ``job``. ``missing`` says why a part has no file; seconds run from its start."""

    job: str
    verdict: str
    seconds: float | None
    first_output_seconds: float | None
    detail: str
    time: dt.datetime | None
    required: bool
    console: EvidenceFile | None
    screenshot: EvidenceFile | None
    summary: EvidenceFile | None
    console_end: str
    missing: Mapping[str, str]


class EvidenceService:
    """Reads the row for what was seen, and the data folder for the files that it names."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def get(self, name: str) -> Evidence:
        """The evidence of a job. Raises: NotFound, which says why there is none, or none yet."""
        job = must_get(self._runtime.catalog, CloneJob, name)
        boot = self._boot_of(job)
        files = {part: _file(boot, file) for part, file in _FILES.items()}
        missing: dict[str, str] = {
            part: str((boot.get("missing") or {}).get(_FILES[part], _NOT_KEPT))
            for part, found in files.items()
            if found is None
        }
        time = boot.get("time")
        return Evidence(
            job.name,
            str(boot["verdict"]),
            boot.get("seconds"),
            boot.get("firstOutputSeconds"),
            str(boot.get("detail") or ""),
            None if time is None else dt.datetime.fromisoformat(time),
            bool(boot.get("required")),
            files["console"],
            files["screenshot"],
            _file(boot, SUMMARY),
            str(boot.get("console") or ""),
            missing,
        )

    def read(self, name: str, part: Part) -> tuple[bytes, str]:
        """A file of the evidence and its SHA-256, after it was compared. Raises: NotFound, which says why."""
        found = self.get(name)
        file = found.console if part == "console" else found.screenshot
        what = f"{name}/evidence/{part}"
        if file is None:
            raise NotFound("Evidence", what, f": {found.missing[part]}")
        job = must_get(self._runtime.catalog, CloneJob, name)
        content = self._runtime.evidence.read(job.id, _FILES[part], file.sha256)
        if content is None:
            raise NotFound("Evidence", what, f": the data folder of this API process has no {_FILES[part]} with the SHA-256 "
                                             f"on record, {file.sha256}; is it the workers' data folder?")  # fmt: skip
        return content, file.sha256

    def proofs(self, vm_name: str) -> Sequence[Proof]:
        """What the VM's clones have shown of its snapshots, newest first, the last 1000. Raises: NotFound."""
        must_get(self._runtime.catalog, MigratingVm, vm_name)
        return self._runtime.catalog.boot_proofs(vm_name, _MOST_PROOFS)

    @staticmethod
    def _boot_of(job: CloneJob) -> dict[str, Any]:
        found = [step.progress.get("boot") for step in job.steps]
        boot = next((each for each in reversed(found) if each), None)
        if boot is not None and boot.get("verdict") != BootVerdict.WAITING:
            return dict(boot)
        if job.state in TERMINAL:
            hint = f": the job ended {job.state} before its clone had shown whether it boots"
        else:
            hint = " yet: the clone has not shown whether it boots"
        raise NotFound("Evidence", f"{job.name}/evidence", hint)


def _file(boot: Mapping[str, Any], name: str) -> EvidenceFile | None:
    found = (boot.get("files") or {}).get(name)
    return None if found is None else EvidenceFile(found["sha256"], found["sizeBytes"])

"""Which snapshots of a VM were proven to boot, by which job. Written by ``models/store`` with the verdict on the boot."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from models.schema import Base, CloneJob


class BootProof(Base):
    """What a job's clone has shown of the cycle that the job has pinned. One that BOOTED proves its snapshots bootable."""

    __tablename__ = "boot_proofs"
    job_id: Mapped[str] = mapped_column(sa.ForeignKey("clone_jobs.id"), primary_key=True)
    verdict: Mapped[str]  # targets.base.BootVerdict, but not WAITING
    time: Mapped[dt.datetime]
    seconds: Mapped[float | None] = mapped_column(sa.Float())  # to what proved it
    console_sha256: Mapped[str | None]  # of the evidence's files
    screen_sha256: Mapped[str | None]


@dataclass(frozen=True, slots=True)
class Proof:
    """What one job has shown of the cycle that it had pinned. ``job`` and ``cycle`` are full resource names."""

    job: str
    cycle: str
    verdict: str
    time: dt.datetime
    seconds: float | None
    console_sha256: str | None
    screen_sha256: str | None


OF_VM = (
    sa.select(
        CloneJob.name, CloneJob.cycle, BootProof.verdict, BootProof.time, BootProof.seconds, BootProof.console_sha256,
        BootProof.screen_sha256,
    )
    .join(CloneJob, CloneJob.id == BootProof.job_id)
    .where(CloneJob.parent == sa.bindparam("vm", type_=sa.String()))
    .order_by(BootProof.time.desc(), CloneJob.name)
)  # fmt: skip

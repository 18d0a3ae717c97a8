"""The use-cases behind the API: validate, write, then hint. Synchronous and thread-safe."""

from __future__ import annotations

from models.access import AccessStore
from tasks.runtime import Runtime
from tasks.services.access import AccessService
from tasks.services.audits import AuditService
from tasks.services.clone_jobs import CloneJobService
from tasks.services.common import Page, Paging, Request
from tasks.services.cycles import CycleService
from tasks.services.evidence import EvidenceService
from tasks.services.explain import ExplainService
from tasks.services.locations import LocationService
from tasks.services.migrating_vms import MigratingVmService
from tasks.services.operations import OperationService
from tasks.services.plans import PlanService
from tasks.services.snapshots import SnapshotService
from tasks.services.sources import SourceService
from tasks.services.target_projects import TargetProjectService

__all__ = ["AccessService", "CloneJobService", "CycleService", "LocationService", "MigratingVmService", "OperationService", "Page", "Paging", "Request", "Services",
           "SourceService", "TargetProjectService"]  # fmt: skip


class Services:
    """All use-cases, on one runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self.clone_jobs = CloneJobService(runtime)
        self.sources = SourceService(runtime)
        self.migrating_vms = MigratingVmService(runtime)
        self.target_projects = TargetProjectService(runtime)
        self.cycles = CycleService(runtime)
        self.operations = OperationService(runtime)
        self.locations = LocationService(runtime)
        self.plans = PlanService(runtime)
        self.evidence = EvidenceService(runtime)
        self.explain = ExplainService(runtime)
        self.audits = AuditService(runtime)
        self.snapshots = SnapshotService(runtime)
        self.access = AccessService(AccessStore(runtime.store.engine, clock=runtime.clock))

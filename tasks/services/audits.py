"""The audit of the targets, as a user asks for it."""

from __future__ import annotations

from tasks.audit import audit
from tasks.audit_report import Audit
from tasks.errors import InvalidArgument
from tasks.orphans import Proof
from tasks.runtime import Runtime


class AuditService:
    """Looks at the targets once, on behalf of one project."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def audit(self, parent: str, *, target: str = "", proof: Proof | None = None, delete: bool = False) -> Audit:
        """What jobs of the project of ``parent`` left behind, wherever in it they are; with ``delete``, what is proven
        goes. Raises: InvalidArgument for a target that is not configured."""
        if target and target not in self._runtime.targets:
            known = ", ".join(sorted(self._runtime.targets)) or "none"
            raise InvalidArgument("target", f"{target[:80]!r} is not configured; configured: {known}")
        targets = (target,) if target else ()
        return audit(self._runtime, targets=targets, proof=proof, delete=delete, project=parent.split("/")[1])

"""Target projects: each maps to a target of the settings, named in its field ``project``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

from models.catalog import InUse
from models.operations import RequestIdReused
from models.schema import Operation, TargetProject
from targets.clone_modes import mode_of, modes_of
from tasks.errors import FailedPrecondition, InvalidArgument, NotFound
from tasks.names import check_id
from tasks.services.common import Page, Paging, Request, list_page, must_get, new_operation, reused
from tasks.services.resources import Change, ResourceService


@dataclass(frozen=True, slots=True)
class CloneModes:
    """How the clones of a target project get their disks. ``chosen`` is empty if nothing was; ``used`` and ``modes`` are, if
    its target makes disks in one way or is not configured."""

    name: str
    target: str
    chosen: str
    used: str
    modes: tuple[str, ...]


class TargetProjectService(ResourceService):
    """Target projects."""

    def create(
        self, parent: str, target_project_id: str, body: dict[str, Any], request: Request
    ) -> tuple[Operation, TargetProject | None]:
        """Raises: InvalidArgument (also for a location other than global, and a target that is not configured)."""
        name = f"{parent}/targetProjects/{check_id('target_project_id', target_project_id)}"
        if not parent.endswith("/locations/global"):
            raise InvalidArgument("parent", "target projects exist only at location global")
        now = self._runtime.clock()
        row = TargetProject(name=name, parent=parent, target=self._target(body),
                            description=body.get("description", ""), create_time=now, update_time=now)  # fmt: skip
        return self._insert(row, new_operation("create", "CreateTargetProject", name, request))

    def update(self, name: str, change: Change, request: Request) -> tuple[Operation, TargetProject | None]:
        """A running clone job keeps the target that it was planned for. Raises: InvalidArgument, NotFound."""

        def write(row: TargetProject) -> None:
            body = change({"project": row.target, "description": row.description})
            if body.get("project") != row.target:
                row.target = self._target(body)
                self._check_mode("target_project.project", row.target, row.clone_mode or "")
            row.description = body.get("description", "")

        operation = new_operation("update", "UpdateTargetProject", name, request)
        return self._update(TargetProject, name, write, operation)

    def _target(self, body: dict[str, Any]) -> str:
        target: str = body.get("project", "")
        if target not in self._runtime.targets:
            known = ", ".join(sorted(self._runtime.targets)) or "none"
            raise InvalidArgument(
                "target_project.project", f"{target[:80]!r} is not a configured target; there are: {known}"
            )
        return target

    def clone_modes(self, name: str) -> CloneModes:
        """Raises: NotFound."""
        row = self.get(name)
        target = self._runtime.targets.get(row.target)
        chosen = row.clone_mode or ""
        return CloneModes(name, row.target, chosen, mode_of(target, chosen), modes_of(target))

    def set_clone_mode(self, name: str, mode: str) -> CloneModes:
        """Choose how the clones of jobs that are created from now on get their disks; empty: as the target is configured.

        Raises: InvalidArgument, NotFound.
        """

        def write(row: TargetProject) -> None:
            self._check_mode("cloneMode", row.target, mode)
            row.clone_mode = mode or None

        self._update(TargetProject, name, write, new_operation("update", "UpdateTargetProject", name, Request()))
        return self.clone_modes(name)

    def _check_mode(self, field: str, target: str, mode: str) -> None:
        modes = modes_of(self._runtime.targets.get(target))
        if mode and not modes:
            raise InvalidArgument(field, f"clone mode {mode[:80]!r} does not go with target {target}, which makes disks in "
                                         "one way: leave the clone mode empty")  # fmt: skip
        if mode and mode not in modes:
            raise InvalidArgument(field, f"{mode[:80]!r} is not a clone mode of target {target}; there are: "
                                         f"{', '.join(modes)}")  # fmt: skip

    def delete(self, name: str, request: Request) -> Operation:
        """Raises: InvalidArgument, NotFound, FailedPrecondition (a VM's target defaults name it)."""
        try:
            done = self._catalog.delete_target_project(
                name, new_operation("delete", "DeleteTargetProject", name, request)
            )
        except RequestIdReused as error:
            raise reused(error) from None
        except InUse as error:
            own = str(error.args[0]).startswith(name.partition("/locations/")[0] + "/")
            who = error.args[0] if own else "a MigratingVm of another project"
            raise FailedPrecondition(
                name,
                f"{who} has {name} in its target defaults; change them or delete the VM first",
                reason="TARGET_PROJECT_IN_USE",
            ) from None
        if done is None:
            raise NotFound("TargetProject", name)
        return done

    def get(self, name: str) -> TargetProject:
        """Raises: NotFound."""
        return must_get(self._catalog, TargetProject, name)

    def list(self, parent: str, **paging: Unpack[Paging]) -> Page[TargetProject]:
        """Raises: InvalidArgument."""
        return list_page(self._runtime, TargetProject, parent, paging)

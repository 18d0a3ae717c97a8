"""Target projects: each maps to a target of the settings, named in its field ``project``."""

from __future__ import annotations

from typing import Any, Unpack

from models.catalog import InUse
from models.operations import RequestIdReused
from models.schema import Operation, TargetProject
from tasks.errors import FailedPrecondition, InvalidArgument, NotFound
from tasks.names import check_id
from tasks.services.common import Page, Paging, Request, list_page, must_get, new_operation, reused
from tasks.services.resources import Change, ResourceService


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

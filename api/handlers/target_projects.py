"""TargetProjects; their location must be ``global`` (public proto)."""

from __future__ import annotations

from typing import Any

from google.cloud import vmmigration_v1 as v1
from google.protobuf.message import Message

from api import translate
from api.fields import user_body
from api.handlers.common import idempotency, page_of, paging
from api.masks import change_by
from api.names import GLOBAL, TARGET_PROJECT, check_id, check_name
from tasks.services import Services


def create(services: Services, request: Any) -> Message:
    """``project`` names a configured target."""
    parent = check_name("parent", request.parent, GLOBAL)
    project_id = check_id("target_project_id", request.target_project_id)
    body, once = user_body(request.target_project), idempotency(request, "target_project")
    return translate.operation(*services.target_projects.create(parent, project_id, body, once))


def get(services: Services, request: Any) -> Message:
    """One TargetProject."""
    return translate.target_project(services.target_projects.get(check_name("name", request.name, TARGET_PROJECT)))


def list_(services: Services, request: Any) -> Message:
    """The TargetProjects of one project."""
    page = services.target_projects.list(check_name("parent", request.parent, GLOBAL), **paging(request))
    items = [translate.target_project(row) for row in page.items]
    return page_of(v1.ListTargetProjectsResponse.pb(), "target_projects", page, items)


def update(services: Services, request: Any) -> Message:
    """By field mask (``api/masks.py``)."""
    name = check_name("target_project.name", request.target_project.name, TARGET_PROJECT)
    change = change_by(request.update_mask.paths, request.target_project)
    return translate.operation(*services.target_projects.update(name, change, idempotency(request)))


def delete(services: Services, request: Any) -> Message:
    """Refused while the target defaults of a VM name it."""
    name = check_name("name", request.name, TARGET_PROJECT)
    return translate.operation(services.target_projects.delete(name, idempotency(request)), None)

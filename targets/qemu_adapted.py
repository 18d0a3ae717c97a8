"""Adapted images of the QEMU target: what every clone of a snapshot shares is kept, what is a clone's own lies on it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from targets import guest
from targets.adaptation import Adapted, Policy, Report, Request, adapt, personalise
from targets.adaptation.engine import NO_METHOD
from targets.adaptation.export import release
from targets.adaptation.programs import Deadline
from targets.adaptation.tiny import METHOD as TINY
from targets.adaptation.tiny import adapt_tiny, personalise_tiny
from targets.base import AdaptedImageSpec
from targets.kept_adaptations import KeptAdaptations
from targets.local_files import fsync_folder
from targets.qemu_tools import DiskTools, sync_file
from targets.snapshot_links import ADAPTED_FILE, link_base

_READ_ONLY = 0o444


class AdaptedImages:
    """Makes the content of an adapted image's folder."""

    def __init__(self, tools: DiskTools, kept: KeptAdaptations, policy: Policy, *, timeout_s: float) -> None:
        self._tools = tools
        self._kept = kept
        self._policy = policy
        self._timeout_s = timeout_s

    def make(self, temporary: Path, source: Path, spec: AdaptedImageSpec) -> Mapping[str, Any]:
        """Make ``temporary``, in a folder of its own: an overlay whose guest is adapted for this clone; the report.

        Raises: AdaptationError if the policy asks for more than could be done.
        """
        folder, deadline = temporary.parent, Deadline(self._timeout_s)
        base = link_base(source, folder, spec.snapshot.format)
        kept = self._kept.use(spec, folder)
        if kept is not None:
            adapted, made = kept.adapted, {"made_at": _text(kept.made_at), "reused": True}
        else:
            self._tools.lay_over(temporary, base, spec.snapshot.format)
            adapted = self._adapt(temporary, spec, deadline)
            if adapted.report.method == NO_METHOD:  # nothing was written; what could not be done today may be tomorrow
                return adapted.report.as_json()
            temporary.chmod(_READ_ONLY)
            sync_file(temporary)
            temporary.rename(folder / ADAPTED_FILE)
            fsync_folder(folder)
            made = {"made_at": _text(self._kept.keep(spec, folder, adapted)), "reused": False}
        self._tools.lay_over(temporary, ADAPTED_FILE, "qcow2")
        return {**self._personalise(temporary, spec, adapted, deadline).as_json(), **made}

    @staticmethod
    def release(folder: Path) -> None:
        """Remove what a killed ``make`` left outside of the folder."""
        release(_workplaces(folder), folder.name)

    def _adapt(self, image: Path, spec: AdaptedImageSpec, deadline: Deadline) -> Adapted:
        if self._policy is not Policy.SKIP and guest.is_config_sector(self._tools.read_first_sectors(image)[1]):
            return adapt_tiny(spec, self._policy)
        return adapt(image, self._request(image.parent, spec, deadline))

    def _personalise(self, image: Path, spec: AdaptedImageSpec, adapted: Adapted, deadline: Deadline) -> Report:
        if adapted.report.method == TINY:
            return personalise_tiny(self._tools, image, spec, adapted)
        return personalise(image, self._request(image.parent, spec, deadline), adapted)

    def _request(self, folder: Path, spec: AdaptedImageSpec, deadline: Deadline) -> Request:
        return Request(spec.hostname, _workplaces(folder), folder.name, deadline.left_s(), self._policy, spec.modifiers)


def _workplaces(folder: Path) -> Path:
    """Where adaptations mount and keep work files: beside the resources, whose folders must be removable at any time."""
    return folder.parents[1] / "adaptations"


def _text(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

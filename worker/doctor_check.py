"""One finding of ``clonejob doctor``."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]
QEMU = f"qemu-system-{'aarch64' if platform.machine().lower() in ('arm64', 'aarch64') else 'x86_64'}"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``action`` says what to do, and is empty when all is well."""

    name: str
    status: Status
    detail: str
    action: str = ""

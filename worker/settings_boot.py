"""How jobs of one target watch their clone boot."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from tasks.boot_pattern import check_pattern


class BootSettings(BaseModel):
    """A part of a target's settings."""

    boot_timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="Seconds that a job watches its clone boot: then it succeeds with boot verdict UNKNOWN; "
        "default: the setting.",
    )
    require_boot: bool = Field(
        default=False,
        description="Whether a clone must be seen to boot; else its job ends FAILED and the clone is deleted. "
        "The metadata clonejob-require-boot of a VM, true or false, wins over it.",
    )
    boot_pattern: Annotated[str, AfterValidator(check_pattern)] | None = Field(
        default=None,
        description="Regular expression that the serial console of a booted guest shows; default: what the target's type "
        "knows, such as a login prompt.",
    )

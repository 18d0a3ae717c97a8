"""Names, labels and tokens of ours on EC2, where names are not unique and tags can be copied.

An instance is ours when its tag names a job *and* its client token is one that we derive from that job: the console's
"launch more like this" copies tags, but not tokens. An image is ours by its tag or by its description, which
RegisterImage writes in the same act as the image itself, even where it ignores tags.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from targets.base import LABEL_EPOCH, LABEL_JOB_ID, Owner, ResourceRef, token
from targets.errors import UnsupportedError

NAME_TAG = "clonejob-name"  # looked up; the tag Name is what people see, and may change
DISPLAY_TAG = "Name"
# How often an instance of one job may be started anew under other tokens after it was terminated.
LIVES = 16
_MOST_LABELS = 40  # 50 tags are the most, some are ours
_LABEL_KEY = re.compile(r"[\w+\-=.,:@]{1,128}")
_LABEL_VALUE = re.compile(r"[\w+\-=.,:@/ ]{0,256}")
_IN_DESCRIPTION = re.compile(rf"{LABEL_JOB_ID}=([-_a-z0-9]+) {LABEL_EPOCH}=([0-9]+)\b")


def client_token(job_id: str, name: str, life: int) -> str:
    """The token of an instance's n-th life: the first is the protocol's own."""
    return token(job_id, name if life == 0 else f"{name}/{life}")


def life_of(job_id: str, name: str, client: str) -> int | None:
    """Which life a client token stands for; None if it is not ours."""
    return next((life for life in range(LIVES) if client_token(job_id, name, life) == client), None)


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises: UnsupportedError for labels that cannot be tags which the guest can read."""
    if len(labels) > _MOST_LABELS:
        raise UnsupportedError(f"EC2 has room for {_MOST_LABELS} labels as tags; there are {len(labels)}.")
    for key, value in labels.items():
        if key.lower().startswith("aws:") or not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise UnsupportedError(f"Label {key!r}: {value!r} cannot be a tag on EC2.")


def tags(ref: ResourceRef, owner: Owner, labels: Mapping[str, str]) -> list[dict[str, str]]:
    """The tags of what is made; ours win."""
    mine = {DISPLAY_TAG: ref.name, NAME_TAG: ref.name, **owner.labels()}
    return [{"Key": key, "Value": value} for key, value in sorted({**labels, **mine}.items())]


def tags_of(raw: Mapping[str, Any]) -> dict[str, str]:
    """The tags of what was listed."""
    return {tag["Key"]: tag["Value"] for tag in raw.get("Tags", ())}


def labels_of(found: Mapping[str, str], *, ours: bool) -> dict[str, str]:
    """Tags as labels: without our names, and without the job's if it is not really ours."""
    hidden = {DISPLAY_TAG, NAME_TAG} if ours else {DISPLAY_TAG, NAME_TAG, LABEL_JOB_ID, LABEL_EPOCH}
    return {key: value for key, value in found.items() if key not in hidden and not key.startswith("aws:")}


def description(owner: Owner) -> str:
    """What an image says of itself."""
    return f"{LABEL_JOB_ID}={owner.job_id} {LABEL_EPOCH}={owner.epoch} temporary, is removed before the clone is done"


def owner_in(text: str) -> dict[str, str]:
    """The labels that an image's description holds."""
    match = _IN_DESCRIPTION.match(text)
    return {LABEL_JOB_ID: match[1], LABEL_EPOCH: match[2]} if match else {}


def by_tag(key: str, value: str) -> list[dict[str, Any]]:
    """The filter of a list. Names of ours hold no wildcard: ``check_name`` has seen them."""
    return [{"Name": f"tag:{key}", "Values": [value]}]

"""The EC2 API through boto3: time limits that fit in a target's call, no retries of its own, errors as ours."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from targets.ec2.errors import ThrottledError, boto_errors, code_of, translated
from targets.ec2.options import Ec2Options
from targets.ec2.permissions import ACTIONS
from targets.errors import RefusedError, TransientError

_LONGEST_CONNECT_S, _LONGEST_READ_S = 3.0, 10.0
_THROTTLE_PAUSES_S = (0.1, 0.2, 0.4, 0.8)
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.1, 1.0


class Api:
    """Makes boto3's client when it is first needed, one per process: a connection must not be shared over a fork."""

    def __init__(self, options: Ec2Options, call_timeout_s: float) -> None:
        self._options = options
        self._call_timeout_s = call_timeout_s
        self._connect_s = min(_LONGEST_CONNECT_S, call_timeout_s / 8)
        self._read_s = min(_LONGEST_READ_S, call_timeout_s / 3)
        self._lock = threading.Lock()
        self._made: tuple[int, Any] | None = None

    def begin(self) -> Calls:
        """The calls of one call to the target, with its time limit."""
        limit_s = self._connect_s + self._read_s
        end_at = time.monotonic() + self._call_timeout_s
        return Calls(self._client, end_at=end_at, one_call_s=limit_s, settle_s=self._options.settle_s)

    def _client(self) -> Any:
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                self._made = (os.getpid(), self._make())
            return self._made[1]

    def _make(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            connect_timeout=self._connect_s,
            read_timeout=self._read_s,
            retries={"total_max_attempts": 1, "mode": "standard"},
            user_agent_extra="clonejob",
        )
        session = boto3.session.Session(region_name=self._options.region)
        return session.client("ec2", endpoint_url=self._options.endpoint, config=config)


class Calls:
    """Calls of the API until one time limit."""

    def __init__(self, client: Callable[[], Any], *, end_at: float, one_call_s: float, settle_s: float) -> None:
        self._client = client
        self._end_at = end_at
        self._one_call_s = one_call_s
        self._settle_s = settle_s

    def __call__(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """One call, by boto3's name for it. Raises: TargetError.

        A call that EC2 did not look at, because there were too many, is repeated a few times: one job makes dozens of
        calls, and an account that is throttled a little must not use up the attempts of a step.
        """
        for pause_s in _THROTTLE_PAUSES_S:
            try:
                return self._once(operation, parameters)
            except ThrottledError:
                if time.monotonic() + pause_s + self._one_call_s > self._end_at:
                    raise
                time.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - jitter
        return self._once(operation, parameters)

    def _once(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._raw(operation, parameters)
        except boto_errors() as error:
            raise translated(error, operation) from error

    def pages(self, operation: str, result: str, **parameters: Any) -> list[dict[str, Any]]:
        """All items of a list that comes in pages. Raises: TargetError."""
        items: list[dict[str, Any]] = []
        more: dict[str, Any] = {}
        while True:
            page = self(operation, **parameters, **more)
            items += page.get(result, ())
            if not page.get("NextToken"):
                return items
            more = {"NextToken": page["NextToken"]}

    def probe(self, operation: str, **parameters: Any) -> None:
        """Ask whether we may make the call, without making it. Raises: RefusedError if not, TransientError.

        An answer about anything else than permission says nothing against it: the ids in a probe name nothing.
        """
        try:
            self._raw(operation, {**parameters, "DryRun": True})
        except boto_errors() as error:
            if code_of(error) == "DryRunOperation":
                return
            answer = translated(error, operation)
            if isinstance(answer, TransientError) or not code_of(error):
                raise answer from error
            if code_of(error) in ("UnauthorizedOperation", "AuthFailure", "InvalidClientTokenId", "OptInRequired"):
                raise answer from error
            return
        raise RefusedError(f"EC2's {operation} did what it was only asked about; is the endpoint really EC2's?")

    def until_seen(self, look: Callable[[], bool]) -> bool:
        """Look until it is there or EC2 has had ``settle_s`` to list it; whether it is there. Raises: TargetError."""
        give_up_at = min(time.monotonic() + self._settle_s, self._end_at - self._one_call_s)
        pause_s = _FIRST_LOOK_S
        while not look():
            if time.monotonic() + pause_s > give_up_at:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_LOOK_S)
        return True

    def _raw(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        if operation not in ACTIONS:
            message = f"{operation} is not in the policy (targets/ec2/permissions.py)"
            raise ValueError(message)
        if time.monotonic() + self._one_call_s > self._end_at:
            raise TransientError(f"EC2 was slow; there was no time left for {operation}.")
        answer: dict[str, Any] = getattr(self._client(), operation)(**parameters)
        return answer

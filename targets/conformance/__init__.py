"""The conformance kit: does a target keep the protocol of ``targets.base``?

    from targets.conformance import Stage, run

    for result in run(Stage(connect=make_my_target, snapshots=(snapshot,))):
        print(result.outcome, result.check.name, result.detail)

It needs no test framework. ``run_check`` runs one check of ``CHECKS``, so any framework can make each of them a test.
Everything that the kit makes carries job ids of its own (``kit-…``) and is removed after each check, also after a
failure or Ctrl-C; it deletes nothing else, and says what it could not remove.
"""

from targets.conformance.check import Check, Outcome
from targets.conformance.runner import CHECKS, Result, run, run_check
from targets.conformance.stage import Hands, Stage

__all__ = ["CHECKS", "Check", "Hands", "Outcome", "Result", "Stage", "run", "run_check"]

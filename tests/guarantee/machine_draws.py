"""What the rules of the model draw from, and how their firing is counted."""

from __future__ import annotations

import functools
from collections.abc import Callable

from guarantee.machine_stage import Interrupt
from harness import SOURCE, VM
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

VMS = (VM, f"{SOURCE}/migratingVms/web-2")


# What happens to a worker happens at one of its instants: a step passes some twenty.
def _interrupts(most: int) -> st.SearchStrategy[Interrupt | None]:
    hows = st.sampled_from(("crash", "freeze", "freeze", "error"))
    return st.one_of(st.none(), st.builds(Interrupt, hows, st.integers(0, most)))


in_a_step, in_a_call = _interrupts(25), _interrupts(6)
some = st.integers(0, 1_000)  # picks one of what there is by then
trouble = st.sampled_from((None, None, "fail", "lose_reply", "hang", "slow"))


def happens(**strategies: st.SearchStrategy) -> Callable:
    """A rule whose firing is counted."""

    def decorate(method: Callable) -> Callable:
        @functools.wraps(method)
        def counted(self: RuleBasedStateMachine, **drawn: object) -> None:
            self.tally[f"rule {method.__name__}"] += 1
            method(self, **drawn)

        return rule(**strategies)(counted)

    return decorate

"""Adapting a guest's operating system to its clone, offline and without an agent: inspect, plan, apply, verify.

See docs/adaptation.md. ``engine.adapt`` is the way in; ``recipes`` says what is done, ``files`` through which narrow door.
"""

from targets.adaptation.engine import Request, adapt
from targets.adaptation.policy import Policy, check_modifiers
from targets.adaptation.report import Action, Outcome, Report

__all__ = ["Action", "Outcome", "Policy", "Report", "Request", "adapt", "check_modifiers"]

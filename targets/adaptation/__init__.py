"""Adapting a guest's operating system to its clone, offline and without an agent: inspect, plan, apply, verify.

See docs/adaptation.md. ``engine.adapt``, then ``engine.personalise``, are the way in; ``recipes`` says what is done, ``files`` through which narrow door.
"""

from targets.adaptation.engine import Adapted, Request, adapt, personalise
from targets.adaptation.policy import Policy, check_modifiers
from targets.adaptation.report import Action, Outcome, Report

__all__ = ["Action", "Adapted", "Outcome", "Policy", "Report", "Request", "adapt", "check_modifiers", "personalise"]

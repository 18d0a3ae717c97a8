"""A stand-in for Compute Engine's API: checks requests against the published description, and behaves like one project.

What it does is written from the public documentation; it proves nothing about Google's own behaviour.
"""

from standins.compute_engine.faults import Fault
from standins.compute_engine.server import StandIn

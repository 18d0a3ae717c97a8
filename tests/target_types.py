"""A package of another's target types, as one module: some keep the protocol, each other one breaks it in its own way."""

TYPES = '''
import os, signal
from targets.base import ResourceKind
from targets.errors import RefusedError, SourceGoneError, UnsupportedError
from targets.registry import TargetOptions
from targets.simulated import SimulatedTarget


class Forgetful(SimulatedTarget):
    """Deletes by name alone."""

    def delete(self, ref, *, job_id, uid):
        seen = self.find(ref)
        super().delete(ref, job_id=job_id, uid=seen.uid if seen else uid)


class Protected(SimulatedTarget):
    def delete(self, ref, *, job_id, uid):
        raise RefusedError("Deletion protection is on.")


class Provider(SimulatedTarget):
    """Knows only what lies there already."""

    def check(self, specs):
        for spec in specs:
            snapshot = getattr(spec, "snapshot", None)
            if snapshot and snapshot.format != "reference":
                raise UnsupportedError("Only snapshots that lie here already can be cloned.")
            if snapshot and snapshot.key != "projects/p/global/snapshots/web-1":
                raise SourceGoneError(f"{snapshot.key} does not exist.")

    def create(self, spec):
        self.check([spec])
        return super().create(spec)


class Ended(SimulatedTarget):
    """Its process is told to end in the middle of a check."""

    def create(self, spec):
        made = super().create(spec)
        if spec.ref.kind is ResourceKind.INSTANCE:
            os.kill(os.getpid(), signal.SIGTERM)
        return made


class Killed(SimulatedTarget):
    def create(self, spec):
        os.kill(os.getpid(), signal.SIGKILL)


def options(target, billable):
    class Options(TargetOptions):
        is_billable = billable

        def make(self, place):
            return target(place.root, name=place.name)

    return Options


forgetful, protected, ended, killed = (options(each, False) for each in (Forgetful, Protected, Ended, Killed))
provider = options(Provider, True)
'''

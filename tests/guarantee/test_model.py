"""The model test on both databases. ``make model`` runs it long, with seeds of its own."""

import contextlib
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import postgres_database
from guarantee import machine_report
from guarantee.machine import Model
from guarantee.machine_stage import Stage
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from models.db import make_engine

_SHRINK = os.environ.get("CLONEJOB_MODEL_SHRINK") != "0"
_SHORT = {"sqlite": 10, "postgresql": 6}
_EXAMPLES = int(os.environ.get("CLONEJOB_MODEL_EXAMPLES", "0"))


class Places:
    """A fresh database and folder for every example, cheaper than making one."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self._engine = make_engine(url) if url else None
        if self._engine is not None:  # no example survives a power cut
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(sa.text(f"ALTER DATABASE {self._engine.url.database} SET synchronous_commit = off"))
            self._engine.dispose()

    def stage(self, tally: Counter[str]) -> Stage:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        if self._engine is not None:
            with self._engine.begin() as connection:
                names = [name for name in sa.inspect(connection).get_table_names() if name not in _KEPT]
                connection.execute(sa.text(f"TRUNCATE {', '.join(names)} CASCADE"))
                connection.execute(sa.text("UPDATE reconciler_lease SET owner = NULL, expires_at = '1970-01-01'"))
        return Stage(folder, self._url or f"sqlite:///{folder}/db.sqlite3", tally)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()


_KEPT = ("alembic_version", "reconciler_lease")
_MEMORY = Path("/dev/shm")  # where there is one, the examples' files need no disk


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request):
    with contextlib.ExitStack() as stack:
        memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="clonejob-model-", dir=memory))
        url = ""
        if request.param == "postgresql":
            template = request.getfixturevalue("postgres_template")
            url = stack.enter_context(contextlib.contextmanager(postgres_database)(template))
        places = Places(Path(folder), url)
        stack.callback(places.close)
        yield places


@pytest.mark.timeout(0 if _EXAMPLES else 600)
def test_the_guarantee_holds_whatever_happens(places, request):
    database = request.node.callspec.params["places"]
    tally = machine_report.tally(database)
    machine = type("Model", (Model,), {"make_stage": staticmethod(places.stage), "tally": tally})
    chosen = settings(
        deadline=None,
        max_examples=_EXAMPLES or _SHORT[database],
        stateful_step_count=50,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink) if _SHRINK else (Phase.generate,),
    )
    run_state_machine_as_test(machine, settings=chosen)
    if _EXAMPLES:
        return  # how many there are is the caller's choice, and with them what can fire
    fired = {what.partition(" at ")[0] for what in tally}
    assert tally["jobs SUCCEEDED"] and tally["jobs CANCELLED"] and fired >= {"crash", "freeze", "error"}, tally

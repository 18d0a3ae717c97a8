"""The numbers of the I/O points, and the code read for calls that bypass them."""

import ast
import textwrap
from pathlib import Path

import pytest

import worker.app
from models import io_points, io_table
from targets.base import Target
from tasks.chain import NumberedCelery

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/io_points.md"
PROTOCOL = {name for name in vars(Target) if not name.startswith("_") and callable(getattr(Target, name))}
SENDS = {"apply_async", "delay", "apply", "publish", "send_task", "basic_publish"}
OPENS = ("engine.connect", "engine.begin", "engine.raw_connection", ".rows")  # the last one: models.prepared
NOT_OF_A_JOB = {
    "models/prepared.py": "runs a statement of its caller, whose point is open",
    "models/db.py": "makes engines",
    "models/migrate.py": "runs before the service does",
    "worker/doctor.py": "asks the database whether it answers",
    "worker/cli/clones.py": "the user's own hand",
    "worker/cli/instances.py": "the user's own hand",
    "worker/health.py": "asks the workers whether they answer",
    "worker/cli/target_check.py": "the user's own hand: the conformance kit",
    "tasks/services/uploads.py": "publishes a file into the snapshot store",
}


def sources(*packages):
    for path in sorted(path for package in packages for path in (ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name not in NOT_OF_A_JOB and "migrations" not in name:
            yield name, ast.parse(path.read_text())


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def called(node):
    """The text of everything that is called in the node."""
    return {ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}


def numbered(function):
    return any(ast.unparse(each).startswith("io_point(") for each in function.decorator_list)


def database_bypasses(tree):
    """Public functions that open a session or a connection, themselves or through a private helper, without a point."""
    own = {"Session", "self._sessions", "self._sessions.begin", "sa.create_engine"}
    opening = set(own)
    while True:
        found = {
            f"self.{function.name}"
            for function in functions(tree)
            if function.name.startswith("_")
            and any(name in opening or name.endswith(OPENS) for name in called(function))
        }
        if found <= opening:
            break
        opening |= found
    return [
        function.name
        for function in functions(tree)
        if not function.name.startswith("_")
        and not numbered(function)
        and any(name in opening or name.endswith(OPENS) for name in called(function))
    ]


def target_bypasses(tree):
    return [
        f"{node.lineno}: {ast.unparse(node.func)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in PROTOCOL
        and (ast.unparse(node.func.value).endswith("target") or "targets[" in ast.unparse(node.func.value))
    ]


def broker_bypasses(tree):
    found = [
        f"{node.lineno}: {ast.unparse(node.func)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in SENDS
        and ast.unparse(node.func) not in ("super().send_task", "app.send_task")  # the app is a NumberedCelery
    ]
    return found + [f"{node.lineno}: Celery()" for node in ast.walk(tree)
                    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Celery", "celery.Celery")]  # fmt: skip


def test_every_point_has_one_number_and_every_number_a_point():
    assert [point.number for point in io_table.POINTS] == list(range(1, len(io_table.POINTS) + 1)), "append only"
    names = [point.name for point in io_table.POINTS]
    assert len(names) == len(set(names))
    for _, tree in sources("models", "tasks", "worker", "api"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("io_point", "io_points.call"):
                if isinstance(node.args[0], ast.Constant):
                    assert node.args[0].value in io_points.names(), "imported by no test"
    nameless = io_points.names() ^ io_table.numbers().keys()
    assert not nameless, f"add a line to models/io_table.py, or mark its line as gone: {sorted(nameless)}"


def test_no_number_has_changed_its_meaning():
    """The committed page is the memory: the table may add to it and never contradict it."""
    assert io_table.changed_meaning(PAGE.read_text()) == []
    assert PAGE.read_text() == io_table.page(), "make docs-generated"


def test_a_page_that_would_change_a_meaning_is_not_written(tmp_path):
    page = tmp_path / "io_points.md"
    page.write_text(io_table.page().replace("`store.claim_step`", "`store.claim`"))
    before = page.read_text()
    assert io_table.changed_meaning(before) == ["13 was store.claim"]
    assert io_table.main(page) == 1
    assert page.read_text() == before


@pytest.mark.parametrize(("name", "tree"), [*sources("models", "tasks", "worker", "api")])
def test_no_call_bypasses_its_point(name, tree):
    assert database_bypasses(tree) == []
    if name.startswith(("tasks/", "worker/", "api/")):
        assert target_bypasses(tree) == []
        assert broker_bypasses(tree) == []


def test_bypasses_are_seen():
    code = ast.parse(
        textwrap.dedent("""
        class Store:
            def read(self):
                with self._reader() as session:
                    return session.get(1)
            def _reader(self):
                with self._engine.connect() as connection:
                    yield Session(connection)
            def write(self):
                with self._sessions.begin() as session:
                    session.add(1)
            @io_point("store.good")
            def good(self):
                with self._reader() as session:
                    return 1
        def work(runtime, target, task):
            runtime.targets["x"].find(1)
            target.delete(1)
            io_points.call("target.bury.job", target.bury, 1)
            task.apply_async()
            Celery("x").send_task("y")
        """)
    )
    assert database_bypasses(code) == ["read", "write"]
    assert [each.partition(": ")[2] for each in target_bypasses(code)] == ["runtime.targets['x'].find", "target.delete"]
    assert len(broker_bypasses(code)) == 3


def test_the_workers_app_numbers_whatever_it_sends():
    assert type(worker.app.app) is NumberedCelery

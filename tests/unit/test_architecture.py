"""The architecture is a failing test."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "models", "targets", "tasks", "worker")


def sources(*packages):
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def calls(tree, *attributes):
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in attributes
    ]


def test_layers():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_only_clean_up_deletes_at_a_target():
    found = {
        path
        for path, tree in sources("api", "tasks", "worker")
        if calls(tree, "bury")
        or any(
            "calls.delete" in ast.unparse(node.func) or "target.delete" in ast.unparse(node.func)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
        )
    }
    # target_calls numbers the call; the instances command is the user's own hand, not a job's.
    assert found <= {"tasks/cleanup.py", "tasks/target_calls.py", "worker/cli/instances.py"}, found


def test_only_the_store_writes_jobs_and_ledger():
    """No statement outside models/store writes the two tables, and no code there assigns their columns."""
    written = ("state", "verdict", "epoch", "lease_owner")
    for path, tree in sources(*PACKAGES):
        if path.startswith("models/store/") or path.startswith("models/migrations/"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                text = ast.unparse(node.func)
                target = ast.unparse(node.args[0]) if node.args else ""
                assert not (
                    text in ("sa.update", "sa.delete", "update", "delete") and target in ("CloneJob", "LedgerRow")
                ), path
            if isinstance(node, (ast.Assign, ast.AugAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for each in targets:
                    if isinstance(each, ast.Attribute) and each.attr in written:
                        owner = ast.unparse(each.value)
                        assert owner not in ("job", "row"), f"{path}:{node.lineno} writes {owner}.{each.attr}"


def test_only_settings_read_the_environment():
    allowed = {
        "worker/settings.py",
        "worker/demo/service.py",
        "worker/demo/__main__.py",
        "worker/cli/context.py",
        "worker/cli/__init__.py",
        "worker/cli/service.py",
    }
    for path, tree in sources(*PACKAGES):
        reads = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv")
        ]
        assert not reads or path in allowed, path


def test_no_file_is_too_long():
    long = {
        path: count
        for path in (p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
        if "migrations" not in path.parts and (count := len(path.read_text().splitlines())) > 300
    }
    assert not long


def test_nothing_of_ours_is_pickled():
    for path, tree in sources(*PACKAGES):
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert "pickle" not in names, path

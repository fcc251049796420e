"""The server as a process: where it listens, how it stops, how it exchanges a bundle."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from leukoscope.core.errors import UsageError
from leukoscope.runtime.audit_log import verify_log
from leukoscope.runtime.bundle import save_bundle
from leukoscope.service.server import check_binding, read_key, serve
from leukoscope.service.settings import ServiceSettings

Serving = Callable[..., AbstractContextManager[SimpleNamespace]]


def body_of(image: bytes) -> bytes:
    head = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return head + image + b"\r\n--edge--\r\n"


class Client(threading.Thread):
    """Asks until told to stop; counts answers, and requests that were taken but not answered."""

    def __init__(self, address: str, image: bytes) -> None:
        super().__init__()
        self.host = address.removeprefix("http://")
        self.body = body_of(image)
        self.models: list[str] = []
        self.statuses: list[int] = []
        self.lost: list[str] = []
        self.stop = False

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.host, timeout=20)
        headers = {"Content-Type": "multipart/form-data; boundary=edge"}
        while not self.stop:
            try:
                connection.connect() if connection.sock is None else None
            except OSError:
                break  # nobody listens any more: nothing was taken
            try:
                connection.request("POST", "/v1/predict", self.body, headers)
                answer = connection.getresponse()
                text = answer.read().decode()
                self.statuses.append(answer.status)
                self.models.append(text.split('"model":"')[-1].split('"')[0])
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                connection.close()
        connection.close()


def wait_ready(address: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(f"{address}/readyz", timeout=5).read()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the server did not get ready")


def under_load(address: str, image: bytes, clients: int = 6) -> list[Client]:
    wait_ready(address)
    threads = [Client(address, image) for _ in range(clients)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while not all(len(t.statuses) > 3 for t in threads) and time.monotonic() < deadline:
        time.sleep(0.02)
    return threads


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to wait for")
def test_a_stop_under_load_loses_no_accepted_request(
    serving: Serving, bundle: Path, red: bytes, tmp_path: Path
) -> None:
    record = tmp_path / "answers.jsonl"
    started = ("--bundle", str(bundle), "--drain", "0.3", "--audit-log", str(record))
    with serving(*started) as server:
        clients = under_load(server.address, red)
        server.process.send_signal(signal.SIGTERM)
        refused_ready = False
        while server.process.poll() is None:
            try:
                urllib.request.urlopen(f"{server.address}/readyz", timeout=5).read()
            except urllib.error.HTTPError as error:
                refused_ready |= error.code == 503
            except OSError:
                break
            time.sleep(0.02)
        for client in clients:
            client.join(20)
        assert server.process.wait(20) == 0
        log = server.log()
    assert refused_ready
    assert [client.lost for client in clients] == [[]] * len(clients)
    answered = [status for client in clients for status in client.statuses]
    assert set(answered) == {200}
    assert log.count('"route": "/v1/predict", "status": 200') == len(answered)
    checked = verify_log(record)
    assert (checked.problem, checked.entries) == ("", len(answered))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")
def test_a_bundle_is_exchanged_without_dropping_a_request(
    serving: Serving, bundle: Path, red: bytes, tiny_parts: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "b"
    save_bundle(folder, tiny_parts.build_record(), tiny_parts.bundle_files())
    with serving("--bundle", str(folder)) as server:
        clients = under_load(server.address, red, clients=3)
        first = clients[0].models[0]
        record = tiny_parts.build_record(trained_on="something else")
        save_bundle(folder, record, tiny_parts.bundle_files(record=record))
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while clients[0].models[-1] == first and time.monotonic() < deadline:
            time.sleep(0.05)
        (folder / "model.onnx").write_bytes(b"broken")
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        asked = len(clients[0].statuses)
        while len(clients[0].statuses) == asked and time.monotonic() < deadline:
            time.sleep(0.05)
        for client in clients:
            client.stop = True
            client.join(20)
        server.process.terminate()
        log = server.log()
    assert len(set(clients[0].models)) == 2  # the first, the second; the broken one never
    assert {status for client in clients for status in client.statuses} == {200}
    assert [client.lost for client in clients] == [[]] * 3
    assert "the old models stay" in log


def test_other_machines_need_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEUKOSCOPE_API_KEY", raising=False)
    assert read_key(None) is None
    with pytest.raises(UsageError, match=r"0\.0\.0\.0 can be reached .* no API key is set"):
        check_binding("0.0.0.0", ServiceSettings(), without_key=False)
    check_binding("0.0.0.0", ServiceSettings(), without_key=True)
    check_binding("::1", ServiceSettings(), without_key=False)
    key = tmp_path / "key"
    key.write_text("short\n")
    with pytest.raises(UsageError, match="at least 16 characters, found 5"):
        read_key(key)
    key.write_text("sixteen-or-more-characters\n")
    settings = ServiceSettings(api_key=read_key(key))
    assert "sixteen" not in repr(settings)
    check_binding("0.0.0.0", settings, without_key=False)
    with pytest.raises(UsageError, match="expected a file with the API key"):
        read_key(tmp_path / "none")


def test_a_used_port_and_a_broken_bundle_are_told(tmp_path: Path, serving: Serving) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen at 127.0.0.1, port {port}"):
            serve(
                [tmp_path], ServiceSettings(), host="127.0.0.1", port=port, engine="auto",
                precision="auto", audit_log=None, listening=print,
            )  # fmt: skip
    with serving("--bundle", str(tmp_path)) as server:
        assert server.process.wait(30) == 1
        assert "expected a bundle" in server.log()

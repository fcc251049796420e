"""The server as a process: where it listens, how it stops, how it exchanges a bundle."""

from __future__ import annotations

import contextlib
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
from typing import Any

import pytest
import uvicorn

from leukoscope.core.errors import UsageError
from leukoscope.runtime.audit_log import verify_log
from leukoscope.runtime.bundle import save_bundle
from leukoscope.service import server as server_module
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


@pytest.mark.skipif(os.name == "nt", reason="Windows moves no file that is open")
def test_a_server_whose_audit_log_was_moved_is_not_ready(
    serving: Serving, bundle: Path, tmp_path: Path
) -> None:
    record = tmp_path / "answers.jsonl"

    def ready(address: str) -> str:
        """What the server says of itself, once its models are open."""
        while True:
            try:
                return urllib.request.urlopen(f"{address}/readyz", timeout=10).read().decode()
            except urllib.error.HTTPError as error:
                text = error.read().decode()
                if "being opened" not in text:
                    return text
                time.sleep(0.1)

    with serving("--bundle", str(bundle), "--audit-log", str(record)) as server:
        assert '"ready"' in ready(server.address)
        record.rename(tmp_path / "moved.jsonl")
        assert "The audit log was moved" in ready(server.address)
        (tmp_path / "moved.jsonl").rename(record)
        assert '"ready"' in ready(server.address)


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


def talk(address: str, sent: bytes, drip: bytes, wait_s: float) -> tuple[bytes, float]:
    """Send, then drip byte by byte until the server closes: what it said, and after how long."""
    host, port = address.removeprefix("http://").split(":")
    started, said = time.monotonic(), b""
    with socket.create_connection((host, int(port)), timeout=0.1) as client:
        client.sendall(sent)
        while time.monotonic() - started < wait_s:
            try:
                client.sendall(drip)
                more = client.recv(65536)
            except TimeoutError:
                continue
            except OSError:  # closed while this end still sends
                break
            if not more:
                break
            said += more
    return said, time.monotonic() - started


def test_a_client_that_is_slow_or_stops_is_cut_off(
    serving: Serving, bundle: Path, red: bytes
) -> None:
    body = body_of(red)
    head = (
        "POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {n}\r\n"
        "Content-Type: multipart/form-data; boundary=edge\r\n\r\n"
    )
    half = head.format(n=len(body)).encode() + body[: len(body) // 2]
    endless = head.format(n=2**27).replace("multipart/form-data", "text/plain").encode()
    asked = {
        "drips the body": (half, b"x"),
        "stops half-way": (half, b""),
        "drips the head": (b"POST /v1/predict HTTP/1.1\r\nX-A: ", b"x"),
        "says nothing": (b"", b""),
        "goes on after a refusal": (endless, b"x"),
    }
    with serving("--bundle", str(bundle), "--upload-timeout", "1") as server:
        wait_ready(server.address)
        found: dict[str, tuple[bytes, float]] = {}

        def ask(name: str) -> None:
            found[name] = talk(server.address, *asked[name], 8)

        clients = [threading.Thread(target=ask, args=(name,)) for name in asked]
        for client in clients:
            client.start()
        whole = urllib.request.Request(
            f"{server.address}/v1/predict",
            body,
            {"Content-Type": "multipart/form-data; boundary=edge"},
        )
        assert urllib.request.urlopen(whole, timeout=10).status == 200  # others are answered
        for client in clients:
            client.join(20)
        metrics = urllib.request.urlopen(f"{server.address}/metrics", timeout=5).read().decode()
    for name in ("drips the body", "stops half-way"):
        assert found[name][0].startswith(b"HTTP/1.1 408 "), name
        assert b"expected the whole upload within 1 s" in found[name][0]
        assert b"connection: close" in found[name][0].lower()
    assert found["goes on after a refusal"][0].startswith(b"HTTP/1.1 415 ")
    assert found["drips the head"][0] == found["says nothing"][0] == b""
    assert {name: 0.8 < seconds < 6 for name, (_, seconds) in found.items()} == dict.fromkeys(
        asked, True
    )
    assert "leukoscope_upload_bytes 0.0" in metrics


def memory_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def push(address: str, sent: bytes, more: bytes, most: int) -> tuple[bytes, int]:
    """Send, then the same piece again and again: what the server said, and how much it took."""
    host, port = address.removeprefix("http://").split(":")
    said, taken = b"", 0
    with socket.create_connection((host, int(port)), timeout=10) as client:
        try:
            client.sendall(sent)
            while taken < most:
                client.sendall(more)
                taken += len(more)
            client.settimeout(2)
        except OSError:
            pass
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                said += piece
    return said, taken


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_head_of_any_size_is_refused_before_the_key_is_asked_for(
    serving: Serving, bundle: Path, red: bytes, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("sixteen-or-more-characters\n")
    chunked = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    block = b"x" * 2**16
    attacks = {
        "one header": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: ", block),
        "many headers": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"a:b\r\n" * 13_107),
        "the address": (b"GET /", block),
        "the method": (b"", b"G" * 2**16),
        "trailers": (chunked + b"1\r\nx\r\n0\r\n", b"a:b\r\n" * 13_107),
        "a chunk's extension": (chunked + b"1;", block),
        "a second request behind one": (
            b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET / HTTP/1.1\r\nA: ",
            block,
        ),
    }
    most = 24 * 2**20
    with serving("--bundle", str(bundle), "--api-key-file", str(key)) as server:
        wait_ready(server.address)
        before = memory_mb(server.process.pid)
        for name, (sent, more) in attacks.items():
            said, taken = push(server.address, sent, more, most)
            assert taken < most, f"{name}: the server took all of it"
            assert b" 200 " not in said.partition(b"\r\n")[0] or "second" in name
        assert memory_mb(server.process.pid) - before < 40
        body = body_of(red)
        usual = urllib.request.Request(
            f"{server.address}/v1/predict",
            body,
            {
                "Content-Type": "multipart/form-data; boundary=edge",
                "X-API-Key": key.read_text().strip(),
                "Cookie": "a" * 30_000,
            },
        )
        assert urllib.request.urlopen(usual, timeout=20).status == 200


def test_a_head_that_is_too_long_is_answered(served: str) -> None:
    host, port = served.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: " + b"x" * 65_536)
        assert client.recv(100).startswith(b"HTTP/1.1 431 ")


def test_large_chunked_uploads_are_taken(served: str, red: bytes) -> None:
    """What is counted is the head, not the length of the body nor of its chunks."""
    body = body_of(red + bytes(300_000))
    connection = http.client.HTTPConnection(served.removeprefix("http://"), timeout=20)
    pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    connection.request("POST", "/v1/predict", iter(pieces), headers, encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()


def test_a_card_that_is_no_text_is_shown_and_a_wrong_list_of_hashes_refused(
    serving: Serving, tiny_parts: ModuleType, tmp_path: Path
) -> None:
    parts = tiny_parts.bundle_files()
    card, hashes = tmp_path / "card", tmp_path / "hashes"
    save_bundle(card, tiny_parts.build_record(), parts | {"MODEL_CARD.md": b"caf\xe9"})
    save_bundle(hashes, tiny_parts.build_record(), parts | {"trained_on.txt": b"caf\xe9"})
    with serving("--bundle", str(card)) as server:
        wait_ready(server.address)
    with serving("--bundle", str(hashes)) as server:
        assert server.process.wait(30) == 1
        assert "trained_on.txt: expected a SHA-256 in each line" in server.log()


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


def test_connections_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that say nothing too."""
    monkeypatch.setattr(server_module, "_MOST_CONNECTIONS", 3)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"fine"})

    config = server_module._uvicorn_config(answer, ServiceSettings())  # type: ignore[arg-type]
    config.lifespan = "off"
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        port, idle, seen = listener.getsockname()[1], [], []
        for _ in range(3):
            with contextlib.closing(
                http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            ) as one:
                one.request("GET", "/")
                seen.append(one.getresponse().status)
            idle.append(socket.create_connection(("127.0.0.1", port)))
            time.sleep(0.1)  # until the server has accepted it
        for connection in idle:
            connection.close()
        server.should_exit = True
        thread.join(10)
    assert seen == [200, 200, 503]


def test_a_used_port_and_a_broken_bundle_are_told(tmp_path: Path, serving: Serving) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen at 127.0.0.1, port {port}"):
            serve(
                [tmp_path], ServiceSettings(), host="127.0.0.1", port=port, engine="auto",
                precision="auto", audit_log=None, listening=print,
            )  # fmt: skip
    (tmp_path / "bundle.json").write_text("{}")
    with serving("--bundle", str(tmp_path)) as server:
        assert server.process.wait(30) == 1
        assert "this version reads bundles" in server.log()

"""The cases of ``faults.py`` for the service: a server of its own for each."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fault_tools import Case, expect, run, small_disk

FORM = "multipart/form-data; boundary=edge"


@dataclass
class Server:
    """A running ``leukoscope serve``."""

    process: subprocess.Popen[str]
    port: int
    errors: Path

    def ask(self, image: bytes, name: str = "a.png") -> tuple[int, str]:
        """Status and text of one prediction."""
        disposition = f'Content-Disposition: form-data; name="files"; filename="{name}"'
        body = f"--edge\r\n{disposition}\r\n\r\n".encode() + image + b"\r\n--edge--\r\n"
        asking = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            asking.request("POST", "/v1/predict", body, {"Content-Type": FORM})
            answer = asking.getresponse()
            return answer.status, answer.read().decode()
        finally:
            asking.close()

    def ready(self) -> int:
        """Status of ``/readyz``; 0 where nobody answers."""
        asking = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            asking.request("GET", "/readyz")
            return asking.getresponse().status
        except OSError:
            return 0
        finally:
            asking.close()

    def log(self) -> str:
        """Standard error so far."""
        return self.errors.read_text(encoding="utf-8", errors="replace")


@contextmanager
def serving(folder: Path, *arguments: object) -> Iterator[Server]:
    """Start a server at a free port and wait until it is ready, or has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    errors = folder / f"errors-{port}.txt"
    command = [sys.executable, "-m", "leukoscope", "serve", "--port", port, *arguments]
    with errors.open("w") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=file, text=True)
    server = Server(process, port, errors)
    try:
        while process.poll() is None and server.ready() != 200:
            time.sleep(0.1)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(120)


class Serve:
    """The bundle of phantoms behind HTTP."""

    def __init__(self, home: Path, options: argparse.Namespace) -> None:
        from leukoscope.runtime.bundle import installed_bundles

        self.options, self.kills = options, options.kills_each["serve"]
        home.mkdir(parents=True, exist_ok=True)
        bundle = next(b for b in installed_bundles() if b.name == "phantom")
        self.bundle = shutil.copytree(bundle, home / "bundle")
        self.image = next((self.bundle / "golden").glob("*.png")).read_bytes()
        self.start = ("--bundle", self.bundle, "--engine", "onnxruntime")

    def intact(self, log: Path) -> int:
        """Entries of an audit log whose chain holds."""
        from leukoscope.runtime.audit_log import verify_log

        found = verify_log(log)
        expect(not found.problem, found.problem)
        return found.entries

    def killed(self, out: Path) -> str:
        """Killed while several clients ask; each answer that came has its line."""
        log, got, rng = out / "audit.jsonl", [], random.Random(self.options.seed)

        def ask(server: Server) -> None:
            with suppress(OSError, http.client.HTTPException):
                while True:
                    got.append(server.ask(self.image)[0])

        for _ in range(self.kills):
            with serving(out, *self.start, "--audit-log", log) as server:
                clients = [threading.Thread(target=ask, args=(server,)) for _ in range(3)]
                for client in clients:
                    client.start()
                wanted = len(got) + 5
                while len(got) < wanted:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 0.5))
                server.process.kill()
                for client in clients:
                    client.join()
        expect(set(got) == {200}, f"statuses {set(got)}")
        lines = self.intact(log)
        expect(lines >= len(got), f"{len(got)} answers, {lines} entries")
        return f"{self.kills} kills, {len(got)} answers, each in the log, whose chain holds"

    def full(self, out: Path) -> str:
        """No room for the next line of the log."""
        with small_disk(out / "disk", 16) as change:
            log = out / "disk/audit.jsonl"
            with serving(out, *self.start, "--audit-log", log) as server:
                statuses = [server.ask(self.image)[0]]
                while statuses[-1] == 200 and len(statuses) < 1000:
                    statuses.append(server.ask(self.image)[0])
                expect(statuses[-1] == 500, f"statuses {statuses[-3:]}")
                alive = server.process.poll() is None
                change("size=1m")
                again = server.ask(self.image)[0]
            expect((alive, again) == (True, 200), f"alive {alive}, then {again}")
            lines = self.intact(log)
        words = f"500 without an answer after {len(statuses) - 1} answers"
        expect(lines >= len(statuses), f"{lines} entries")
        return f"{words}; 200 again once there is room, the chain holds"

    def read_only(self, out: Path) -> str:
        """A log that cannot be written."""
        with small_disk(out / "disk", 100) as change:
            change("ro")
            with serving(out, *self.start, "--audit-log", out / "disk/audit.jsonl") as server:
                code = server.process.wait(120)
                expect((code, "cannot be written" in server.log()) == (1, True), server.log())
        with small_disk(out / "other", 100) as change, serving(out, *self.start) as server:
            change("ro")
            expect(server.ask(self.image)[0] == 200, "no answer without a log")
        return "ends with 1 and says so; without a log it answers"

    def removed(self, out: Path, *, change: bool) -> str:
        """The bundle is taken away or damaged, and then to be opened again."""
        bundle = shutil.copytree(self.bundle, out / "bundle")
        with serving(out, "--bundle", bundle, "--engine", "onnxruntime") as server:
            if change:
                (bundle / "model.onnx").write_bytes(b"another")
            else:
                shutil.rmtree(bundle)
            before = server.ask(self.image)[0]
            server.process.send_signal(signal.SIGHUP)
            while "the old models stay" not in server.log() and server.process.poll() is None:
                time.sleep(0.1)
            after = server.ask(self.image)[0]
        expect((before, after) == (200, 200), f"{before}, {after}")
        return "200 before and after SIGHUP, whose failure is logged"

    def clock(self, out: Path) -> str:
        """The last lines of the log come from next year."""
        log, image = out / "audit.jsonl", out / "image.png"
        out.mkdir(parents=True, exist_ok=True)
        image.write_bytes(self.image)

        def before() -> None:
            import datetime

            from leukoscope.runtime import audit_log

            class Later(datetime.datetime):
                @classmethod
                def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
                    return datetime.datetime.now(tz) + datetime.timedelta(days=365)

            audit_log.datetime = Later  # type: ignore[attr-defined]

        done = run("predict", image, "--bundle", self.bundle, "--engine", "onnxruntime",
                   "--out", out / "a.csv", "--audit-log", log, before=before)  # fmt: skip
        expect(done.code == 0, done.said)
        with serving(out, *self.start, "--audit-log", log) as server:
            expect(server.ask(self.image)[0] == 200, "no answer")
        times = [json.loads(line)["time"] for line in log.read_text().splitlines()]
        expect(times[-1] < times[0], f"the clock was not set back: {times}")
        return f"200; {self.intact(log)} entries, the chain holds"

    def two(self, out: Path) -> str:
        """Two servers with one log, then two with one port."""
        log, statuses = out / "audit.jsonl", []
        arguments = (*self.start, "--audit-log", log)
        with serving(out, *arguments) as one, serving(out, *arguments) as two:

            def ask(server: Server) -> None:
                statuses.extend(server.ask(self.image)[0] for _ in range(20))

            clients = [threading.Thread(target=ask, args=(server,)) for server in (one, two)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            third = run("serve", *self.start, "--port", one.port)
        expect(statuses == [200] * 40, f"statuses {set(statuses)}")
        expect((third.code, "cannot listen" in third.said) == (2, True), third.said)
        expect(self.intact(log) == 40, "entries")
        return "40 answers, 40 entries in one chain; the port is refused with exit 2"

    def slow(self, out: Path) -> str:
        """Clients that send a byte now and then hold up nobody."""
        with serving(out, *self.start, "--upload-timeout", 2) as server:
            slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
            head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {FORM}\r\n"
            for connection in slow:
                connection.sendall(f"{head}Content-Length: 100000\r\n\r\n--edge".encode())
            status = server.ask(self.image)[0]
            answers = []
            for connection in slow:
                connection.settimeout(30)
                answers.append(connection.recv(100).split(b" ")[1])
                connection.close()
        expect((status, set(answers)) == (200, {b"408"}), f"{status}, {set(answers)}")
        return "20 slow clients got 408 after `--upload-timeout`, another one 200 meanwhile"

    def names(self, out: Path) -> str:
        """File names that might break the answer."""
        sys.path.insert(0, str(Path(__file__).parent))
        from fuzz_service import NAMES

        with serving(out, *self.start) as server:
            said = [server.ask(self.image, name) for name in NAMES]
            log = server.log()
        statuses = {status for status, _ in said}
        expect(statuses <= {200, 400, 422}, f"statuses {statuses}")
        shown = [json.loads(text)["predictions"][0]["image"] for s, text in said if s == 200]
        expect(all(name.isprintable() for name in shown), f"names {shown}")
        expect("passwd" not in log, "a name is in the log")
        return f"{len(NAMES)} names: {len(shown)} answered without control characters, none logged"

    def cases(self) -> list[Case]:
        """All of them."""
        changed, removed = partial(self.removed, change=True), partial(self.removed, change=False)
        return [
            Case("serve", f"kill -9 at {self.kills} moments under load",
                 "no answer without its line in the audit log", self.killed),
            Case("serve", "full disk under the audit log", "no answer without its line", self.full),
            Case("serve", "read-only disk", "says so; answers need no disk", self.read_only),
            Case("serve", "bundle removed", "goes on with what is loaded", removed),
            Case("serve", "bundle changed", "goes on with what is loaded", changed),
            Case("serve", "clock set back a year", "the log's chain holds", self.clock),
            Case("serve", "two writers of a log, two servers at a port",
                 "one chain; the second is refused", self.two),
            Case("serve", "slow uploads", "408, others are answered", self.slow),
            Case("serve", "hostile names", "answers without control characters", self.names),
        ]  # fmt: skip


def serve_cases(home: Path, options: argparse.Namespace) -> list[Case]:
    """Every case."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    return Serve(home, options).cases()

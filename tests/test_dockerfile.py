"""The Dockerfile against the code: what it copies, installs, starts and asks is there."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from leukoscope.cli.commands.serve import serve
from leukoscope.service.guard import OPEN

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lines(instruction: str) -> list[str]:
    """What follows an instruction, each time it stands there."""
    return re.findall(rf"^\s*{instruction} (.+)$", TEXT, re.MULTILINE)


def plain(requirement: str) -> str:
    """The name of a package as registries compare it."""
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_base_image_is_one_version_of_a_python_that_is_supported() -> None:
    (base,) = lines("ARG")
    version = re.fullmatch(r"PYTHON=python:(3\.\d+)\.\d+-slim-\w+", base)
    assert version is not None
    assert PROJECT["requires-python"] == f">={version[1]}"
    assert [line.split()[0] for line in lines("FROM")] == ["${PYTHON}"] * 2


def test_what_is_copied_is_there_and_no_more_is_sent() -> None:
    copied = [name for line in lines("COPY") if "--from" not in line for name in line.split()[:-1]]
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{name}" for name in copied} == {line for line in allowed if line[:1] == "!"}
    assert allowed[0] == "*"
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= set(copied)


def test_every_package_that_is_installed_by_name_is_pinned() -> None:
    (extras,) = re.findall(r"'\.\[(.+?)\]'", TEXT)
    assert "--constraint constraints.txt" in TEXT
    wanted = list(PROJECT["dependencies"])
    for extra in extras.split(","):
        wanted += PROJECT["optional-dependencies"][extra]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {plain(line) for line in constraints.splitlines()}
    assert not {plain(item) for item in wanted} - pinned


def test_it_is_no_root_and_starts_a_command_that_exists() -> None:
    (user,) = lines("USER")
    assert int(user) > 0
    words = [word for name in ("ENTRYPOINT", "CMD") for word in json.loads(lines(name)[0])]
    assert words[:2] == ["leukoscope", "serve"]
    options = {word.removeprefix("--").replace("-", "_") for word in words if word[:2] == "--"}
    assert options <= set(inspect.signature(serve).parameters)


def test_its_health_is_asked_at_an_open_address_of_the_port() -> None:
    port = inspect.signature(serve).parameters["port"].default
    assert lines("EXPOSE") == [str(port)]
    ((asked, path),) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", TEXT)
    assert (int(asked), path in OPEN) == (port, True)


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_its_question_of_health_goes_through_no_proxy(status: int, code: int) -> None:
    """Docker may give every container the proxy of its user."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    (asks,) = re.findall(r"^HEALTHCHECK .*CMD (.+)$", TEXT, re.MULTILINE)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.handle_request, daemon=True).start()
        _, *words = json.loads(asks.replace("8000", str(server.server_port)))
        command = [sys.executable, *words]
        proxy = {"http_proxy": "http://127.0.0.1:9"}
        done = subprocess.run(
            command, check=False, env={**os.environ, **proxy}, capture_output=True
        )
    assert done.returncode == code, done.stderr

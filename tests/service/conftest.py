"""A server in this process, and one of its own, both with the tiny hand-made bundle."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from leukoscope.runtime.bundle import save_bundle
from leukoscope.runtime.heatmap import encode_png
from leukoscope.service.app import build_app
from leukoscope.service.model_pool import ModelPool
from leukoscope.service.settings import ServiceSettings
from leukoscope.service.telemetry import Metrics

ROOT = Path(__file__).resolve().parents[2]
Running = SimpleNamespace


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem + "_of_tests", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_parts() -> ModuleType:
    """The helpers that make the tiny bundle."""
    return _load(ROOT / "tests/runtime/conftest.py")


@pytest.fixture(scope="session")
def fuzz() -> ModuleType:
    """The module that makes broken uploads."""
    return _load(ROOT / "benchmarks/fuzz_service.py")


@pytest.fixture(scope="session")
def bundle(tiny_parts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is never written to."""
    folder = tmp_path_factory.mktemp("service") / "bundle"
    record, parts = tiny_parts.with_cases()
    card = b"# tiny\n\n| a | b |\n| --- | ---: |\n| <b>1</b> | 2 |\n"
    save_bundle(folder, record, parts | {"MODEL_CARD.md": card})
    return folder


@pytest.fixture(scope="session")
def red(tiny_parts: ModuleType) -> bytes:
    """A PNG that the tiny bundle calls benign and knows."""
    return encode_png(tiny_parts.colour(102, 51, 51))


@pytest.fixture(scope="session")
def foreign(tiny_parts: ModuleType) -> bytes:
    """A PNG that the tiny bundle rejects: far too dark."""
    return encode_png(tiny_parts.colour(1, 2, 1, noise=1))


@pytest.fixture
def app_with(bundle: Path) -> Callable[..., AbstractContextManager[TestClient]]:
    """A client of a server with these settings."""

    @contextmanager
    def start(*folders: Path, on_answers: Any = None, **values: Any) -> Iterator[TestClient]:
        settings, metrics = ServiceSettings(**values), Metrics()
        more = {} if on_answers is None else {"on_answers": on_answers}
        models = ModelPool(folders or (bundle,), "onnxruntime", "fp32", settings, metrics, **more)
        app = build_app(models, settings, metrics)
        app.state.models = models
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client

    return start


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[TestClient]:
    """A client of a server with the default settings."""
    settings, metrics = ServiceSettings(), Metrics()
    models = ModelPool((bundle,), "onnxruntime", "fp32", settings, metrics)
    with TestClient(build_app(models, settings, metrics), raise_server_exceptions=False) as found:
        yield found


@contextmanager
def _serving(*arguments: str) -> Iterator[Running]:
    command = [sys.executable, "-m", "leukoscope", "serve", *arguments, "--port", "0", "--json"]
    command += ["--engine", "onnxruntime"]
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "stderr.txt"  # a pipe that nobody reads would stop the server
        with errors.open("w") as file:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

        def log() -> str:
            process.wait(30)
            return errors.read_text()

        assert process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, log()
            text += line
        try:
            yield SimpleNamespace(process=process, address=json.loads(text)["address"], log=log)
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=30)


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[Running]]:
    """Starts ``leukoscope serve`` with these arguments at a free port."""
    return _serving


@pytest.fixture(scope="session")
def served(bundle: Path) -> Iterator[str]:
    """The address of one server with the default settings, for tests that do no more than ask."""
    with _serving("--bundle", str(bundle)) as server:
        _wait(server.address)
        yield server.address


@pytest.fixture(scope="session")
def wait_for_server() -> Callable[[str], None]:
    """Wait until the server at an address answers that it is ready."""
    return _wait


def _wait(address: str) -> None:
    for _ in range(600):
        with suppress(OSError):
            urllib.request.urlopen(f"{address}/readyz", timeout=10).close()
            return
        time.sleep(0.05)

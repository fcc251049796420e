"""Fixtures that several packages share."""

from __future__ import annotations

import gc
import importlib.util
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from typer import testing

from leukoscope.cli.lean import keep_freed_memory
from leukoscope.config.passport import Passport
from leukoscope.core.files import read_csv, write_csv
from leukoscope.core.user_cache import VARIABLE
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline import perturbed

ROOT = Path(__file__).resolve().parents[1]
keep_freed_memory()  # as the program does
testing._get_command = cache(testing._get_command)  # type: ignore[attr-defined]
"""A command is built once, not for each call of it."""
gc.disable()  # until all modules are there: nothing of them is garbage


def pytest_collection_finish() -> None:
    """Leave modules and tests out of every later search for garbage."""
    gc.enable()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let libraries take apart what they hold."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the public data sets; the test is skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the public data sets are not on this machine")
    return folder


@pytest.fixture(scope="session", autouse=True)
def user_cache(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this program keeps for a user, shared by all processes of these tests and by later runs.

    It holds traced graphs, which take seconds each. Their keys cover the versions of what traces
    and the code of ``learning``: where one of them changes, they are traced again.
    """
    cache = getattr(pytestconfig, "cache", None)  # none with -p no:cacheprovider
    folder = tmp_path_factory.mktemp("user-cache") if cache is None else cache.mkdir("user-cache")
    os.environ[VARIABLE] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection but loopback is an error."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> object:
        host = address[0] if isinstance(address, tuple) else address
        local = isinstance(host, (str, bytes)) and str(host).startswith(
            ("127.", "/", "::1", "localhost")
        )
        if self.family != socket.AF_UNIX and not local:
            raise AssertionError(f"a test tried to reach the network: {address!r}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def small_quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe ``quick`` with a small network, no weights and small images."""
    path = tmp_path_factory.mktemp("recipes") / "quick.toml"
    path.write_text(
        'name = "quick"\ntitle = "for tests"\n[preprocess]\nsize_px = 64\n'
        '[model]\nbackbone = "test_resnet"\nweights = "none"\n'
        '[training]\nmethod = "linear-head"\nc_grid = [0.003, 0.3]\nrefit_with_val = true\n'
    )
    return path


@pytest.fixture
def no_study_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies end without their report: its figures take longer than a small training."""
    monkeypatch.setattr("leukoscope.reporting.study.report.write_report", lambda *_, **__: None)


@contextmanager
def _charts_not_drawn() -> Iterator[None]:
    def empty(figure: object, name: str) -> str:
        return f'<svg viewBox="0 0 1 1"><title>{name}</title></svg>'

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("leukoscope.reporting.gallery.figure_svg", empty)
        yield


@pytest.fixture
def bare_charts() -> Iterator[None]:
    """Charts are made but not drawn, which takes most of the time of a page; others draw them."""
    with _charts_not_drawn():
        yield


@pytest.fixture(scope="module")
def bare_charts_here() -> Iterator[None]:
    """The same for all tests of a module from now on."""
    with _charts_not_drawn():
        yield


@pytest.fixture(scope="module")
def few_perturbed() -> Iterator[None]:
    """Models are applied to 24 perturbed images at most, not to 300."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perturbed.perturbed_rows, "__defaults__", (24,))
        yield


@pytest.fixture(scope="session")
def broken_images() -> ModuleType:
    """The module that writes twenty kinds of unusual files."""
    spec = importlib.util.spec_from_file_location("broken_images", ROOT / "tests/broken_images.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def four_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 fields with patient ids."""
    spec = PhantomSpec(images=48, sessions=8, size_px=96, seed=3)
    return write_phantoms(spec, tmp_path_factory.mktemp("target") / "four")


@pytest.fixture(scope="session")
def two_classes(four_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 fields, healthy or leukemic, and two of the four-class set among them."""
    spec = PhantomSpec(images=48, sessions=8, size_px=96, seed=4)
    folder = write_phantoms(spec, tmp_path_factory.mktemp("source") / "two")
    rows = [
        {
            "path": row["path"],
            "label": "hem" if row["label"] == "benign" else "all",
            "patient_id": row["patient_id"],
        }
        for row in read_csv(folder / "manifest.csv")
    ]
    rows += [
        {"path": str(four_classes / row["path"]), "label": "all", "patient_id": "guest"}
        for row in read_csv(four_classes / "manifest.csv")[1:3]
    ]
    write_csv(folder / "binary.csv", ("path", "label", "patient_id"), rows)
    return folder / "binary.csv"


@pytest.fixture(scope="session")
def bare_passport() -> Passport:
    """The passport of a data set in which no image is linked to another."""
    nothing = {"pairs": 0, "images": 0, "groups": []}
    return {
        "schema": 1, "leukoscope": "", "root_name": "", "layout": "", "notes": [],
        "n_files": 0, "n_usable": 0, "classes": {}, "quarantined": [], "excluded": {},
        "exact_duplicates": nothing, "pixel_duplicates": nothing, "twins": nothing,
        "near_duplicates": {**nothing, "turned": 0},
        "overlaps": {"groups": 0, "images": 0, "largest": 0, "by_class": {}, "pairs": []},
        "components": {"groups": 0, "images": 0, "largest": 0, "sizes": {}},
        "label_conflicts": [],
        "patients": {"n": 0, "n_given": 0, "images": 0, "by_class": {}, "merged": [],
                     "links_across": 0},
        "given_parts": {"parts": {}, "leaking_components": [], "leaking_patients": {}},
        "scale_bars": {"images": 0, "by_class": {}, "red": 0, "boxes": {}, "cramers_v": None},
        "acquisition": {"applicable": False, "reason": "not looked for"},
        "class_balance": {"chi2": None, "p": None, "entropy": None, "ratio": None},
    }  # fmt: skip

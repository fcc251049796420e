"""Fetching public sets, against a server on this machine."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from leukoscope.core.errors import DataError, MissingExtraError, UnknownNameError, UsageError
from leukoscope.datasets.fetch import BLOCK_BYTES, BLOOD_CELLS, fetch, record_path
from leukoscope.datasets.fetch_registry import PUBLIC_SETS, PublicSet, public_set
from leukoscope.datasets.layouts.inspection import inspect_dataset
from leukoscope.datasets.layouts.load import load_dataset

SMALL = 16  # cells of each part


def silent(step: str, done: int, total: int) -> None:
    """Tells nobody."""


def archive() -> bytes:
    """A small file in the form of BloodMNIST."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = rng.integers(0, 256, (SMALL, 28, 28, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(SMALL) % 8).astype(np.uint8)[:, None]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves one file, with the faults that a test asks for.

    Attributes:
        body: The file.
        cut: For each of the next answers, after how many bytes the connection breaks.
        ranges: Whether parts of the file can be asked for.
        asked: The Range header of every request.
        status: What it answers.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.ranges, self.status = body, True, 200
        self.cut: list[int] = []
        self.asked: list[str] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.asked.append(asked)
        body, status = self.server.body, self.server.status
        if status != 200:
            self.send_error(status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if asked and self.server.ranges and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if asked and self.server.ranges:
            self.send_response(206)
            body = body[start:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cut.pop(0) if self.server.cut else len(body)
        self.wfile.write(body[:cut])

    def do_POST(self) -> None:
        """Kaggle's client asks by POST."""
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(archive()) as running:
        thread = Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def blood(server: Server) -> PublicSet:
    """BloodMNIST as the server has it."""
    return replace(
        public_set("bloodmnist"),
        url=f"http://127.0.0.1:{server.server_port}/bloodmnist.npz?download=1",
        checksum=f"md5:{hashlib.md5(server.body).hexdigest()}",
        images=3 * SMALL,
        needed_mb=1,
    )


def test_a_fetched_set_can_be_read_and_is_verified_when_there(
    server: Server, blood: PublicSet, tmp_path: Path
) -> None:
    out = tmp_path / "blood"
    steps: set[str] = set()
    done = fetch(blood, out, lambda step, done, total: steps.add(step))
    assert (done.state, done.images) == ("fetched", 3 * SMALL)
    assert {"downloading", "writing images"} <= steps
    found = inspect_dataset(out)
    assert found.layout == "csv-manifest"
    assert found.parts == {"test": 12, "train": 12, "val": 12}
    assert found.excluded == {"no label": 12}
    cells = inspect_dataset(out, target="cell_type").folders
    assert {row.found: row.label for row in cells}["platelet"] == "thrombocyte"
    manifest = load_dataset(out)
    assert {record.label for record in manifest.usable} == {"healthy"}
    with np.load(io.BytesIO(server.body)) as arrays:
        from leukoscope.imaging.decode import decode_image

        file = out / "val" / BLOOD_CELLS[3] / "val_00003.png"
        assert (decode_image(file).image == arrays["val_images"][3]).all()
    record = json.loads(record_path(out).read_text())
    assert record["licence"] == "CC BY 4.0"
    assert not out.with_name("blood.part").exists()
    requests = len(server.asked)
    assert fetch(blood, out, silent).state == "verified"
    assert len(server.asked) == requests


def test_what_has_changed_since_is_named(blood: PublicSet, tmp_path: Path) -> None:
    out = tmp_path / "blood"
    fetch(blood, out, silent)
    files = sorted(out.rglob("*.png"))
    files[0].write_bytes(b"other")
    files[1].unlink()
    (out / "more.png").write_bytes(b"new")
    with pytest.raises(DataError) as caught:
        fetch(blood, out, silent)
    for word in (f"{files[0].name} has changed", f"{files[1].name} is missing", "more.png is new"):
        assert word in caught.value.message
    assert str(out) in caught.value.hint


def test_a_broken_connection_is_taken_up_where_it_stopped(
    server: Server, blood: PublicSet, tmp_path: Path
) -> None:
    server.cut = [40_000, 20_000]
    assert fetch(blood, tmp_path / "blood", silent).state == "fetched"
    assert server.asked == ["", f"bytes={2 * BLOCK_BYTES}-", f"bytes={3 * BLOCK_BYTES}-"]


def test_a_killed_download_goes_on_in_the_next_run(
    server: Server, blood: PublicSet, tmp_path: Path
) -> None:
    server.cut = [40_000, 20_000, 20_000]
    with pytest.raises(DataError, match="what came is kept in") as caught:
        fetch(blood, tmp_path / "blood", silent)
    assert blood.url in caught.value.hint
    assert not (tmp_path / "blood").exists()
    assert fetch(blood, tmp_path / "blood", silent).state == "fetched"
    assert server.asked[-1] == f"bytes={4 * BLOCK_BYTES}-"


def test_a_server_without_ranges_sends_everything_again(
    server: Server, blood: PublicSet, tmp_path: Path
) -> None:
    server.cut, server.ranges = [40_000], False
    assert fetch(blood, tmp_path / "blood", silent).state == "fetched"


@pytest.mark.parametrize("extra", [b"", b"and more"])
def test_a_partial_file_that_is_already_whole_or_too_long(
    server: Server, blood: PublicSet, tmp_path: Path, extra: bytes
) -> None:
    part = tmp_path / "blood.part"
    part.mkdir()
    (part / "bloodmnist.npz.partial").write_bytes(server.body + extra)
    assert fetch(blood, tmp_path / "blood", silent).state == "fetched"


def test_a_file_put_there_by_hand_needs_no_network(
    server: Server, blood: PublicSet, tmp_path: Path
) -> None:
    part = tmp_path / "blood.part"
    part.mkdir()
    (part / "bloodmnist.npz").write_bytes(server.body)
    assert fetch(blood, tmp_path / "blood", silent).state == "fetched"
    assert server.asked == []


def test_a_linked_folder_is_filled_and_the_current_one_refused(
    blood: PublicSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk" / "blood"
    disk.mkdir(parents=True)
    (tmp_path / "link").symlink_to(disk)
    done = fetch(blood, tmp_path / "link", silent)
    assert done.folder == disk
    assert fetch(blood, tmp_path / "link", silent).state == "verified"
    monkeypatch.chdir(disk)
    assert fetch(blood, Path(), silent).state == "verified"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UsageError, match="the current one"):
        fetch(blood, Path(), silent)


def test_a_wrong_checksum_leaves_nothing(blood: PublicSet, tmp_path: Path) -> None:
    other = replace(blood, checksum="md5:" + "0" * 32)
    with pytest.raises(DataError, match=r"another checksum than the published md5:0000"):
        fetch(other, tmp_path / "blood", silent)
    assert not (tmp_path / "blood").exists()
    assert not (tmp_path / "blood.part").exists()


def test_a_missing_file_is_named_with_its_status(
    server: Server, blood: PublicSet, tmp_path: Path
) -> None:
    server.status = 404
    with pytest.raises(DataError, match="expected the file, got 404") as caught:
        fetch(blood, tmp_path / "blood", silent)
    assert "bloodmnist.npz" in caught.value.hint


def test_no_network_says_what_to_do_by_hand(blood: PublicSet, tmp_path: Path) -> None:
    nobody = replace(blood, url="http://127.0.0.1:9/bloodmnist.npz")
    with pytest.raises(DataError, match="the connection failed") as caught:
        fetch(nobody, tmp_path / "blood", silent)
    assert nobody.url in caught.value.hint
    assert str(tmp_path / "blood.part" / "bloodmnist.npz") in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_archive_and_a_full_disk(
    server: Server, blood: PublicSet, tmp_path: Path
) -> None:
    server.body = b"no archive"
    other = replace(blood, checksum="")
    with pytest.raises(DataError, match="expected <part>_images"):
        fetch(other, tmp_path / "blood", silent)
    with pytest.raises(DataError, match="MB of free disk"):
        fetch(replace(blood, needed_mb=10**9), tmp_path / "other", silent)


@pytest.fixture
def kaggle(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """Kaggle's own client, with the server in Kaggle's place and no credentials."""
    from kagglesdk import kaggle_env

    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, place)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield server
    with warnings.catch_warnings():  # the client leaves its connection to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def zipped(count: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for number in range(count):
            file.writestr(f"Original/Benign/WBC-Benign-{number:03d}.png", bytes([number]))
    return buffer.getvalue()


def test_a_set_of_kaggle_comes_through_its_client(kaggle: Server, tmp_path: Path) -> None:
    kaggle.body = zipped(5)
    item = replace(public_set("all-4class"), images=5, needed_mb=1)
    out = tmp_path / "data" / "all"
    done = fetch(item, out, silent)
    assert (done.state, done.images) == ("fetched", 5)
    assert "no checksums of its files are published" in done.checked
    assert inspect_dataset(out).folders[0].label == "benign"
    assert sorted(path.name for path in out.parent.iterdir()) == ["all", "all.fetched.json"]
    assert fetch(item, out, silent).state == "verified"


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [(403, "Kaggle refuses", "kaggle.json"), (404, "the download failed", "unpack it into")],
)
def test_a_refusal_of_kaggle_says_how_to_get_in(
    kaggle: Server, tmp_path: Path, status: int, message: str, hint: str
) -> None:
    kaggle.status = status
    item = replace(public_set("cnmc-2019"), needed_mb=1)
    with pytest.raises(DataError, match=message) as caught:
        fetch(item, tmp_path / "cnmc", silent)
    assert hint in caught.value.hint
    assert item.page in caught.value.hint
    assert not (tmp_path / "cnmc.part").exists()


def test_a_set_put_there_by_hand_is_counted_and_recorded(tmp_path: Path) -> None:
    item = replace(public_set("all-4class"), images=3)
    out = tmp_path / "all"
    with zipfile.ZipFile(io.BytesIO(zipped(3))) as file:
        file.extractall(out)
    done = fetch(item, out, silent)
    assert done.state == "recorded"
    assert fetch(item, out, silent).state == "verified"
    with pytest.raises(DataError, match="expected the record of cnmc-2019, found that of all-4"):
        fetch(public_set("cnmc-2019"), out, silent)
    record_path(out).unlink()
    with pytest.raises(DataError, match="at least 10,661 images"):
        fetch(public_set("cnmc-2019"), out, silent)


@pytest.mark.parametrize(("name", "module"), [("bloodmnist", "pooch"), ("cnmc-2019", "kagglehub")])
def test_without_the_clients_it_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"\[fetch\]"):
        fetch(replace(public_set(name), needed_mb=1), tmp_path / name, silent)


def test_c_nmc_as_kaggle_has_it_is_read_with_its_folds(tmp_path: Path) -> None:
    """The tree of the published archive, with its test phases that carry no labels."""
    root = tmp_path / "cnmc-2019" / "C-NMC_Leukemia"
    for fold in range(3):
        for label, patient in (("all", "11"), ("hem", "H3")):
            for number in range(3):
                name = f"UID_{patient}_{number}_{fold}_{label}.bmp"
                place = root / "training_data" / f"fold_{fold}" / label
                place.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(b"BM")
    for place in ("testing_data/C-NMC_test_final_phase_data",
                  "validation_data/C-NMC_test_prelim_phase_data"):  # fmt: skip
        (root / place).mkdir(parents=True)
        (root / place / "1.bmp").write_bytes(b"BM")
    table = root / "validation_data" / "C-NMC_test_prelim_phase_data_labels.csv"
    table.write_text("Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\n")
    found = inspect_dataset(tmp_path / "cnmc-2019")
    assert found.layout == "cnmc"
    assert found.parts == {"fold_0": 6, "fold_1": 6, "fold_2": 6}
    assert found.patients == 2
    assert found.images == 18
    assert inspect_dataset(root / "validation_data").layout == "cnmc-preliminary"


def test_the_registry_is_complete() -> None:
    for name, item in PUBLIC_SETS.items():
        assert item.name == name
        assert bool(item.kaggle) != bool(item.url)
        assert item.size
        assert item.licence
        assert all("doi 10." in text for text in item.citation)
    with pytest.raises(UnknownNameError, match="blodmnist") as caught:
        public_set("blodmnist")
    assert "Did you mean 'bloodmnist'?" in caught.value.hint

"""The distribution of bundles in this repository: what is in it works and may be given away."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.core.errors import BundleError
from leukoscope.core.run_folder import RunFolder
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.runtime.bundle import PACKAGE, read_bundle, save_bundle
from leukoscope.runtime.golden import verify_bundle

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "bundles" / "src"
ENGINE = ("--engine", "onnxruntime")
BUNDLES = sorted(record.parent for record in (SOURCE / PACKAGE).glob("*/bundle.json"))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SOURCE))
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_bundles", ROOT / "bundles" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda path: path.name)
def test_each_bundle_works_and_is_described(folder: Path) -> None:
    checks = verify_bundle(folder, "onnxruntime")
    assert all(check.ok for check in checks), checks
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 16_000_000
    card = (folder / "MODEL_CARD.md").read_text()
    for part in (f"python bundles/build.py {folder.name}", "## Cite", "held out"):
        assert part in card
    assert f"`{folder.name}`" in (ROOT / "bundles" / "README.md").read_text()
    assert f"\n  {folder.name} " in (ROOT / "bundles" / "LICENSE").read_text()


def test_predict_finds_them_by_itself(installed: None, tmp_path: Path) -> None:
    folder = write_phantoms(PhantomSpec(images=4, sessions=4, seed=99), tmp_path / "phantoms")
    done = CliRunner().invoke(app, ["predict", str(folder), "--json", *ENGINE])
    assert done.exit_code == 0, done.output
    answers = json.loads(done.stdout)
    assert len(answers) == 4
    assert all(answer["model"].startswith("phantom@") for answer in answers)
    listed = json.loads(CliRunner().invoke(app, ["bundle", "list", "--json"]).stdout)
    assert [Path(row["folder"]) for row in listed] == BUNDLES


def test_twenty_broken_files_are_named(
    installed: None, broken_images: ModuleType, tmp_path: Path
) -> None:
    folder, out = broken_images.write_broken_images(tmp_path / "broken"), tmp_path / "out.jsonl"
    done = CliRunner().invoke(app, ["predict", str(folder), "--out", str(out), *ENGINE])
    assert done.exit_code == 3
    rows = {Path(row["image"]).name: row for row in map(json.loads, out.read_text().splitlines())}
    assert len(broken_images.BROKEN) == 20
    expected = dict(broken_images.EXPECTED)
    assert expected.pop("notes.txt")
    assert "notes.txt" not in rows  # a text beside the images
    for name, reason in expected.items():
        assert (rows[name]["error"] or "").partition(":")[0] == reason
        assert bool(rows[name]["predicted"]) == (reason == "")
    for name in set(broken_images.BROKEN) & set(expected):
        assert f"could not be read: {folder / name}" in done.stderr
    pages = " ".join(rows["pages.tif"]["reasons"])
    assert "2 pages; the first one was read" in pages


def test_what_may_not_be_given_away_is_refused(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    data = write_phantoms(PhantomSpec(images=4, sessions=1, size_px=96), tmp_path / "data")
    monkeypatch.setattr(build, "_data_of", lambda _: (str(data), set()))
    folder = BUNDLES[-1]
    record = read_bundle(folder).record
    assert build.check(folder, record, run) < build.MOST_BYTES

    def refused(message: str, **files: bytes | Path) -> None:
        whole = {name: folder / name for name in record.files} | files
        changed = save_bundle(tmp_path / "changed", record, whole)
        with pytest.raises(BundleError, match=message):
            build.check(tmp_path / "changed", changed, run)

    picture = next(data.rglob("phantom-*.png"))
    refused("not drawn", **{"golden/09.png": picture})
    refused("not drawn", **{"golden/09.jpg": picture})
    refused("names a folder", **{"MODEL_CARD.md": f"of {data}".encode()})
    monkeypatch.setattr(build, "MOST_BYTES", 1000)
    refused("at most 1,000 bytes")

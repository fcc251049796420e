"""Without --bundle: which installed bundle is taken, what is said, what is rejected."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from leukoscope.cli.main import app
from leukoscope.config.bundle import QualityLimits
from leukoscope.core.errors import BundleError
from leukoscope.runtime import bundle
from leukoscope.runtime.bundle import save_bundle
from leukoscope.runtime.bundle_matching import choose_bundle
from leukoscope.runtime.heatmap import encode_png
from leukoscope.runtime.predictor import load_bundle

DARK, BRIGHT, GLARING = (30, 12, 12), (140, 90, 90), (250, 250, 250)


@pytest.fixture
def installed(tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bundles that know dark and bright pictures, as an installed package."""
    package = tmp_path / "site" / bundle.PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name, low, high in (("dark", 10.0, 25.0), ("bright", 80.0, 130.0)):
        limits = QualityLimits(low={"brightness": low}, high={"brightness": high})
        save_bundle(package / name, tiny.record(name=name, quality=limits), tiny.files())
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, bundle.PACKAGE, raising=False)
    return package


def picture(folder: Path, name: str, rgb: tuple[int, int, int], tiny: SimpleNamespace) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(encode_png(tiny.colour(*rgb)))
    return folder / name


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_the_bundle_that_the_image_resembles(
    installed: Path, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    for name, rgb in (("dark", DARK), ("bright", BRIGHT)):
        done = predict(picture(tmp_path / "in", f"{name}.png", rgb, tiny), "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)[0]["model"].startswith(f"{name}@")
        assert f"bundle {name}: the image resembles its training images" in done.stderr


def test_an_image_that_resembles_none_is_rejected_with_the_reason(
    installed: Path, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    done = predict(picture(tmp_path / "in", "glare.png", GLARING, tiny), "--json")
    (answer,) = json.loads(done.stdout)
    assert (done.exit_code, answer["decision"]) == (0, "reject")
    assert "brighter" in " ".join(answer["reasons"])
    assert "unlike the training images of every installed bundle" in done.stderr


def test_one_bundle_serves_a_run_and_what_fits_another_is_named(
    installed: Path, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    for k in range(3):
        picture(tmp_path / "in", f"{k}.png", (140, 90, 90 + k), tiny)
    odd = picture(tmp_path / "in", "odd.png", DARK, tiny)
    done = predict(tmp_path / "in", "--out", tmp_path / "out.jsonl")
    assert done.exit_code == 0
    assert "bundle bright: 3 of the 4 images that were looked at resemble" in done.stderr
    assert f"{odd} fits dark better" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {row["model"].partition("@")[0] for row in rows} == {"bright"}


def test_damaged_and_missing_bundles(
    installed: Path, tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(tmp_path / "in", "a.png", BRIGHT, tiny)
    assert load_bundle("dark").model.startswith("dark@")
    with pytest.raises(BundleError, match="no such folder") as caught:
        load_bundle("drak")
    assert "installed by name: bright, dark" in str(caught.value.hint)
    (installed / "dark" / "LICENSE").write_text("changed")
    folders = bundle.installed_bundles()
    assert [folder.name for folder in folders] == ["bright", "dark"]
    assert "only bundle installed" in choose_bundle(folders, [image]).why
    with pytest.raises(BundleError, match="changed"):
        choose_bundle(folders[1:], [image])
    listed = json.loads(CliRunner().invoke(app, ["bundle", "list", "--json"]).stdout)
    assert [bool(row["problem"]) for row in listed] == [False, True]
    shutil.rmtree(installed / "bright")
    shutil.rmtree(installed / "dark")
    done = predict(image)
    assert done.exit_code == 1
    assert "none is installed" in done.stderr
    assert "no bundle is installed" in CliRunner().invoke(app, ["bundle", "list"]).stderr
    monkeypatch.setattr(bundle, "PACKAGE", "no_such_package")
    assert bundle.installed_bundles() == []


def test_nothing_readable_takes_any_bundle_and_names_the_files(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no image")
    done = predict(tmp_path / "text.png")
    assert done.exit_code == 3
    assert "none of the images could be looked at" in done.stderr

"""The command line, Python, the API and the page give the same answer to the same image."""

from __future__ import annotations

import csv
import io
import json
import re
from base64 import b64decode
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.config.bundle import ModelField
from leukoscope.phantom.render import render_phantom
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.runtime.bundle import save_bundle
from leukoscope.runtime.predictor import load_bundle

SAME = ("predicted", "p_benign", "p_pre_b", "p_pro_b", "p_malignant", "prediction_set", "decision",
        "reasons", "ood_score", "quality", "tiles", "sha256")  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tiny_parts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of fields of 96 px."""
    folder = tmp_path_factory.mktemp("same") / "bundle"
    field = ModelField(width_px=96, height_px=96, largest_px=96, shows="field")
    save_bundle(folder, tiny_parts.build_record(field=field), tiny_parts.bundle_files())
    return folder


def _inputs() -> dict[str, bytes]:
    """A field as the model knows it, one that is nine times as large, one empty, one broken."""
    drawn = render_phantom(PhantomSpec(images=8, sessions=1, seed=5), 0).image
    large = np.tile(drawn, (2, 2, 1))
    inputs = {}
    for name, image in {
        "small.png": drawn[:96, :96],
        "large.png": large,
        "empty.png": np.full((400, 300, 3), 236, np.uint8),
    }.items():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        inputs[name] = file.getvalue()
    grey = io.BytesIO()
    Image.fromarray(large).convert("L").save(grey, "TIFF")
    return {**inputs, "grey.tif": grey.getvalue(), "broken.png": inputs["large.png"][:900]}


@pytest.fixture(scope="module")
def asked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The inputs as files, and what the command line says of them."""
    folder = tmp_path_factory.mktemp("asked")
    files = []
    for name, data in _inputs().items():
        (folder / name).write_bytes(data)
        files.append(folder / name)
    command = ["predict", *map(str, files), "-b", str(bundle), "--engine", "onnxruntime",
               "--precision", "fp32", "--json"]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 3, done.output
    return files, json.loads(done.stdout)


def _same(one: dict[str, Any], other: dict[str, Any]) -> None:
    if "error" in one:
        assert one["error"] == other["error"]
        return
    for name in SAME:
        mine, theirs = one.get(name), other.get(name)  # tiles are of images that were cut only
        if isinstance(mine, float) or name == "quality":
            theirs = pytest.approx(theirs, abs=1e-5)
        assert mine == theirs, name


def test_python(bundle: Path, asked: Any) -> None:
    files, said = asked
    predictor = load_bundle(bundle, engine="onnxruntime", precision="fp32")
    for sources in (files, [path.read_bytes() for path in files]):
        answers = predictor.predict(sources, on_error="keep")
        for one, other in zip(said, answers, strict=True):
            row = other.as_dict()
            if "error" in row:  # names the file, or its number
                assert one["error"].split(":")[0] == row["error"].split(":")[0]
            else:
                _same(one, row)
    assert [row.get("tiles") is not None for row in said] == [False, True, False, False, False]


def test_the_api(bundle: Path, asked: Any, app_with: Any) -> None:
    files, said = asked
    with app_with(bundle) as client:
        sent = [("files", (path.name, path.read_bytes())) for path in files]
        found = client.post("/v1/predict?explain=true", files=sent).json()
    rows = {row["image"]: row for row in found["predictions"]}
    for path, one in zip(files, said, strict=True):
        if path.name in rows:
            _same(one, rows[path.name])
    assert [row["image"] for row in found["errors"]] == ["broken.png"]
    picture = b64decode(rows["large.png"]["heatmap"].partition(",")[2])
    assert Image.open(io.BytesIO(picture)).size[0] == 448  # the parts, framed


def test_the_page(bundle: Path, asked: Any, app_with: Any) -> None:
    files, said = asked
    with app_with(bundle) as client:
        sent = [("files", (path.name, path.read_bytes())) for path in files]
        page = client.post("/answers", files=sent).text
    link = re.search(r"data:text/csv[^,]*,([A-Za-z0-9+/=]+)", page)
    assert link is not None
    rows = list(csv.DictReader(io.StringIO(b64decode(link[1]).decode())))
    for one, row in zip(said, rows, strict=True):
        if "error" in one:
            assert row["error"]
            continue
        assert (row["predicted"], row["decision"]) == (one["predicted"], one["decision"])
        assert float(row["p_pro_b"]) == pytest.approx(one["p_pro_b"], abs=1e-5)
    assert page.count("framed in the colour of their class") == 2  # caption and alternative
    assert "No leukocyte was found in this image" in page


def test_uncut_where_asked(bundle: Path, asked: Any, app_with: Any) -> None:
    files, _ = asked
    with app_with(bundle, whole=True) as client:
        sent = [("files", (files[1].name, files[1].read_bytes()))]
        (row,) = client.post("/v1/predict", files=sent).json()["predictions"]
    assert "tiles" not in row

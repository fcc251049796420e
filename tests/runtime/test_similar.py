"""The training cases of a bundle: what is shown, what may not be, what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.core.errors import BundleError, UsageError
from leukoscope.runtime.bundle import read_bundle, save_bundle
from leukoscope.runtime.heatmap import encode_png
from leukoscope.runtime.predictor import Predictor, load_bundle


@pytest.fixture
def folder(tiny: SimpleNamespace, tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", *tiny.with_cases())
    return tmp_path / "bundle"


def opened(folder: Path, similar: int = 0) -> Predictor:
    return load_bundle(folder, engine="onnxruntime", similar=similar)


def test_the_nearest_cases_come_first_and_only_where_asked_for(
    tiny: SimpleNamespace, folder: Path
) -> None:
    images = [tiny.colour(102, 51, 51), tiny.colour(70, 51, 102)]
    plain, asked = opened(folder).predict(images), opened(folder, 2).predict(images)
    assert [answer.similar for answer in plain] == [None, None]
    assert all("similar" not in answer.as_dict() for answer in plain)
    assert [[case.label for case in answer.similar or ()] for answer in asked] == [
        ["benign", "pre_b"],
        ["pro_b", "benign"],
    ]
    row = asked[1].as_dict()["similar"][0]
    assert (row["image_id"], row["acquisition"]) == ("222222222222", None)
    seen, known = np.array([70, 51, 102.0]), np.array([30, 51, 102.0])
    angle = seen / np.linalg.norm(seen) - known / np.linalg.norm(known)
    assert row["distance"] == pytest.approx(np.linalg.norm(angle) / 0.5, abs=0.02)
    for one, other in zip(plain, asked, strict=True):
        assert {k: v for k, v in other.as_dict().items() if k != "similar"} == one.as_dict()
    library = opened(folder).cases
    assert library is not None
    picture = library.picture(1)
    assert picture is not None
    assert picture.shape == (16, 16, 3)
    assert picture.mean(axis=(0, 1)) == pytest.approx([51, 102, 51], abs=4)


def test_the_command_writes_them(tiny: SimpleNamespace, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(encode_png(tiny.colour(102, 51, 51)))

    def run(*more: str) -> Any:
        command = ["predict", str(tmp_path / "red.png"), "-b", str(folder), *more]
        return CliRunner().invoke(app, [*command, "--engine", "onnxruntime"])

    shown = run("--similar", "1")
    assert shown.exit_code == 0, shown.output
    assert "similar training cases: benign 000000000000 at 0." in shown.stdout
    listed = json.loads(run("--similar", "2", "--json").stdout)[0]["similar"]
    assert [case["label"] for case in listed] == ["benign", "pre_b"]
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert run("--similar", "2", "--out", str(tmp_path / name)).exit_code == 0
    assert '"label"": ""pre_b""' in (tmp_path / "a.csv").read_text()
    assert json.loads((tmp_path / "a.jsonl").read_text())["similar"] == listed
    run("--out", str(tmp_path / "b.csv"))
    assert "similar" not in (tmp_path / "b.csv").read_text().splitlines()[0]


def test_an_older_bundle_names_none(tiny: SimpleNamespace, tiny_bundle: Path) -> None:
    assert opened(tiny_bundle).cases is None
    record = json.loads((tiny_bundle / "bundle.json").read_text())
    del record["similar"], record["phantoms"]  # as an older version wrote it
    (tiny_bundle / "bundle.json").write_text(json.dumps(record))
    assert not read_bundle(tiny_bundle).record.phantoms
    with pytest.raises(UsageError, match="carries no training cases"):
        opened(tiny_bundle, 1)


def test_pictures_of_what_is_not_drawn_are_refused(tiny: SimpleNamespace, folder: Path) -> None:
    with pytest.raises(ValidationError, match="they are not all drawn"):
        tiny.record(similar=read_bundle(folder).record.similar)
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace('"phantoms": true', '"phantoms": false'))
    with pytest.raises(BundleError, match="they are not all drawn"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["similar.json", "similar.safetensors", "similar.jpg"])
def test_what_is_missing_or_does_not_fit_is_told(
    tiny: SimpleNamespace, tmp_path: Path, name: str
) -> None:
    record, files = tiny.with_cases()
    with pytest.raises(BundleError, match=f"needs {name}"):
        save_bundle(tmp_path / "b", record, {k: v for k, v in files.items() if k != name})
    if name.endswith("jpg"):
        return
    changed = {"similar.json": b'{"cases": []}', "similar.safetensors": files["ood.safetensors"]}
    save_bundle(tmp_path / "b", record, files | {name: changed[name]})
    with pytest.raises(BundleError, match="training cases"):
        _ = opened(tmp_path / "b").cases


def test_cases_need_a_graph_with_features(tiny: SimpleNamespace, tmp_path: Path) -> None:
    record, files = tiny.with_cases(ood=None)
    files["model.onnx"] = tiny.graph(features=False)
    save_bundle(tmp_path / "b", record, files)
    with pytest.raises(BundleError, match="training cases need the graph's output"):
        opened(tmp_path / "b")

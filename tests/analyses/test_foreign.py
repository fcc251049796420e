"""Models that were not made here: their files, their mistakes, and the whole audit."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from leukoscope.analyses.foreign import audit_foreign, class_order
from leukoscope.analyses.foreign_inputs import open_foreign_model, read_foreign_csv
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.study.options import study_config

NAMES = ("benign", "early_pre_b", "pre_b", "pro_b")
FOLDERS = ("Benign", "Early", "Pre", "Pro")


def quiet(step: str, done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 fields; two of the training images stand in the test part as well, as Pre/copy-…"""
    folder = tmp_path_factory.mktemp("foreign") / "images"
    write_phantoms(PhantomSpec(images=40, sessions=8, size_px=96, seed=9), folder)
    (folder / "manifest.csv").unlink()
    shutil.rmtree(folder / "truth")
    for path in sorted((folder / "Pre").iterdir())[:2]:
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    return folder


def config(data: Path, *probes: str, **options: Any) -> StudyConfig:
    return study_config(
        data,
        probes=["colour-only", *probes],
        folds=2,
        overrides=(
            "preprocess.size_px=64", "model.backbone=test_resnet", "model.weights=none",
            "bootstrap=100", "bundle=false", "splits.cluster_curve=[]",
        ),
        **options,
    )  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


# The file of predictions -----------------------------------------------------------------------


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    paths = ["Benign/a.png", "Pro/b.png", "Pro/same.png", "Benign/same.png"]
    records = tuple(
        ImageRecord(f"{i:012d}", path, sha256=f"{i}" * 64,
                    label="benign" if path.startswith("Benign") else "pro_b")
        for i, path in enumerate(paths)
    )  # fmt: skip
    return Manifest(tmp_path, records)


@pytest.mark.parametrize(
    "name", ["a.png", "Benign/a.png", r"C:\mine\Benign\A.PNG", "x/y/benign/a.png", "a", "0" * 64]
)
def test_an_image_is_found_by_any_name(manifest: Manifest, tmp_path: Path, name: str) -> None:
    path = write_rows(tmp_path / "p.csv", [{"Image": name, "y_pred": "[malignant] Pro-B"}])
    found = read_foreign_csv(path, manifest)
    assert found.image_id == ("000000000000",)
    assert found.probs.tolist() == [[0, 1]]
    assert not found.has_probabilities
    assert found.notes == ("3 of 4 images left out of the score, without a prediction.",)


def test_probabilities_and_parts_are_read_under_their_usual_names(
    manifest: Manifest, tmp_path: Path
) -> None:
    rows: list[dict[str, object]] = [
        {"file": "a.png", "Prob_Benign": 0.25, "pro": 0.75, "Subset": "Training"},
        {"file": "b.png", "Prob_Benign": 0.9, "pro": 0.1, "Subset": "validation"},
        {"file": "elsewhere.png", "Prob_Benign": 1, "pro": 0, "Subset": "test"},
    ]
    found = read_foreign_csv(write_rows(tmp_path / "p.csv", rows), manifest)
    assert found.probs.tolist() == [[0.25, 0.75], [0.9, 0.1]]
    assert list(found.parts.values()) == ["train", "val"]
    assert found.has_probabilities
    assert found.notes[0].startswith("1 row without an image of the data")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"file": "same.png", "predicted": "pro"}], r"line 2: 'same.png' could be Pro/same.png"),
        ([{"file": "a.png", "predicted": "cat"}], "line 2: class 'cat' is none of benign, pro_b"),
        (
            [{"file": "a.png", "predicted": "pro"}, {"file": "Benign/a.png", "predicted": "pro"}],
            "line 3: Benign/a.png is in line 2 already",
        ),
        ([{"file": "a.png", "benign": 0.9, "pro": 0.9}], "line 2: .* found a sum of 1.8"),
        ([{"file": "a.png", "benign": "", "pro": 1}], "line 2: expected numbers, found nothing, 1"),
        (
            [{"file": "a.png", "predicted": "pro", "split": "mine"}],
            "line 2: split 'mine' is none of train, val, test",
        ),
        ([{"file": "z.png", "predicted": "pro"}], "none of its rows names an image .* 'z.png'"),
        ([{"file": "a.png", "benign": 1}], "expected the predicted class .* or a probability"),
        ([{"picture": "a.png", "predicted": "pro"}], "expected a column that names the image"),
    ],
)  # fmt: skip
def test_wrong_rows_are_named(
    manifest: Manifest, tmp_path: Path, rows: list[dict[str, object]], words: str
) -> None:
    path = write_rows(tmp_path / "theirs.csv", rows)
    with pytest.raises(DataError, match=words) as caught:
        read_foreign_csv(path, manifest)
    assert str(caught.value).startswith(str(path))


# The graph -------------------------------------------------------------------------------------


def write_graph(path: Path, shape: list[Any], classes: int, kind: int = TensorProto.FLOAT) -> Path:
    """Mean of each channel over the image, times a matrix of ones on the diagonal."""
    channels = 3 if 3 in (shape[1], shape[3]) else shape[3]
    weight = np.eye(channels, classes, dtype=np.float32)
    axes = [2, 3] if shape[1] == 3 else [1, 2]
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", classes])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], axes),
         helper.make_tensor("weight", TensorProto.FLOAT, list(weight.shape), weight.ravel())],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def softmax(values: list[float]) -> np.ndarray:
    powers = np.exp(np.array(values) - max(values))
    return powers / powers.sum()


IMAGES = np.stack([np.full((8, 8, 3), colour, np.uint8) for colour in ((255, 0, 51), (0, 102, 0))])


@pytest.mark.parametrize(
    ("shape", "kind", "options", "first"),
    [
        (["n", 3, 8, 8], TensorProto.FLOAT, {}, softmax([1, 0, 0.2, 0])),
        (["n", 8, 8, 3], TensorProto.FLOAT, {}, softmax([1, 0, 0.2, 0])),
        (["n", 3, "h", "w"], TensorProto.FLOAT, {"size_px": 8}, softmax([1, 0, 0.2, 0])),
        ([1, 3, 8, 8], TensorProto.DOUBLE, {}, softmax([1, 0, 0.2, 0])),
        (
            ["n", 3, 8, 8], TensorProto.FLOAT, {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.25, 0.5)},
            softmax([1, -2, -0.6, 0]),
        ),
        (["n", 8, 8, 3], TensorProto.UINT8, {}, softmax([255, 0, 51, 0])),
    ],
)  # fmt: skip
def test_pixels_reach_the_graph_as_it_wants_them(
    tmp_path: Path, shape: list[Any], kind: int, options: dict[str, Any], first: np.ndarray
) -> None:
    path = write_graph(tmp_path / "m.onnx", shape, 4, kind)
    model = open_foreign_model(path, NAMES, **options)
    probs = model.probabilities(IMAGES)
    assert probs.shape == (2, 4)
    assert probs[0] == pytest.approx(first, abs=1e-5)


def test_a_graph_that_normalises_itself_takes_no_mean(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx", ["n", 3, 8, 8], 4, TensorProto.UINT8)
    with pytest.raises(UsageError, match="--mean and --std would have no effect"):
        open_foreign_model(path, NAMES, mean=(0.5, 0.5, 0.5))


def test_one_number_is_the_second_class(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx", ["n", 3, 8, 8], 1)
    model = open_foreign_model(path, ("healthy", "all"))
    assert model.probabilities(IMAGES)[:, 1] == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        (["n", 5, 8, 8], {}, r"expected one input of shape \(N, 3, S, S\) or \(N, S, S, 3\), found "
         r"x \(\?, 5, 8, 8\) tensor\(float\)"),
        (["n", 3, 8, 16], {}, "expected one input"),
        (["n", 3, "h", "w"], {}, "leaves its input size open"),
        (["n", 3, 8, 8], {"size_px": 9}, "expected --size 8, as the graph says, got 9"),
        (["n", 3, 8, 8], {"output": "y"}, r"expected --output to be one of scores \(\?, 4\)"),
        (["n", 3, 8, 8], {"std": (1, 0, 1)}, "three numbers above 0"),
    ],
)  # fmt: skip
def test_a_graph_that_does_not_fit_is_told_what_was_expected(
    tmp_path: Path, shape: list[Any], options: dict[str, Any], words: str
) -> None:
    path = write_graph(tmp_path / "m.onnx", shape, 4)
    with pytest.raises((DataError, UsageError), match=words):
        open_foreign_model(path, NAMES, **options)


def test_other_numbers_of_outputs_and_other_files_are_refused(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx", ["n", 3, 8, 8], 5)
    with pytest.raises(DataError, match=r"expected 4 outputs .* got scores of shape \(2, 5\)"):
        open_foreign_model(path, NAMES).probabilities(IMAGES)
    other = tmp_path / "text.onnx"
    other.write_text("no graph")
    with pytest.raises(DataError, match="expected an ONNX graph"):
        open_foreign_model(other, NAMES)
    with pytest.raises(UsageError, match="two or more different class names"):
        class_order("benign, Hematogones", {})


# The audit -------------------------------------------------------------------------------------


def test_a_leak_in_their_split_is_named(phantoms: Path, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = []
    for number, path in enumerate(sorted(phantoms.glob("*/*.png"))):
        copied = path.name.startswith("copy-")
        original = (path.parent / f"copy-{path.name}").exists()
        test = copied or (number % 3 == 0 and not original)
        rows.append({
            "path": path.relative_to(phantoms).as_posix(),
            "predicted": path.parent.name,
            "split": "test" if test else "train",
        })  # fmt: skip
    theirs = write_rows(tmp_path / "Their Model.csv", rows)
    plan = config(phantoms, protocols=["random", "given"])
    result = audit_foreign(theirs, plan, tmp_path / "audit", quiet)
    metrics = result.metrics.to_json()
    tested = sum(row["split"] == "test" for row in rows)
    assert {row["protocol"]: row["n"] for row in metrics["results"]} == {
        "random": tested,
        "given": tested,
    }
    assert {row["n"] for row in metrics["probes"]} == {tested}
    assert metrics["results"][0]["recipe"] == "their-model"
    assert metrics["results"][0]["metrics"]["accuracy"]["value"] == 1
    assert "log_loss" not in metrics["results"][0]["metrics"]
    leak = metrics["split"]["leaks"][0]
    assert (leak["kind"], leak["images"]) == ("copies", 2)
    assert leak["examples"][0][0].startswith("Pre/copy-phantom-")
    assert metrics["verdict"]["level"] in ("inconclusive", "unsafe")
    assert any("Pre/copy-phantom-" in text for text in metrics["verdict"]["findings"])
    report = result.run.report_md.read_text()
    assert "a copy of a training image" in report
    assert metrics["results"][0]["metrics"]["specificity_pro_b"]["value"] == 1
    assert "ROC AUC needs probabilities" in report
    assert "ROC curves need probabilities" in report
    assert "undefined, because none has the class" not in report
    assert result.run.report_html.is_file()


@pytest.mark.usefixtures("bare_charts")
def test_a_graph_is_audited_on_edited_images_too(phantoms: Path, tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx", ["n", 3, 32, 32], 4)
    model = open_foreign_model(path, class_order("benign,early,pre,pro", {}))
    asked = config(phantoms, "ground-only", protocols=["random"])
    result = audit_foreign(model, asked, tmp_path / "audit", quiet)
    metrics = result.metrics.to_json()
    assert {row["input"] for row in metrics["model_on"]} == {
        "background-only",
        "cells-only",
        "stain-neutral",
        "ground-of-another-class",
        "ground-of-own-class",
    }
    assert metrics["split"] is None
    assert any("not known" in text for text in metrics["verdict"]["findings"])
    # No image was held out, so nothing is promised and nothing is said of "held out".
    assert metrics["results"][0]["next_unit"] == {
        "reason": "on which images the model was trained is not known"
    }
    scored = [text for text in metrics["verdict"]["findings"] if "accuracy" in text]
    assert scored[0].startswith("On all images, of which none is known to be new to it")
    page = result.run.report_md.read_text()
    assert "leukoscope evaluate" not in page
    assert "leukoscope probe" in page
    assert "pixels of 0 to 1" in metrics["warnings"][0]
    few = open_foreign_model(path, ("benign", "early_pre_b", "pre_b"))
    with pytest.raises(DataError, match="expected the classes of the data"):
        audit_foreign(few, config(phantoms), tmp_path / "other", quiet)
    with pytest.raises(UsageError, match="is not empty"):
        audit_foreign(model, config(phantoms), tmp_path / "audit", quiet)

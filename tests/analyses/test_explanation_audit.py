"""The audit of heat maps on phantoms with exact masks: models with a planted eye, and its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from leukoscope import load_dataset
from leukoscope.analyses import explanation_audit
from leukoscope.cli.main import app
from leukoscope.config.explanations import AuditedImage, AuditFile
from leukoscope.config.loading import load_recipe, save_study_config
from leukoscope.config.study import DataConfig, StudyConfig
from leukoscope.core.files import write_json
from leukoscope.core.records import Fold, ImageRecord, save_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.checkpoint import save_checkpoint
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.study.examples import audit_blocks
from leukoscope.reporting.study_files import load_study

runner = CliRunner()
VIOLET = ((1.0, -2.0, 1.0), -0.3)  # what leukocytes have more of than red cells: weights, bias
BRIGHT = ((1.0, 1.0, 1.0), -2.0)  # what the background between cells has


def leukoscope(*arguments: object, code: int = 0) -> str:
    done = runner.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PhantomSpec(images=24, sessions=6, size_px=96, seed=5)
    return write_phantoms(spec, tmp_path_factory.mktemp("data") / "phantoms")


def write_run(out: Path, phantoms: Path, eye: tuple[tuple[float, ...], float]) -> Path:
    """A run of two folds whose models were not trained but planted."""
    run = RunFolder(out)
    out.mkdir()
    manifest = load_dataset(phantoms)
    manifest.save(run.manifest)
    plain = ["preprocess.size_px=32", "preprocess.mean=[0,0,0]", "preprocess.std=[1,1,1]"]
    recipe = load_recipe("bn-cnn", plain)
    config = StudyConfig(
        data=DataConfig(path=str(phantoms)), recipes=(recipe,), protocols=("random",), bootstrap=200
    )
    save_study_config(run.config, config)
    ids = [record.image_id for record in manifest.usable]
    labels = [manifest.class_names.index(record.label) for record in manifest.usable]
    logits = np.random.default_rng(0).normal(size=(len(ids), 4))
    folds = []
    for fold in (0, 1):
        parts = ["test" if number % 2 == fold else "cal" for number in range(len(ids))]
        groups = {name: f"component-{name}" for name in ids}
        folds.append(Fold("random", fold, dict(zip(ids, parts, strict=True)), groups))
        network = build_network(recipe.model, num_classes=4, size_px=32, seed=1)
        look_for(network, *eye)
        save_checkpoint(run.model("bn-cnn", "random", fold), network, recipe, manifest.class_names)
        PredictionTable.build(
            manifest.class_names, ids, softmax(logits), recipe="bn-cnn", protocol="random",
            fold=fold, part=parts, y_true=labels, logits=logits,
        ).save(run.model("bn-cnn", "random", fold) / "predictions.csv")  # fmt: skip
    save_folds(run.splits, folds, manifest)
    verdict = {"headline": "Nothing was judged.", "level": "inconclusive"}
    values = {"schema": 1, "class_names": manifest.class_names, "confidence": 0.95, "results": []}
    write_json(run.metrics, values | {"verdict": verdict})
    return out


@pytest.fixture(scope="module")
def run(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("audit") / "run", phantoms, VIOLET)


def look_for(network: Network, weights: tuple[float, ...], bias: float) -> None:
    """All paths are positive, so that only the planted colour can speak, and only for benign."""
    layers = list(network.backbone.get_submodule("layers").children())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
        layers[0].weight.zero_()
        layers[0].weight[:, :, 1, 1] = torch.tensor(weights)
        layers[1].bias.fill_(bias)
        network.head.weight[1:] = 0
        network.head.bias.copy_(torch.tensor([1.0, 0, 0, 0]))


@pytest.mark.parametrize(
    ("eye", "method", "place"),
    [
        (VIOLET, "grad-cam", "the heat favours leukocytes"),
        (BRIGHT, "integrated-gradients", "the heat lies outside the leukocytes"),
    ],
)
def test_a_planted_eye_is_found(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    eye: tuple[tuple[float, ...], float], method: str, place: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("leukoscope.learning.attribution.INTEGRATION_STEPS", 8)  # in time
    for module in ("evaluation.explanation_scores", "reporting.figures.heatmaps"):
        monkeypatch.setattr(f"leukoscope.{module}.STEPS", (0.0, 0.5, 1.0))
    monkeypatch.setattr(explanation_audit.scores, "ROAD_STEPS", (0.3, 0.7))
    planted = write_run(tmp_path / "run", phantoms, eye)
    leukoscope("explain", planted, "--audit", "-m", method, "--images", 20, "--out", tmp_path)
    found = json.loads((tmp_path / "audit.json").read_text())
    assert len(found["images"]) == 20
    assert found["settings"]["masks"] == "exact"
    assert place in found["verdicts"][method]["place"]


def test_it_goes_on_where_it_stopped_and_begins_anew_with_other_settings(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    once = explanation_audit._HeatMapScorer.audit

    def watched(self: object, record: ImageRecord, *rest: object) -> AuditedImage:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(record.image_id)
        return once(self, record, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(explanation_audit._HeatMapScorer, "audit", watched)
    command = ("explain", run, "--audit", "-m", "grad-cam", "--images", 3, "--out", tmp_path)
    assert "a verdict needs 20" in leukoscope(*command, code=1)  # before the first image
    assert not seen
    command = (*command, "--unjudged")
    leukoscope(*command, code=130)
    stopped = json.loads((tmp_path / "audit.json").read_text())
    assert [entry["image_id"] for entry in stopped["images"]] == seen
    assert "verdicts" not in stopped
    monkeypatch.setattr(explanation_audit._HeatMapScorer, "audit", once)
    output = leukoscope(*command)
    found = json.loads((tmp_path / "audit.json").read_text())
    assert all(entry in found["images"] for entry in stopped["images"])
    assert "Grad-CAM cannot be judged: fewer than 20 independent images" in output
    assert "! 3 independent images (components) would be scored, a verdict needs 20" in output
    assert "exact masks of drawn phantoms" in output
    assert cv2.imread(str(tmp_path / "audit.png")).shape[1] > 1000
    assert len({entry["group"] for entry in found["images"]}) == 3
    scores = found["images"][0]["maps"]["grad-cam"]
    assert len(scores["insertion"]) == len(scores["deletion"]) == 11
    whole = pytest.approx(found["images"][0]["p"], abs=2e-4)
    assert scores["insertion"][-1] == whole
    assert scores["deletion"][0] == whole
    written: list[RunFolder] = []
    monkeypatch.setattr("leukoscope.reporting.study.report.write_report",
                        lambda folder, progress: written.append(folder))  # fmt: skip
    (run / "report.html").write_text("")
    leukoscope("explain", run, "--audit", "-m", "grad-cam", "--images", 1, "--unjudged")
    assert written == [RunFolder(run)]
    text = str(audit_blocks(load_study(RunFolder(run)), Gallery(RunFolder(run))))
    assert "Are the heat maps reliable?" in text
    assert "Edge detector" in text
    path = run / "explanations" / "audit.json"
    changed = json.loads(path.read_text())
    changed["settings"]["checkpoints"]["0"] = "0" * 64
    path.write_text(json.dumps(changed))
    text = str(audit_blocks(load_study(RunFolder(run)), Gallery(RunFolder(run))))
    assert "The models were trained again since" in text
    assert explanation_audit._finished(path, AuditFile.load(tmp_path / "audit.json").settings) == {}


def test_masks_of_a_folder(run: Path, phantoms: Path, tmp_path: Path) -> None:
    command = ("explain", run, "--audit", "-m", "grad-cam", "--out", tmp_path / "out", "--masks")
    assert "expected a folder of masks" in leukoscope(*command, tmp_path / "none", code=1)
    masks = tmp_path / "masks"
    masks.mkdir()
    assert "expected masks named like the images" in leukoscope(*command, masks, code=1)
    left = np.zeros((96, 96), np.uint8)
    left[:, :48] = 128
    cv2.imwrite(str(masks / "phantom-0003_mask.png"), left)
    cv2.imwrite(str(masks / "phantom-0008.png"), left)
    leukoscope(*command, masks, "--unjudged")
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert {Path(e["path"]).stem for e in found["images"]} == {"phantom-0003", "phantom-0008"}
    assert {e["area"] for e in found["images"]} == {0.5}
    cv2.imwrite(str(masks / "phantom-0003_mask.png"), left[:50])
    shutil.rmtree(tmp_path / "out")
    assert "of 96 × 96 px like its image, got 96 × 50" in leukoscope(
        *command, masks, "--unjudged", code=1
    )
    (masks / "phantom-0003_mask.png").write_bytes(b"no picture")
    assert "expected a mask as PNG" in leukoscope(*command, masks, "--unjudged", code=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "3"], "--images, --masks and --unjudged belong to --audit"),
        (["--audit", "--count", "2"], "it has no count"),
        (["--audit", "-r", "bn-cnn", "-r", "bn-cnn"], "it has no second recipe"),
        (["--audit", "-m", "gradcam"], "Did you mean 'grad-cam'?"),
    ],
)
def test_wrong_use_is_refused(run: Path, options: list[str], message: str) -> None:
    before = sorted(run.rglob("*"))
    assert message in leukoscope("explain", run, *options, code=2)
    assert sorted(run.rglob("*")) == before


def test_a_long_audit_names_a_cheaper_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation_audit, "_LONG_S", 0.0)
    asked = ("explain", run, "--audit", "--images", 2, "--unjudged", "--out", tmp_path / "two")
    said = leukoscope(*asked, "-m", "grad-cam", "-m", "grad-cam++")
    assert "one method takes less: -m grad-cam" in said
    assert "one method" not in leukoscope(*asked[:-1], tmp_path / "one", "-m", "grad-cam")

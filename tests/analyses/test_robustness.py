"""``robustness`` from the command to the bundle, on phantoms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from leukoscope.analyses.robustness import Request, _update_bundle, choose_corruptions, measure
from leukoscope.cli.main import app
from leukoscope.config.robustness import RobustnessFile
from leukoscope.core.errors import UnknownNameError
from leukoscope.core.files import read_csv, read_json
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.imaging.corruption import HAEMATOLOGY, corrupt
from leukoscope.imaging.decode import decode_image
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline.measured import FoldModels, open_run, stored_envelope
from leukoscope.pipeline.trained_run import FittedRun
from leukoscope.runtime.bundle import read_bundle
from leukoscope.runtime.golden import verify_bundle
from leukoscope.runtime.predictor import load_bundle
from leukoscope.study.bundling import export_bundle
from leukoscope.study.run import run_study

runner = CliRunner()
OVERRIDES = [
    "preprocess.size_px=32", "training.epochs=2", "training.batch_size=16", "bootstrap=100",
    "explanations=0", "control_draws=0",
]  # fmt: skip


def leukoscope(*arguments: object, code: int = 0) -> str:
    done = runner.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PhantomSpec(images=48, sessions=24, size_px=96, seed=5)  # a patient an image
    return write_phantoms(spec, tmp_path_factory.mktemp("data") / "phantoms")


@pytest.fixture(scope="module")
def run(few_perturbed: None, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recipes, and a bundle of the first."""
    out = tmp_path_factory.mktemp("robustness") / "run"
    run_study(phantoms, out, report=False, recipes=["cnn-baseline", "bn-cnn"], folds=2, probes=(),
              protocols=["random"], overrides=OVERRIDES)  # fmt: skip
    export_bundle(RunFolder(out), "cnn-baseline", RunFolder(out).bundle)
    return out


@pytest.fixture(scope="module")
def measured(run: Path) -> tuple[RunFolder, dict, str]:
    """Everything, on 20 images, with a bound so wide that some severities are tolerated."""
    printed = leukoscope("robustness", run, "--images", 20, "--bound", 30)
    folder = RunFolder(run)
    return folder, read_json(folder.robustness), printed


def test_every_condition_is_measured_against_the_undamaged_images(measured: tuple) -> None:
    folder, result, printed = measured
    (model,) = result["recipes"]
    assert (result["n"], result["n_available"], result["protocol"]) == (20, 48, "random")
    assert "n = 20 of 48 test images" in printed
    assert [row["corruption"] for row in model["conditions"][::5]] == list(HAEMATOLOGY)
    clean = model["clean"]
    assert clean["difference"]["value"] == 0
    for row in model["conditions"]:
        difference = row["accuracy"]["value"] - clean["accuracy"]["value"]
        assert row["difference"]["value"] == pytest.approx(difference)
        assert 0 <= row["ece"]["value"] <= 1
        assert "reject" not in row  # a fold's model has no gate
    error = 1 - np.mean([row["accuracy"]["value"] for row in model["conditions"]])
    assert model["mean_error"]["value"] == pytest.approx(error)
    assert "mce" not in model  # nothing to compare with
    rows = read_csv(folder.robustness_table)
    assert len(rows) == 66 * 4
    assert rows[0]["value"] == str(clean["accuracy"]["value"])
    assert (folder.figures / "robustness-sheet.png").is_file()


def test_the_undamaged_answers_are_those_of_the_study(measured: tuple) -> None:
    folder, _, _ = measured
    kept = read_json(folder.cache / "robustness" / "cnn-baseline-random" / "none-0.json")
    studied = {
        row["image_id"]: [float(row[f"p_{name}"]) for name in ("benign", "pro_b")]
        for row in read_csv(folder.predictions)
        if row["recipe"] == "cnn-baseline" and row["part"] == "test" and row["input"] == "image"
    }
    found = sorted((row[0], row[-1]) for row in kept["probs"])
    known = np.array(sorted(map(tuple, studied.values())))
    for pair in found:
        assert np.abs(known - pair).max(axis=1).min() < 1e-4


def test_the_report_shows_it(measured: tuple) -> None:
    folder, _, _ = measured
    text = folder.report_md.read_text(encoding="utf-8")
    assert "## Damaged images" in text
    assert "Envelope of cnn-baseline" in text
    assert "robustness-sheet.png" in text


def test_the_bundle_sends_a_blurred_image_to_review(measured: tuple, phantoms: Path) -> None:
    folder, result, _ = measured
    record = read_bundle(folder.bundle).record
    assert record.envelope is not None
    assert record.envelope.model_dump(mode="json") == result["recipes"][0]["envelope"]
    assert all(check.ok for check in verify_bundle(folder.bundle))
    image = decode_image(next((phantoms / "Pre").glob("*.png"))).image
    predictor = load_bundle(folder.bundle)
    words = "The image is blurrier than the limit at which this model still keeps within 30 points"
    sharp, blurred = predictor.predict([image, corrupt(image, "defocus", 14.0)])
    assert not any(words in reason for reason in sharp.reasons)
    assert any(words in reason for reason in blurred.reasons), blurred.reasons
    assert blurred.decision in ("review", "reject")
    shown = leukoscope("bundle", "show", folder.bundle)
    assert "envelope" in shown
    assert "defocus" in shown


def test_a_bundle_that_is_made_later_has_it_too(measured: tuple) -> None:
    folder, result, _ = measured
    files = RunFiles.open(folder.path)
    found = stored_envelope(files, "cnn-baseline")
    assert found is not None
    assert found.model_dump(mode="json") == result["recipes"][0]["envelope"]
    assert stored_envelope(files, "bn-cnn") is None


def test_undamaged_accuracy_has_the_interval_of_the_report(run: Path, tmp_path: Path) -> None:
    """The models of folds share training images, and another training gives another model."""
    found = open_run(FittedRun.open(run), [], None, 42)
    request = Request(("jpeg",), severities=(1,), images=48)
    row = measure(found, request, RunFolder(tmp_path), lambda *_: None, lambda _: None).recipes[0]
    results = RunFiles.open(run).metrics.results
    own = next(r for r in results if (r.recipe, r.protocol) == ("cnn-baseline", "random"))
    assert row.clean.accuracy == own.metrics["accuracy"]


def test_a_killed_command_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer, calls = FoldModels.answer, []

    def counted(self: FoldModels, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answer(self, *arguments)  # type: ignore[arg-type]

    def ask(seed: int = 42) -> str:
        request = Request(("jpeg",), images=20, seed=seed)
        found = open_run(FittedRun.open(run), [], None, seed)
        measure(found, request, RunFolder(tmp_path), lambda *_: None, lambda _: None)
        return (tmp_path / "robustness.json").read_text()

    monkeypatch.setattr(FoldModels, "answer", counted)
    with pytest.raises(KeyboardInterrupt):
        ask()
    assert not (tmp_path / "robustness.json").exists()
    first = ask()
    assert len(calls) == 2 + 1 + 4  # two were kept
    (tmp_path / "cache/robustness/cnn-baseline-random/jpeg-2.json").write_text("{")
    assert ask() == first
    assert len(calls) == 8
    ask(seed=7)
    assert len(calls) == 8 + 6  # other images


@pytest.mark.usefixtures("bare_charts")
def test_recipes_beside_each_other_and_study_s1s_grid(run: Path, tmp_path: Path) -> None:
    printed = leukoscope("robustness", run, "-r", "cnn-baseline", "-r", "bn-cnn", "-c", "s1",
                         "-c", "noise", "-s", 1, "-s", 5, "--images", 20, "--out", tmp_path,
                         "--json")  # fmt: skip
    result = json.loads(printed[printed.index("{") :])
    first, second = result["recipes"]
    assert list(result["corruptions"]) == ["s1-noise", "s1-brightness", "noise"]
    assert "mce" not in first
    assert second["mce"]["value"] == pytest.approx(
        second["mean_error"]["value"] / first["mean_error"]["value"]
    )  # of one corruption the two are the same
    assert first["envelope"] is None
    assert "all corruptions" in first["envelope_note"]
    dark = [r["level"] for r in first["conditions"] if r["corruption"] == "s1-brightness"]
    assert dark == [0.5, 1.5]


@pytest.mark.usefixtures("bare_charts")
def test_a_bundle_is_measured_with_its_own_decisions(
    measured: tuple, phantoms: Path, tmp_path: Path
) -> None:
    bundle = measured[0].bundle
    leukoscope("robustness", bundle, phantoms, "-c", "defocus", "-s", 5, "--images", 24,
               "--out", tmp_path)  # fmt: skip
    result = read_json(tmp_path / "robustness.json")
    (model,) = result["recipes"]
    assert {"review", "reject"} <= set(model["clean"])
    assert "used to train the bundle" in result["warnings"][0]
    assert result["group_unit"] == "patient"


def test_a_partial_measurement_leaves_the_bundle(measured: tuple) -> None:
    folder, _, _ = measured
    before = read_bundle(folder.bundle).sha256
    result = RobustnessFile.load(folder.robustness)
    partial = {"envelope": None, "envelope_note": "only a part"}
    for change, words in ((partial, "only a part"), ({"recipe": "bn-cnn"}, "holds cnn-baseline")):
        model = result.recipes[0].model_copy(update=change)
        (note,) = _update_bundle(folder, result.model_copy(update={"recipes": (model,)}))
        assert words in note
    assert read_bundle(folder.bundle).sha256 == before


@pytest.mark.usefixtures("bare_charts")
def test_an_installed_bundle_is_known_by_its_name(phantoms: Path, tmp_path: Path) -> None:
    words = leukoscope("robustness", "phantom", code=2)
    assert "phantom is a bundle: expected labelled images and --out" in words
    out = tmp_path / "out"
    few = ("-c", "jpeg", "-s", "1", "--images", "20")
    leukoscope("robustness", "phantom", phantoms, "--out", out, *few)
    assert RobustnessFile.load(out / "robustness.json").n == 20


def test_wrong_use_is_answered(run: Path, phantoms: Path, tmp_path: Path) -> None:
    assert "did you mean 'defocus'" in leukoscope(
        "robustness", run, "-c", "defocuss", code=2
    ).lower()  # fmt: skip
    assert "expected labelled images and --out" in leukoscope("robustness", run / "bundle", code=2)
    words = " ".join(leukoscope("robustness", run, phantoms, code=2).split())
    assert "is a run, which is measured on its own test images" in words
    assert "or name its bundle" in words
    words = " ".join(leukoscope("robustness", phantoms, phantoms, code=1).split())
    assert "expected a bundle or the folder of a run" in words
    assert str(phantoms / "bundle") not in words
    assert "no study or training run" in leukoscope("robustness", tmp_path, code=1)
    with pytest.raises(UnknownNameError):
        choose_corruptions(["s2"])

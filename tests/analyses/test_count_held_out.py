"""Counts of a study's own patients: each by what knows nothing of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.config.loading import save_study_config
from leukoscope.core.files import sha256_bytes
from leukoscope.core.records import Fold, ImageRecord, Manifest, save_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.prevalence import PrevalenceModel
from leukoscope.study.options import study_config

CLASSES = ("blast", "lymphocyte")
PATIENTS, CELLS, FOLDS = 20, 18, 4


def write_run(folder: Path, *, protocol: str = "grouped", wrong: int = -1) -> RunFolder:
    """A finished study of twenty patients; nine cells in ten are named right.

    Args:
        protocol: ``grouped``, or another, under which patients are torn.
        wrong: Fold whose labels are exchanged after its cells were answered.
    """
    run = RunFolder(folder)
    folder.mkdir()
    save_study_config(
        run.config, study_config(folder, recipes=["quick"], protocols=[protocol], probes=[])
    )
    rng = np.random.default_rng(0)
    records, y = [], []
    for patient in range(PATIENTS):
        for cell in range(CELLS):
            label = int(rng.random() > patient / PATIENTS)
            digest = sha256_bytes(f"{patient} {cell}".encode())
            record = ImageRecord(
                digest[:12], f"p{patient}/{cell}.png", digest, patient_id=f"p{patient:02d}"
            )
            records.append(record)
            y.append(label)
    truth = np.array(y)
    torn = np.arange(len(truth)) % FOLDS
    fold_of = np.arange(len(truth)) // CELLS % FOLDS if protocol == "grouped" else torn
    said = np.where(rng.random(len(truth)) < 0.9, truth, 1 - truth)
    logits = np.stack([2.2 - 4.4 * said, np.zeros(len(said))], axis=1)
    named = np.where(fold_of == wrong, 1 - truth, truth)
    images = [replace(r, label=CLASSES[k]) for r, k in zip(records, named, strict=True)]
    broken = replace(images[0], image_id="broken", path="p0/x.png", status="quarantined",
                     reason="truncated: the file ends early")  # fmt: skip
    manifest = Manifest(folder, (*images, broken))
    manifest.save(run.manifest)
    folds = []
    for k in range(FOLDS):
        test = fold_of == k
        parts = {
            r.image_id: "test" if own else "train" for r, own in zip(images, test, strict=True)
        }
        groups = {r.image_id: r.patient_id for r in images}
        folds.append(Fold(protocol, k, parts, groups, "patient"))
        ids = [record.image_id for record, own in zip(images, test, strict=True) if own]
        PredictionTable.build(
            CLASSES, ids, softmax(logits[test]), recipe="quick", protocol=protocol, fold=k,
            part="test", y_true=named[test], logits=logits[test],
        ).save(run.fit_predictions("quick", protocol, k))  # fmt: skip
    save_folds(run.splits, folds, manifest)
    return run


def test_a_study_of_diagnoses_is_not_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    save_study_config(
        run.config,
        study_config(
            run.path, recipes=["quick"], protocols=["grouped"], probes=[], target="diagnosis"
        ),
    )
    done = CliRunner().invoke(app, ["count", "--run", str(run.path), "--out", str(tmp_path / "o")])
    assert done.exit_code == 2
    assert "of this study (blast, lymphocyte) are diagnoses" in " ".join(done.output.split())
    assert not (tmp_path / "o").exists()


def counted(run: RunFolder, out: Path, *options: str) -> dict[str, Any]:
    arguments = ["count", "--run", str(run.path), "--out", str(out), "--no-sheets", "--json"]
    done = CliRunner().invoke(app, [*arguments, *options])
    assert done.exit_code == 3, done.output  # one cell of p00 is broken
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_patient_is_counted_once_and_compared_with_the_labels(tmp_path: Path) -> None:
    result = counted(write_run(tmp_path / "run"), tmp_path / "out")
    assert [one["patient"] for one in result["patients"]] == [f"p{k:02d}" for k in range(PATIENTS)]
    assert {one["cells"] for one in result["patients"]} == {CELLS}
    assert [len(one["unreadable"]) for one in result["patients"]] == [1] + [0] * (PATIENTS - 1)
    assert result["confusions"]["n_units"] == PATIENTS
    assert any("fold that held it out" in note for note in result["notes"])
    truth = result["truth"]
    assert (truth["patients"], truth["cells"]) == (PATIENTS, PATIENTS * CELLS + 1)
    assert truth["blasts"]["mean_absolute_error"]["value"] < 0.08
    assert truth["blasts"]["held"] >= 0.9
    assert "run/quick" in (tmp_path / "out/counts.json").read_text()


def test_counts_are_not_mixed_into_a_study(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    done = CliRunner().invoke(app, ["count", "--run", str(run.path), "--out", str(run.path)])
    assert done.exit_code == 2, done.output
    assert "holds a study" in done.output
    assert not (run.path / "counts.json").exists()


@pytest.mark.usefixtures("bare_charts")
def test_no_label_of_a_patients_fold_has_a_part_in_its_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PrevalenceModel.__init__.__kwdefaults__, "draws", 200)
    honest = counted(write_run(tmp_path / "a"), tmp_path / "out-a")
    other = counted(write_run(tmp_path / "b", wrong=0), tmp_path / "out-b")
    held, seen = [], []
    for k, (one, two) in enumerate(zip(honest["patients"], other["patients"], strict=True)):
        (held if k % FOLDS == 0 else seen).append(one["classes"] == two["classes"])
    assert all(held)  # the labels of fold 0 are others, the shares of its patients are not
    assert not any(seen)
    assert honest["truth"]["blasts"]["points"][0] != other["truth"]["blasts"]["points"][0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "torn"], "patients were not held out as a whole"),
        (["--run", "torn", "--recipe", "shallow"], "shallow"),
        (["cells", "--run", "torn"], "takes no images"),
        (["--run", "torn", "--bundle", "b", "--truth"], "takes no --bundle, --truth"),
        (["cells"], "expected images and --bundle, or --run"),
        (["cells", "--bundle", "b", "--recipe", "quick"], "names a recipe of --run"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "torn", protocol="random")
    done = CliRunner().invoke(app, ["count", *arguments])
    assert done.exit_code in (1, 2)
    assert words in " ".join(done.output.split())
    assert not Path("counts").exists()

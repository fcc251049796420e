"""A tuning on small phantoms: what it writes, what it never reads, how it ends."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from leukoscope.analyses.tuning import results, search
from leukoscope.analyses.tuning.data import PrunedTrial, hold_out, tuning_data
from leukoscope.analyses.tuning.search import (
    CONFIG,
    TuneResult,
    measure_best,
    run_tune,
    tune_config,
)
from leukoscope.cli.main import app
from leukoscope.config.loading import load_recipe
from leukoscope.config.training import LinearHeadTraining
from leukoscope.config.tuning_space import TuneConfig, load_tune_config, parse_search
from leukoscope.core.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    TrainingError,
    UsageError,
)
from leukoscope.datasets.audit.run import Audit
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.reporting.pages.tuning import write_tuning_page
from leukoscope.study.options import study_config
from leukoscope.study.run import audited

SEARCH = ["training.learning_rate=log:1e-4..1e-2", "training.batch_size=choice:16,32"]
TINY = ["preprocess.size_px=32", "training.epochs=2", "training.precision=fp32"]
LINEAR = ["model.backbone=test_resnet", "model.weights=none", "preprocess.size_px=64"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PhantomSpec(images=72, sessions=9, size_px=96, seed=5)
    return write_phantoms(spec, tmp_path_factory.mktemp("data") / "phantoms")


@pytest.fixture(scope="module")
def found(phantoms: Path) -> Audit:
    return audited(gradient(phantoms).study, lambda *_: None)


@pytest.fixture
def no_audit(found: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit of the module in place of one for each test, and no figures."""
    monkeypatch.setattr(search, "audited_in", lambda *_: found)
    monkeypatch.setattr(results, "write_tuning_page", lambda *_: None)


def gradient(data: Path, *more: str, search: list[str] = SEARCH, **options: Any) -> TuneConfig:
    study = study_config(
        data, recipes=["cnn-baseline"], protocols=["grouped"], overrides=[*TINY, *more]
    )
    return tune_config(study, parse_search(search), **options)


def linear(data: Path, **options: Any) -> TuneConfig:
    study = study_config(data, recipes=["quick"], protocols=["grouped"], overrides=LINEAR)
    return tune_config(study, parse_search(["training.c_grid=log:1e-4..1"]), **options)


@pytest.fixture(scope="module")
def tuned(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    out = tmp_path_factory.mktemp("tune") / "out"
    return run_tune(gradient(phantoms), out, trials=4)


def test_every_file_is_there_and_says_the_same(tuned: TuneResult) -> None:
    out, summary = tuned.out, tuned.summary
    assert summary.to_json() == json.loads((out / "tune.json").read_text())
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    complete = [row for row in rows if row["state"] == "complete"]
    assert len(rows) == 4
    assert rows[0]["training.learning_rate"] == "0.001"  # the recipe as it is
    best = max(complete, key=lambda row: float(row["value"]))
    assert float(best["value"]) == summary.best.value
    recipe = load_recipe(str(out / "best.toml"))
    assert recipe.name == "cnn-baseline-tuned"
    assert recipe.training.learning_rate == float(best["training.learning_rate"])
    assert recipe.training.batch_size == int(best["training.batch_size"])
    for words in ("Tuned: trial", "4 complete", "7 validation", "optimistic", "learning_rate ="):
        assert words.replace("7", str(summary.n_val)) in recipe.notes
    for name in ("history", "parallel", "slices", "intermediate"):
        assert (out / "figures" / f"{name}.svg").stat().st_size > 5000
    assert "-r" in summary.next
    assert not list(out.glob("trials/*/fold0/resume"))
    assert len(list(out.glob("trials/*/fold0/history.csv"))) == 4


@pytest.mark.usefixtures("no_audit")
def test_a_linear_head_is_fitted_by_all_that_its_training_says(
    phantoms: Path, tmp_path: Path
) -> None:
    study = study_config(phantoms, recipes=["quick"], protocols=["grouped"], overrides=LINEAR)
    space = parse_search(["training.unit_penalty=choice:0,1000"])
    run_tune(tune_config(study, space, sampler="grid"), tmp_path / "out", trials=2)
    free, held = (np.load(path) for path in sorted((tmp_path / "out/trials").glob("*/probs.npy")))
    assert np.abs(free - held).max() > 0.001


@pytest.mark.usefixtures("no_audit")
def test_a_recipe_has_a_value_once_all_its_penalties_were_tried(
    phantoms: Path, tmp_path: Path
) -> None:
    config = linear(phantoms)
    assert isinstance(config.recipe.training, LinearHeadTraining)
    there = len(config.recipe.training.c_grid)
    first = run_tune(config, tmp_path / "out", trials=1).summary
    assert (first.own, first.penalties) == (None, (1, there))
    every = run_tune(config, tmp_path / "out", trials=there, resume=True).summary
    assert every.penalties == (there, there)
    assert every.own == every.best.value


def test_the_value_is_that_of_the_kept_probabilities(tuned: TuneResult, found: Audit) -> None:
    config = load_tune_config(tuned.out / CONFIG)
    data = tuning_data(found, config, hold_out(found, config.study))
    number = tuned.summary.best.trial
    probs = np.load(tuned.out / "trials" / f"{number:04d}" / "probs.npy")
    accuracy = (probs.argmax(axis=1) == data.data.y[data.val_rows]).mean()
    assert accuracy == pytest.approx(tuned.summary.best.value)


@pytest.mark.usefixtures("no_study_report", "few_perturbed")
def test_the_best_is_measured_once_and_its_validation_value_is_met_again(
    tuned: TuneResult, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(tuned.out, out)
    config = load_tune_config(out / CONFIG)
    result = measure_best(config, out, lambda *_: None)
    table = PredictionTable.load(result.run.predictions)
    val = table.select(part="val")
    assert (val.probs.argmax(axis=1) == val.y_true).mean() == pytest.approx(
        tuned.summary.best.value
    )
    assert result.metrics.results[0].n == len(table.select(part="test", input="image"))
    measure_best(config, out, lambda *_: None)
    text = (out / "best.toml").read_text()
    (out / "best.toml").write_text(text.replace("dropout = 0.5", "dropout = 0.25"))
    with pytest.raises(UsageError, match="test result of another configuration"):
        measure_best(config, out, lambda *_: None)


@pytest.mark.parametrize(("make", "folds"), [(gradient, 1), (gradient, 3), (linear, 1)])
def test_labels_and_pixels_of_cal_and_test_change_nothing(
    make: Callable[..., TuneConfig],
    folds: int,
    no_audit: None,
    phantoms: Path,
    found: Audit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = tmp_path / "phantoms"
    shutil.copytree(phantoms, copy)
    config = make(phantoms, folds=folds)
    fold = hold_out(found, config.study)
    monkeypatch.setattr(search, "hold_out", lambda *_: fold)

    def values(seen: Audit, out: Path) -> list[Any]:
        monkeypatch.setattr(search, "audited_in", lambda *_: seen)
        run_tune(config, out, trials=2)
        with (out / "trials.csv").open() as file:
            return [{**row, "seconds": ""} for row in csv.DictReader(file)]

    before = values(found, tmp_path / "a")
    away = {i for i, part in fold.parts.items() if part in ("cal", "test")}
    assert len(away) > 10
    names = found.manifest.class_names
    images = []
    for record in found.manifest.images:
        if record.image_id in away:
            (copy / record.path).write_bytes(b"nothing to see")
            other = names[(names.index(record.label) + 1) % len(names)]
            record = replace(record, label=other)
        images.append(record)
    manifest = replace(found.manifest.with_images(images), root=copy)
    assert values(replace(found, manifest=manifest), tmp_path / "b") == before
    assert before[0]["state"] == "complete"


def test_inner_folds_hold_whole_patients_and_nothing_of_cal_and_test(
    phantoms: Path, found: Audit
) -> None:
    config = gradient(phantoms, folds=3)
    fold = hold_out(found, config.study)
    data = tuning_data(found, config, fold)
    records = data.data.records
    assert {fold.parts[r.image_id] for r in records} == {"train", "val"}
    assert len(data.folds) == 3
    assert sorted(data.val_rows.tolist()) == list(range(len(records)))
    for train, val in data.folds:
        patients = [{records[i].patient_id for i in rows} for rows in (train, val)]
        assert not patients[0] & patients[1]
        assert not set(train.tolist()) & set(val.tolist())


def scripted(monkeypatch: pytest.MonkeyPatch, script: list[float | BaseException]) -> None:
    """Trials that end as the script says, without any fit."""
    events = iter(script)

    def score(self: Any, recipe: Any, folder: Path, report: Any, tell: Any) -> Any:
        event = next(events)
        if isinstance(event, BaseException):
            raise event
        classes = len(self.tuning.data.class_names)
        return event, np.full((len(self.tuning.val_rows), classes), 1 / classes)

    monkeypatch.setattr(search.ConfigurationScorer, "score", score)


def test_failed_trials_are_recorded_and_do_not_end_it(
    no_audit: None, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [
        TrainingError("the loss became nan"), 0.5, MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate\nmore"), PrunedTrial(), 0.7,
        RuntimeError("mat1 and mat2"),
    ])  # fmt: skip
    said: list[str] = []
    result = run_tune(gradient(phantoms), tmp_path / "out", trials=7, say=said.append)
    assert [(row.state, row.reason) for row in result.summary.rows] == [
        ("failed", "TrainingError: the loss became nan"),
        ("complete", ""),
        ("failed", "out of memory"),
        ("failed", "out of memory: CUDA out of memory. Tried to allocate"),
        ("pruned", ""),
        ("complete", ""),
        ("failed", "RuntimeError: mat1 and mat2"),
    ]
    assert result.summary.best.trial == 5
    assert said[0].startswith("trial 0: failed, TrainingError: the loss became nan")
    assert said[5].endswith("best 0.7000 (trial 5)")
    write_tuning_page(tmp_path / "out", result.summary)
    page = (tmp_path / "out" / "tune.html").read_text()
    assert "Failed trials (4)" in page


def test_a_recipe_that_never_works_is_an_error_with_the_reason(
    no_audit: None, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [TrainingError("the loss became nan")] * 3)
    with pytest.raises(TrainingError, match=r"none of 3 trials .* the loss became nan"):
        run_tune(gradient(phantoms), tmp_path / "out", trials=50)
    assert (tmp_path / "out" / "trials.csv").read_text().count("failed") == 3
    assert not (tmp_path / "out" / "best.toml").exists()


def test_ctrl_c_keeps_what_is_finished_and_resume_takes_the_trial_up_again(
    no_audit: None, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, config = tmp_path / "out", gradient(phantoms)
    scripted(monkeypatch, [0.5, KeyboardInterrupt()])
    result = run_tune(config, out, trials=3)
    assert result.interrupted
    assert result.summary.trials == {"complete": 1, "stopped": 1}
    assert load_recipe(str(out / "best.toml")).name == "cnn-baseline-tuned"
    scripted(monkeypatch, [0.6, 0.7])
    rows = run_tune(load_tune_config(out / CONFIG), out, trials=3, resume=True).summary.rows
    assert [row.state for row in rows] == ["complete", "stopped", "complete", "complete"]
    assert rows[2].labels == rows[1].labels


def test_a_fault_of_ours_is_shown_and_leaves_no_trial_running(
    no_audit: None, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.5, KeyError("oops")])
    with pytest.raises(KeyError):
        run_tune(gradient(phantoms), tmp_path / "out", trials=3)
    scripted(monkeypatch, [0.6, 0.7])
    result = run_tune(gradient(phantoms), tmp_path / "out", trials=3, resume=True)
    assert result.summary.trials == {"complete": 3, "stopped": 1}


def test_no_trial_starts_after_the_time(
    no_audit: None, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.5] * 9)
    clock = iter(range(0, 900, 50))
    monkeypatch.setattr(search, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    result = run_tune(gradient(phantoms), tmp_path / "out", trials=9, minutes=2)
    assert result.summary.trials == {"complete": 2}


def test_folders_and_options_that_do_not_fit_are_refused(
    no_audit: None, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.5])
    out = tmp_path / "out"
    run_tune(gradient(phantoms), out, trials=1)
    with pytest.raises(UsageError, match="already holds a tuning"):
        run_tune(gradient(phantoms), out, trials=1)
    words = r"differs from the options given: folds is 1 there, 2 given\n"
    with pytest.raises(ConfigError, match=words):
        run_tune(gradient(phantoms, folds=2), out, trials=1, resume=True)
    (tmp_path / "mine.txt").write_text("thesis")
    with pytest.raises(UsageError, match="holds no tuning"):
        run_tune(gradient(phantoms), tmp_path, trials=1)
    with pytest.raises(ConfigError, match="changes what val_loss means"):
        gradient(
            phantoms,
            "training.keep_best=val_loss",
            search=["training.loss.smoothing=uniform:0..0.2"],
        )
    with pytest.raises(UsageError, match="keeps its trials in its own folder"):
        run_tune(gradient(phantoms), out, trials=1, resume=True, storage="journal:elsewhere")
    there = gradient(phantoms, storage="postgresql://me:secret@host/db")
    assert "secret" not in there.storage
    with pytest.raises(UsageError, match="passwords are not kept"):
        run_tune(there, tmp_path / "new", trials=1)
    with pytest.raises(ConfigError, match="sampler"):
        gradient(phantoms, sampler="gird")
    monkeypatch.setattr(search, "find_spec", lambda name: None if name == "optuna" else name)
    with pytest.raises(MissingExtraError, match=r"\[tune\]"):
        run_tune(gradient(phantoms), tmp_path / "new", trials=1)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("features-svm", (), "not feature-classifier"),
        ("cnn-baseline", ("inner_folds=3",), "trains 3 models"),
    ],
)
def test_what_a_tuning_cannot_search_is_refused(
    phantoms: Path, name: str, change: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tune_config(
            study_config(phantoms, recipes=(name,), protocols=["random"], overrides=change), {}
        )


def test_two_trainings_in_one_recipe_are_refused(phantoms: Path) -> None:
    recipe = ("residual-head-resnet18",)
    with pytest.raises(ConfigError, match="two trainings"):
        tune_config(study_config(phantoms, recipes=recipe, protocols=["random"]), {})
    head = ("refine.epochs=0",)
    config = study_config(phantoms, recipes=recipe, protocols=["random"], overrides=head)
    assert tune_config(config, {}).study.recipes[0].refine.epochs == 0


def test_a_protocol_that_tests_everything_or_does_not_apply_is_refused(
    phantoms: Path, found: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = gradient(phantoms).study.model_copy(update={"protocols": ("given",)})
    with pytest.raises(DataError, match="given does not apply"):
        hold_out(found, study)
    folds = [
        replace(record, given_part=f"fold_{number % 3}")
        for number, record in enumerate(found.manifest.images)
    ]
    three = replace(found, manifest=found.manifest.with_images(folds))
    with pytest.raises(DataError, match="3 folds of its own"):
        hold_out(three, study)


def test_a_folder_without_a_tuning_cannot_be_resumed(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["tune", "--resume", "--out", str(tmp_path / "nope")])
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "expected the folder of a tuning, found no tune.toml in it" in said
    assert "without --resume" in said
    assert "Errno" not in said


@pytest.mark.usefixtures("no_study_report", "few_perturbed")
def test_the_command_line(phantoms: Path, tmp_path: Path) -> None:
    out, runner = str(tmp_path / "out"), CliRunner()
    options = ["--search", SEARCH[0], "-r", "cnn-baseline", "-p", "grouped", "--out", out]
    sets = [word for text in TINY for word in ("--set", text)]
    done = runner.invoke(app, ["tune", str(phantoms), *options, *sets, "--trials", "2"])
    assert done.exit_code == 0, done.output
    assert "optimistic" in done.output
    assert f"next    leukoscope study {phantoms} -r {out}/best.toml -p grouped" in done.output
    done = runner.invoke(app, ["tune", "--resume", "--out", out, "--trials", "3", "--json",
                               "--final"])  # fmt: skip
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["trials"] == {"complete": 3}
    assert 0 <= summary["final"]["accuracy"]["value"] <= 1
    done = runner.invoke(app, ["tune", "--out", out])
    assert done.exit_code == 2
    assert "which data?" in done.output

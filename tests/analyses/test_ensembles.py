"""Classifiers on features in a study, and ensembles of finished runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from leukoscope.analyses.ensemble_members import common_folds, load_members
from leukoscope.analyses.ensembles import run_ensemble
from leukoscope.cli.main import app
from leukoscope.config.loading import load_study_config
from leukoscope.core.errors import ConfigError, DataError, UnknownNameError, UsageError
from leukoscope.core.records import Fold, Manifest, load_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration.scaling import (
    evidence_weights,
    fit_temperature,
    softmax,
)
from leukoscope.evaluation.combining import log_probs
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.evaluation.statistics.leaderboard import holm_adjusted
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.runtime.predictor import load_bundle
from leukoscope.study.bundling import export_bundle
from leukoscope.study.options import study_config
from leukoscope.study.run import StudyResult, run_study

OPTIONS: dict[str, Any] = {
    "protocols": ["random"],
    "probes": (),
    "folds": 2,
    "overrides": [
        "preprocess.size_px=64",
        "model.backbone=test_resnet",
        "model.weights=none",
        "bootstrap=100",
        "explanations=1",
        "control_draws=2",
    ],
}
CLASSIFIERS = ["features-knn", "features-svm", "features-boosting", "features-fuzzy"]
runner = CliRunner()


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PhantomSpec(images=72, sessions=9, size_px=96, seed=5)
    return write_phantoms(spec, tmp_path_factory.mktemp("data") / "phantoms")


@pytest.fixture(scope="module")
def study(
    bare_charts_here: None,
    few_perturbed: None,
    phantoms: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> StudyResult:
    """All classifiers on features; neighbours come first and become the bundle."""
    out = tmp_path_factory.mktemp("study") / "run"
    return run_study(phantoms, out, recipes=CLASSIFIERS, **OPTIONS)


@pytest.fixture(scope="module")
def trees(
    bare_charts_here: None,
    few_perturbed: None,
    phantoms: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> StudyResult:
    """A study whose first recipe cannot become a bundle, with another seed."""
    out = tmp_path_factory.mktemp("trees") / "Other run"
    options = OPTIONS | {"probes": ["ground-only"]}
    return run_study(
        phantoms, out, recipes=["features-boosting", "features-fuzzy"], seed=7, **options
    )


@pytest.fixture(scope="module")
def ensemble(study: StudyResult, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    members = load_members([study.run.path])
    out = tmp_path_factory.mktemp("ensemble") / "run"
    return run_ensemble(members, out, ("fuzzy", "weighted", "accuracy-weighted", "vote"))


def test_neighbours_become_a_bundle_that_needs_no_sklearn(study: StudyResult) -> None:
    manifest = Manifest.load(study.run.manifest, load_study_config(study.run.config).data.root)
    answer = load_bundle(study.run.bundle).predict([manifest.path_of(manifest.usable[0])])[0]
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert (study.run.explanations / "explanations.json").is_file()


def test_each_classifier_says_how_it_was_chosen(study: StudyResult) -> None:
    for recipe in CLASSIFIERS:
        folder = study.run.model(recipe, "random", 0)
        assert (folder / "grid.csv").read_text().splitlines()[0].endswith("val_loss,val_accuracy")
        graph = recipe in ("features-knn", "features-svm")
        assert (folder / "checkpoint.safetensors").is_file() == graph
    rules = study.run.model("features-fuzzy", "random", 0) / "rules.txt"
    assert "component1 IS " in rules.read_text()
    report = study.run.report_md.read_text()
    assert "Fuzzy rules of features-fuzzy" in report
    assert "Settings selected by log loss on validation images" in report
    assert "The two levels of the hierarchy" in report
    levels = study.metrics.to_json()["hierarchy"]
    assert [row["recipe"] for row in levels] == CLASSIFIERS
    assert levels[0]["binary"]["metrics"]["roc_auc"]["value"] is not None


def test_a_study_of_trees_ends_without_a_bundle_and_says_why(trees: StudyResult) -> None:
    assert not trees.run.bundle.exists()
    reason = "boosted trees cannot be written as the one graph that a bundle holds"
    assert any(reason in text for text in trees.metrics.to_json()["warnings"])
    assert reason in trees.run.report_md.read_text()
    with pytest.raises(UsageError, match=reason):
        export_bundle(trees.run, "features-boosting", trees.run.path / "b")


def test_an_ensemble_is_a_run_with_members_and_plain_averaging_beside_it(
    ensemble: StudyResult, study: StudyResult
) -> None:
    names = [row["recipe"] for row in ensemble.metrics.to_json()["results"]]
    rules = ["fuzzy", "weighted", "accuracy-weighted", "vote", "mean"]
    assert names == [*(f"ensemble-{rule}" for rule in rules), *CLASSIFIERS]
    config = load_study_config(ensemble.run.config)
    assert [recipe.name for recipe in config.recipes] == names
    both = zip(ensemble.metrics.results[5:], study.metrics.results, strict=True)
    for mine, theirs in both:
        assert mine.metrics == theirs.metrics
    report = ensemble.run.report_md.read_text()
    assert "How the models were combined" in report
    assert "IF features-knn IS high AND features-svm IS high THEN support IS very high" in report


def test_means_and_votes_get_one_temperature_of_the_other_fold(
    ensemble: StudyResult,
) -> None:
    table = PredictionTable.load(ensemble.run.predictions)
    own: list[PredictionTable] = []
    means: list[tuple[list[PredictionTable], PredictionTable]] = []
    for number in (0, 1):
        of_fold = table.select(fold=number)
        recipes = (*CLASSIFIERS, "ensemble-vote", "ensemble-mean")
        parts = [of_fold.select(recipe=name) for name in recipes]
        *members, vote, mean = (part.take(np.argsort(part.image_id)) for part in parts)
        own.append(vote)
        means.append((members, mean))
    fold, other = load_folds(ensemble.run.splits)[0], own[1].select(part="test")
    weights = evidence_weights(np.array(fold.units(other.image_id.tolist())))
    temperature = fit_temperature(other.logits, other.y_true, weights)
    np.testing.assert_allclose(own[0].probs, softmax(own[0].logits / temperature), atol=1e-6)

    def fitted(probs: NDArray[np.float64], kept: NDArray[np.bool_]) -> float:
        return fit_temperature(log_probs(probs[kept]), other.y_true, weights)

    members, kept = means[1][0], means[1][1].part == "test"
    mean = np.mean([part.probs for part in members], axis=0)
    by_member = [fitted(part.probs, kept) for part in members]
    left = fitted(mean, kept) / float(np.exp(np.mean(np.log(by_member))))
    shown = np.mean([part.probs for part in means[0][0]], axis=0)
    np.testing.assert_allclose(means[0][1].probs, softmax(log_probs(shown) / left), atol=1e-5)


def test_the_record_names_members_weights_and_tests(ensemble: StudyResult) -> None:
    record = json.loads((ensemble.run.path / "ensemble.json").read_text())
    assert [member["recipe"] for member in record["members"]] == CLASSIFIERS
    for folds in (record["weights"][rule]["random"] for rule in ("weighted", "accuracy-weighted")):
        assert len(folds) == 2
        assert all(sum(weights) == pytest.approx(1, abs=1e-3) for weights in folds)
    pairs = {(t["a"], t["b"]) for t in record["tests"]}
    best = record["best_member"]["random"]
    assert best in CLASSIFIERS
    assert {("ensemble-fuzzy", "ensemble-mean"), ("ensemble-fuzzy", best)} <= pairs
    corrected = holm_adjusted([t["p"] for t in record["tests"]])  # one protocol, one family
    assert [t["p_holm"] for t in record["tests"]] == pytest.approx(corrected, abs=1e-3)
    assert all(t["p_holm"] < 0.05 for t in record["tests"] if t["verdict"] != "not distinguishable")


@pytest.mark.usefixtures("no_study_report")
def test_an_ensemble_can_be_made_again_and_be_a_member(
    ensemble: StudyResult, study: StudyResult, tmp_path: Path
) -> None:
    again = RunFolder(tmp_path / "again")
    shutil.copytree(ensemble.run.path, again.path)
    members = load_members([], [f"{study.run.path}:features-knn", f"{study.run.path}:features-svm"])
    result = run_ensemble(members, again.path)
    assert [row.recipe for row in result.metrics.results] == [
        "ensemble-mean",
        *CLASSIFIERS[:2],
    ]
    of_both = load_members([], [f"{again.path}:ensemble-mean", f"{again.path}:features-svm"])
    assert [member.name for member in of_both] == ["ensemble-mean", "features-svm"]
    assert [m.recipe.name for m in load_members([again.path])] == CLASSIFIERS[:2]


def test_the_probes_of_a_run_judge_its_ensemble_too(trees: StudyResult, tmp_path: Path) -> None:
    found = run_ensemble(load_members([trees.run.path]), tmp_path / "out").metrics.to_json()
    own = trees.metrics.to_json()
    (ground,), (of_member,) = found["shortcuts"]["sources"], own["shortcuts"]["sources"]
    assert (ground["probe"], ground["metric"]) == ("ground-only", "paired_auc")
    assert ground["value"] == of_member["value"]
    assert found["control"] == own["control"]


def test_a_model_and_its_copy_are_as_good_as_the_model(trees: StudyResult, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trees.run.path, tmp_path / "copy"))
    pair = [f"{folder}:features-boosting" for folder in (trees.run.path, copy)]
    found = run_ensemble(load_members([], pair), tmp_path / "out").metrics.to_json()
    loss = {row["recipe"]: row["metrics"]["log_loss"]["value"] for row in found["results"]}
    assert loss.pop("ensemble-mean") == pytest.approx(min(loss.values()), abs=1e-4)


def test_runs_that_were_split_differently_are_named(study: StudyResult, trees: StudyResult) -> None:
    members = load_members([study.run.path, trees.run.path])
    assert members[2].name == "run-features-boosting"
    assert members[4].name == "other-run-features-boosting"
    with pytest.raises(DataError, match="were split differently: under random, fold 0") as error:
        common_folds(members)
    assert str(study.run.path) in str(error.value)
    assert str(trees.run.path) in str(error.value)


def test_members_that_do_not_fit_are_refused(
    study: StudyResult, phantoms: Path, tmp_path: Path
) -> None:
    run = study.run.path
    with pytest.raises(UsageError, match="two or more members, got 1"):
        load_members([], [f"{run}:features-knn"])
    with pytest.raises(UsageError, match="features-knn is named 2 times"):
        load_members([run], [f"{run}:features-knn"])
    with pytest.raises(UnknownNameError, match=r"unknown recipe of .* 'features-kn'"):
        load_members([], [f"{run}:features-kn"])
    with pytest.raises(UsageError, match="expects RUN:RECIPE, got 'nonsense'"):
        load_members([], ["nonsense"])
    members = load_members([run])
    with pytest.raises(UsageError, match="is one of the members"):
        run_ensemble(members, run)
    (tmp_path / "mine.txt").write_text("thesis")
    with pytest.raises(UsageError, match="holds no ensemble"):
        run_ensemble(members, tmp_path)
    old = RunFolder(tmp_path / "old")
    old.path.mkdir()
    old.ensemble.write_text("{}")
    (old.path / "notes.txt").write_text("thesis")
    with pytest.raises(UsageError, match=r"old holds notes.txt, which no ensemble wrote"):
        run_ensemble(members, old.path)
    assert (old.path / "notes.txt").is_file()
    copy = RunFolder(tmp_path / "killed")
    shutil.copytree(run, copy.path, ignore=shutil.ignore_patterns("models", "cache"))
    lines = copy.predictions.read_text().splitlines(keepends=True)
    cut = [line for line in lines if ",features-fuzzy,random,1," in line and ",image," in line]
    copy.predictions.write_text("".join(line for line in lines if line not in cut[-30:]))
    with pytest.raises(DataError, match=r"features-fuzzy has 14 predictions under random, fold 1"):
        run_ensemble(load_members([copy.path]), tmp_path / "out")
    copy.predictions.unlink()
    with pytest.raises(DataError, match="the run is not finished"):
        load_members([copy.path])
    with pytest.raises(DataError, match="there is no such folder"):
        load_members([tmp_path / "nowhere"])
    recipe = tmp_path / "both.toml"
    recipe.write_text(
        'name = "both"\ntitle = ""\n[training]\nmethod = "ensemble"\nmembers = ["a:b", "c:d"]\n'
    )
    with pytest.raises(ConfigError, match="an ensemble of finished runs cannot be trained"):
        study_config(phantoms, recipes=[str(recipe)])


def test_folds_are_a_part_of_the_check(study: StudyResult) -> None:
    first, second = load_members([study.run.path])[:2]
    fewer = tuple(f for f in second.files.splits if (f.protocol, f.fold) != ("random", 1))
    object.__setattr__(second, "files", _with_folds(second.files, fewer))
    with pytest.raises(DataError, match="other numbers of folds"):
        common_folds([first, second])


def _with_folds(files: RunFiles, folds: tuple[Fold, ...]) -> RunFiles:
    """The same run with other splits."""
    changed = RunFiles(files.run)
    vars(changed)["splits"] = folds
    return changed


@pytest.mark.usefixtures("no_study_report")
def test_the_command_prints_scores_weights_and_tests(study: StudyResult, tmp_path: Path) -> None:
    done = runner.invoke(
        app, ["ensemble", str(study.run.path), "-m", "weighted", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    for text in ("ensemble-weighted", "weights, weighted", "paired, on the same test images"):
        assert text in done.output
    done = runner.invoke(app, ["ensemble", "--out", str(tmp_path / "none")])
    assert done.exit_code == 2
    assert "needs two or more members, got 0" in done.output


def test_help_has_an_example_and_says_why_folds_are_not_averaged() -> None:
    text = " ".join(runner.invoke(app, ["ensemble", "--help"]).output.split())
    assert "Example: leukoscope ensemble" in text
    assert "The folds of one recipe cannot be averaged here" in text

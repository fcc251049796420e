"""The classifier keeps scikit-learn's rules, and the folds those of a study."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

import leukoscope
from leukoscope import LeukoscopeClassifier, cv_splits
from leukoscope.core.errors import ConfigError, SplitError, UnknownNameError
from leukoscope.imaging.decode import decode_image
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PhantomSpec(images=24, sessions=3, size_px=96, class_names=("benign", "pro_b"))
    return write_phantoms(spec, tmp_path_factory.mktemp("sklearn") / "phantoms")


def test_it_passes_the_checks_of_scikit_learn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checks = check_estimator(LeukoscopeClassifier(), on_fail=None, on_skip=None)
    wrong = [row["check_name"] for row in checks if row["status"] not in ("passed", "skipped")]
    assert wrong == []
    assert len(checks) > 40


def test_paths_pictures_and_features_are_one_thing(phantoms: Path, small_quick: Path) -> None:
    cv = cv_splits(phantoms, "grouped", folds=3)
    model = LeukoscopeClassifier(str(small_quick), val=0.25).fit(cv.paths, cv.labels, cv.groups)
    by_path = model.predict_proba(cv.paths)
    pictures = [decode_image(Path(path)).image for path in cv.paths]
    np.testing.assert_array_equal(model.predict_proba(np.stack(pictures)), by_path)
    np.testing.assert_array_equal(model.predict_proba(pictures), by_path)
    np.testing.assert_allclose(by_path.sum(axis=1), 1)
    features = model._features(cv.paths)
    again = clone(model).fit(features, cv.labels, cv.groups)
    np.testing.assert_allclose(again.predict_proba(features), by_path)
    copy = pickle.loads(pickle.dumps(model))
    assert list(copy.predict(cv.paths)) == list(model.predict(cv.paths))
    assert set(copy.classes_) == {"benign", "pro_b"}


def test_the_unit_penalty_of_a_recipe_needs_groups(tmp_path: Path) -> None:
    recipe = tmp_path / "held.toml"
    recipe.write_text(
        'name = "held"\ntitle = "held"\n[training]\nmethod = "linear-head"\n'
        "c_grid = [0.01]\nunit_penalty = 100\n"
    )
    rng = np.random.default_rng(0)
    patients, y = np.repeat(np.arange(40), 6), np.repeat(np.arange(40) % 2, 6)
    X = rng.normal(size=(240, 2)) + np.outer(y, [1, 1])
    X[:, 0] += rng.normal(scale=3, size=40)[patients]  # what tells patients of a class apart

    def ratio(groups: np.ndarray | None) -> float:
        weight = LeukoscopeClassifier(str(recipe)).fit(X, y, groups).head_.weight[1]
        return float(abs(weight[0] / weight[1]))

    assert ratio(patients) < 0.5 * ratio(None)


def test_folds_of_a_protocol_serve_as_cv(phantoms: Path, small_quick: Path) -> None:
    cv = cv_splits(phantoms, "grouped", folds=3)
    assert cv.get_n_splits() == 3
    tested = np.concatenate([test for _, test in cv.split(cv.paths)])
    assert sorted(tested) == list(range(24))
    for train, test in cv.split():
        assert not set(cv.groups[train]) & set(cv.groups[test])
    model = LeukoscopeClassifier(str(small_quick))
    scores = cross_val_score(model, cv.paths, cv.labels, cv=cv)
    assert len(scores) == 3
    assert np.isfinite(scores).all()
    with pytest.raises(ValueError, match=r"expected the 24 images of \.paths, got 5 rows"):
        list(cv.split(cv.paths[:5]))


def test_what_cannot_be_is_said(phantoms: Path) -> None:
    with pytest.raises(SplitError, match="cohort does not apply"):
        cv_splits(phantoms, "cohort")
    with pytest.raises(UnknownNameError, match="Did you mean 'aria-all'"):
        cv_splits(phantoms, "acquisition", frozen="aria-al")
    with pytest.raises(ConfigError, match="linear head on a frozen backbone"):
        LeukoscopeClassifier("finetune").fit(np.eye(4), [0, 1, 0, 1])
    with pytest.raises(ConfigError, match=r"training\.degraded works in a study alone"):
        LeukoscopeClassifier("single-cell").fit(np.eye(4), [0, 1, 0, 1])


def test_columns_and_arrays_of_paths_are_paths(phantoms: Path, small_quick: Path) -> None:
    pd = pytest.importorskip("pandas")
    cv = cv_splits(phantoms, "grouped", folds=3)
    model = LeukoscopeClassifier(str(small_quick)).fit(cv.paths, cv.labels)
    expected = model.predict_proba(cv.paths)
    column = pd.Series(cv.paths, index=range(100, 100 + len(cv.paths)))
    for paths in (column, cv.paths.astype(object), np.array(list(map(Path, cv.paths)))):
        again = clone(model).fit(paths, pd.Series(cv.labels))
        np.testing.assert_array_equal(again.predict_proba(paths), expected)


def _few_rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(n) % 2
    return np.random.default_rng(0).normal(size=(n, 3)) + y[:, None], y


def test_few_rows_still_select_and_calibrate() -> None:
    X, y = _few_rows(12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = LeukoscopeClassifier().fit(X, y)
    assert model.head_.val_logits is not None
    assert model.head_.val_logits.shape == (2, 2)
    assert len(model.head_.history) > 1


def test_a_class_of_one_row_is_told() -> None:
    X, y = _few_rows(9)
    y = np.array(["b"] * 8 + ["a"])
    with pytest.warns(
        UserWarning, match="^a: too few rows of this class to set one aside; the penalty is"
    ):
        LeukoscopeClassifier().fit(X, y)
    with pytest.warns(UserWarning, match="a, b: too few groups .*; the weakest penalty is taken"):
        model = LeukoscopeClassifier().fit(X, y, groups=y)
    assert model.temperature_ == 1
    crossed = np.arange(9) % 2  # either group holds the one class or the only rest of the other
    with pytest.warns(UserWarning, match="a: too few groups"):
        LeukoscopeClassifier().fit(X, y, groups=crossed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LeukoscopeClassifier(val=0).fit(X, y)


@pytest.mark.parametrize("val", ["x", -1, 1.0, float("nan"), None])
def test_val_is_a_share(val: object) -> None:
    with pytest.raises(ValueError, match=f"expected val from 0 to less than 1.*got {val!r}"):
        LeukoscopeClassifier(val=val).fit(*_few_rows(12))  # type: ignore[arg-type]


def test_rows_that_do_not_fit_are_told(small_quick: Path) -> None:
    X, y = _few_rows(12)
    model = LeukoscopeClassifier(str(small_quick))
    with pytest.raises(ValueError, match="expected one group a row, got 3 groups and 12 rows"):
        model.fit(X, y, groups=[1, 2, 3])
    with pytest.raises(ValueError, match=r"pictures \(n, H, W, 3\) uint8 RGB.* \(12, 8, 8\)"):
        model.fit(np.zeros((12, 8, 8), np.uint8), y)
    with pytest.raises(ValueError, match="type float64"):
        model.fit(np.zeros((12, 8, 8, 3)), y)
    with pytest.raises(ValueError, match=r"at least two classes, got 1 class: a$"):
        model.fit(["x.png", "y.png"], ["a", "a"])
    with pytest.raises(ValueError, match="expected one class a row, got 2 and 3"):
        model.fit(["x.png", "y.png"], ["a", "b", "a"])


@pytest.mark.parametrize("recipe", ["patient-mean", "patient-spread"])
def test_recipes_of_patients_are_refused(recipe: str) -> None:
    with pytest.raises(ConfigError, match=f"recipe {recipe} answers for patients"):
        LeukoscopeClassifier(recipe).fit(*_few_rows(12))


@pytest.mark.real_data
def test_frozen_folds_fit_a_part_of_the_published_set(data_root: Path, tmp_path: Path) -> None:
    for folder in sorted((data_root / "aria_all").iterdir()):
        if folder.is_dir():
            (tmp_path / folder.name).mkdir()
            for image in sorted(folder.iterdir())[:8]:
                (tmp_path / folder.name / image.name).symlink_to(image)
    cv = leukoscope.cv_splits(tmp_path, "acquisition", frozen="aria-all")
    assert cv.get_n_splits() == 5
    assert len(cv.paths) > 20
    for train, test in cv.split():
        assert not set(train) & set(test)

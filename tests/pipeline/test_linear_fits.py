"""Linear heads of recipes: degraded copies, and units that count the same."""

from __future__ import annotations

import numpy as np
import pytest

from leukoscope.config.loading import load_recipe
from leukoscope.config.recipe import Recipe
from leukoscope.core.records import ImageRecord
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.linear_fits import Beside, balance_weights, linear_logits

NAMES = ("benign", "pre_b")


def data_of(patients: list[str], y: list[int]) -> Labelled:
    rows = zip(patients, y, strict=True)
    return Labelled(
        tuple(
            ImageRecord(f"i{n}", f"{n}.png", "", NAMES[k], patient_id=p)
            for n, (p, k) in enumerate(rows)
        ),
        NAMES,
    )


def with_training(**values: object) -> Recipe:
    recipe = load_recipe("quick")
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=values)})


def test_units_of_a_class_count_the_same_and_classes_keep_their_sums() -> None:
    data = data_of(["a", "a", "a", "b", "c", "c", "d", "e"], [0, 0, 0, 0, 1, 1, 1, 1])
    weights = balance_weights(data, np.arange(8), "units")
    assert weights[:3].sum() == pytest.approx(weights[3]) == pytest.approx(2.0)
    assert weights[4:6].sum() == pytest.approx(weights[6]) == pytest.approx(weights[7])
    assert weights[4:].sum() == pytest.approx(4.0)


def test_balanced_classes_count_the_same() -> None:
    data = data_of(["a"] * 8, [0, 0, 0, 0, 0, 0, 1, 1])
    weights = balance_weights(data, np.arange(8), "classes")
    assert weights[:6].sum() == pytest.approx(weights[6:].sum()) == pytest.approx(4.0)


def test_balanced_classes_name_the_rare_class_more_often() -> None:
    rng = np.random.default_rng(0)
    y = (np.arange(1000) % 10 == 0).astype(int)
    X = (rng.normal(size=(1000, 3)) + y[:, None] * 0.6).astype(np.float32)
    rows = {"train": np.arange(600), "val": np.arange(600, 800), "test": np.arange(800, 1000)}
    data = data_of(["p"] * 1000, list(y))

    def found(balance: str) -> float:
        """Share of the rare class's test images that are named so."""
        logits = linear_logits(with_training(balance=balance), X, data, rows)["test"]
        return float((logits.argmax(axis=1) == 1)[y[rows["test"]] == 1].mean())

    assert found("classes") > found("images") + 0.3


def test_degraded_copies_take_weight_from_what_damage_destroys() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    X = rng.normal(size=(400, 3)).astype(np.float32)
    X[:, 0] += 3 * y  # fine texture: gone in the copies
    X[:, 1] += 1.5 * y
    damaged = X.copy()
    damaged[:, 0] = rng.normal(size=400)
    rows = {"train": np.arange(200), "val": np.arange(200, 300), "test": np.arange(300, 400)}
    recipe = with_training(degraded=("blur-1",))
    shown = {"train": rows["train"], "val": rows["val"]}

    def accuracy(copies: tuple[np.ndarray, ...]) -> float:
        """Of the damaged test images."""
        features = np.concatenate([X, damaged])
        parts = {**shown, "test": 400 + rows["test"]}
        twice = data_of(["p"] * 800, [*y, *y])
        found = linear_logits(recipe, features, twice, parts, Beside(copies))
        assert len(found["val"]) == len(rows["val"])  # of the images, not of their copies
        return float((found["test"].argmax(axis=1) == y[rows["test"]]).mean())

    assert accuracy((damaged,)) > accuracy(()) + 0.1


def nuisance_set(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features whose first column is grain, which follows the class until the test images."""
    y = np.arange(600) % 2
    X = rng.normal(size=(600, 4)).astype(np.float32)
    X[:, 1] += 1.0 * y
    grain = np.where(np.arange(600) < 400, y, 1 - y) + 0.5 * rng.normal(size=600)
    X[:, 0] = grain + 0.1 * rng.normal(size=600)
    return X, grain[:, None], y


PARTS = {"train": np.arange(250), "val": np.arange(250, 400), "test": np.arange(400, 600)}


def test_what_is_erased_no_longer_decides() -> None:
    X, grain, y = nuisance_set(np.random.default_rng(0))
    data = data_of(["p"] * 600, list(y))

    def accuracy(beside: Beside) -> float:
        logits = linear_logits(with_training(erase=("grain",)), X, data, PARTS, beside)["test"]
        return float((logits.argmax(axis=1) == y[PARTS["test"]]).mean())

    assert accuracy(Beside(numbers=grain)) > 0.6 > 0.4 > accuracy(Beside())


def test_what_tells_units_of_a_class_apart_is_erased() -> None:
    rng = np.random.default_rng(0)
    unit = np.arange(600) % 20
    y = unit % 2
    X = rng.normal(size=(600, 3)).astype(np.float32)
    X[:, 0] += 4 * rng.normal(size=20)[unit] + 3 * y  # a stain that happens to go with the class
    X[:, 1] += 1.0 * y
    data = data_of([f"p{u}" for u in unit], list(y))
    weights = {}
    for erase in ((), ("units",)):
        logits = linear_logits(with_training(erase=erase), X, data, PARTS)["test"]
        margin = logits[:, 1] - logits[:, 0]
        shown = np.column_stack([X[PARTS["test"]], np.ones(200)])
        weights[erase] = np.linalg.lstsq(shown, margin, rcond=None)[0]
    assert abs(weights[("units",)][0]) < 0.1 * abs(weights[()][0])


def test_the_worst_units_gain_weight_and_lose_less() -> None:
    rng = np.random.default_rng(0)
    unit = np.arange(600) % 10
    y = np.arange(600) // 300
    X = rng.normal(size=(600, 2)).astype(np.float32)
    odd = unit == 0  # one unit of each class shows the class in the other column
    X[~odd, 0] += 2.0 * y[~odd]
    X[odd, 1] += 2.0 * y[odd]
    data = data_of([f"p{u}-{k}" for u, k in zip(unit, y, strict=True)], list(y))
    rows = rng.permutation(600)
    parts = {"train": rows[:300], "val": rows[300:400], "test": rows[400:]}
    test = parts["test"]

    def accuracy(balance: str) -> float:
        logits = linear_logits(with_training(balance=balance), X, data, parts)["test"]
        hit = logits.argmax(axis=1) == y[test]
        return float(hit[odd[test]].mean())

    assert accuracy("worst-units") > accuracy("units") + 0.1

"""Sampling by patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import TrainingError
from leukoscope.learning.backbones import build_network
from leukoscope.learning.batches import Batches, ImageSet
from leukoscope.learning.trainer import train_gradient


class Clock:
    seed, current_epoch = 5, 0


def unequal() -> ImageSet:
    """Class 0 of two patients (60 and 20 images), class 1 of one (20), who is also one of 0's."""
    y = np.array([0] * 80 + [1] * 20)
    who = ("a",) * 60 + ("b",) * 20 + ("a",) * 20
    return ImageSet(np.zeros((100, 2, 2, 3), np.uint8), y, (), who)


def test_every_patient_weighs_the_same_within_its_class() -> None:
    data = unequal()
    chances = data.draw_probabilities("patients")
    assert chances is not None
    sums = [chances[start:end].sum() for start, end in ((0, 60), (60, 80), (80, 100))]
    np.testing.assert_allclose(sums, [0.25, 0.25, 0.5])
    assert len(set(chances[:60].round(12))) == 1
    balanced = data.draw_probabilities("balanced")
    assert balanced is not None
    np.testing.assert_allclose(balanced[:80], 0.5 / 80)
    assert data.draw_probabilities("shuffle") is None


def test_batches_are_drawn_by_patient() -> None:
    data = unequal()

    def drawn(sampling: str) -> torch.Tensor:
        batches = Batches(data, 25, Clock(), v2.Identity(), sampling=sampling)  # type: ignore[arg-type]
        return torch.cat([rows for _, _, rows in batches])

    rows = drawn("patients")
    assert torch.equal(rows, drawn("patients"))
    assert 15 <= int(((rows >= 60) & (rows < 80)).sum()) <= 35
    assert 5 <= int(((drawn("balanced") >= 60) & (drawn("balanced") < 80)).sum()) < 20


@pytest.mark.parametrize(("who", "count"), [((), 100), (("a",) * 97 + ("",) * 3, 3)])
def test_unknown_patients_are_said(
    who: tuple[str, ...], count: int, recipe: Recipe, tmp_path: Path
) -> None:
    data = ImageSet(np.zeros((100, 32, 32, 3), np.uint8), np.arange(100) % 2, (), who)
    training = recipe.training.model_copy(update={"sampling": "patients"})
    recipe = recipe.model_copy(update={"training": training})
    network = build_network(recipe.model, num_classes=2, size_px=32)
    with pytest.raises(TrainingError, match=f"but {count} of 100 have none") as caught:
        train_gradient(network, recipe, data, data, tmp_path, seed=1)
    assert "patient_id" in str(caught.value.hint)


def test_patients_are_part_of_what_a_run_is_resumed_with() -> None:
    data = unequal()
    other = ImageSet(data.images, data.y, (), ("c",) * 100)
    assert data.sha256 != other.sha256

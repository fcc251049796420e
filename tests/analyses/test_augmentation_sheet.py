"""The sheet of augmentations: every kind has a row of its own, and the recipe's mix is real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leukoscope.analyses import preview
from leukoscope.analyses.preview import BLENDS, EXAMPLES, draw_augmentations
from leukoscope.config.loading import load_recipe
from leukoscope.config.recipe import Augmentation


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(40, 216, (4, 24, 24, 3), dtype=np.uint8)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    rows: dict[str, np.ndarray] = {}

    def keep(path: Path, found: Any, captions: Any, titles: Any, **_: Any) -> Path:
        rows.update(
            (c.replace("\n", " "), np.stack(r)) for c, r in zip(captions, found, strict=True)
        )
        return path

    monkeypatch.setattr(preview, "draw_sheet", keep)
    return rows


def test_every_kind_has_an_example_that_is_not_its_default() -> None:
    plain = Augmentation().model_dump()
    assert list(EXAMPLES) == list(plain)
    assert all(plain[name] != value for name, value in EXAMPLES.items())


def test_each_row_shows_its_own_change(images: np.ndarray, drawn: dict[str, np.ndarray]) -> None:
    recipe = load_recipe("leaky-cnn", ["training.mixup=0.3"])
    draw_augmentations(Path("x.png"), images, ["a"] * 4, recipe, 5)
    assert len(drawn) == 1 + len(EXAMPLES) + len(BLENDS) + 3
    assert "quarter_turns" in drawn
    assert "stain = 0.05 (off in this recipe)" in drawn
    assert "mixup = 0.3" in drawn
    assert "cutmix = 1 (off in this recipe)" in drawn
    np.testing.assert_array_equal(drawn["as read"], images)
    for caption, row in drawn.items():
        assert row.shape == images.shape
        assert row.dtype == np.uint8
        assert np.array_equal(row, images) == (caption == "as read"), caption
    mixes = [row for caption, row in drawn.items() if "as trained" in caption]
    assert len({mix.tobytes() for mix in mixes}) == 3
    again = dict(drawn)
    draw_augmentations(Path("x.png"), images, ["a"] * 4, recipe, 5)
    assert all(np.array_equal(drawn[caption], row) for caption, row in again.items())


def test_a_linear_head_says_that_nothing_changes(
    images: np.ndarray, drawn: dict[str, np.ndarray]
) -> None:
    recipe = load_recipe("quick", ["augmentation.hue=0.1"])  # set, but without an effect
    draw_augmentations(Path("x.png"), images, ["a"] * 4, recipe, 5)
    assert "hue = 0.05 (off in this recipe)" in drawn
    (caption,) = (caption for caption in drawn if "as trained" in caption)
    assert "frozen features" in caption
    np.testing.assert_array_equal(drawn[caption], images)

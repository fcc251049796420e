"""How a comparison writes the settings of a recipe."""

from __future__ import annotations

from leukoscope.config.loading import load_recipe
from leukoscope.reporting.compare.recipes import also_of, augmentation_of, fitted_by, head_of


def test_a_setting_that_is_its_default_is_not_among_the_further_ones() -> None:
    assert also_of(load_recipe("shallow")) == "stages 4"
    assert also_of(load_recipe("shallow", ["model.stages=0"])) == "—"


def test_heads_and_augmentations_are_written_in_words() -> None:
    efficientnet = load_recipe("efficientnetv2-s")
    assert head_of(efficientnet.model) == "128 relu, dropout 0.5, linear"
    turned = ["augmentation.rotation_deg=20", "augmentation.crop_min_area=0.8"]
    words = augmentation_of(load_recipe("bn-cnn", turned).augmentation)
    assert "rotation 20°" in words
    assert "crops of 0.8–1 of the area" in words


def test_a_linear_head_is_told_with_what_it_is_trained_on() -> None:
    words = fitted_by(load_recipe("single-cell").training)
    assert "unit penalty 1" in words
    assert "copies blur-1, jpeg-85, size-90, size-110" in words
    balanced = fitted_by(load_recipe("quick", ["training.balance=classes"]).training)
    assert balanced.endswith("; all classes count the same")

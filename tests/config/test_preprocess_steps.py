"""Schemas of the preprocessing steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from leukoscope.config import preprocess
from leukoscope.config.loading import load_recipe
from leukoscope.config.preprocess import (
    IMAGENET,
    SYMMETRIC,
    UNIT_RANGE,
    KmeansSegment,
    LabRanges,
    PreprocessSpec,
    Reinhard,
)


def test_published_values() -> None:
    s3 = [(box.low, box.high) for box in LabRanges().ranges]
    assert s3 == [
        ((130, 70, 215), (230, 170, 255)),
        ((90, 120, 100), (180, 200, 160)),
        ((100, 50, 100), (200, 150, 200)),
    ]
    adaptive = preprocess.AdaptiveClahe()
    assert (adaptive.clip_limits, adaptive.tiles) == ((1.0, 2.0, 3.0), (8, 16))
    assert KmeansSegment().clusters == 3


def test_named_normalisations() -> None:
    assert PreprocessSpec() == PreprocessSpec(**SYMMETRIC._asdict())
    assert PreprocessSpec(**IMAGENET._asdict()).std == (0.229, 0.224, 0.225)
    assert PreprocessSpec(**UNIT_RANGE._asdict()).mean == (0.0, 0.0, 0.0)


def test_a_recipe_file_with_steps(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\ntitle = "t"\nreference = "r"\n[preprocess]\nsize_px = 96\n'
        '[[preprocess.steps]]\nkind = "reinhard"\n'
        '[[preprocess.steps]]\nkind = "kmeans_segment"\nclusters = 4\noutside = "neutral"\n'
    )
    steps = load_recipe(str(path)).preprocess.steps
    assert steps == (Reinhard(), KmeansSegment(clusters=4, outside="neutral"))


def test_specifications_survive_json() -> None:
    values = [{"kind": "macenko"}, {"kind": "lab_ranges", "otsu": False}, {"kind": "leukocytes"}]
    spec = PreprocessSpec.model_validate({"steps": values})
    assert PreprocessSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"kind": "bilateral_filter", "diameter_px": 4}, "has to be odd"),
        ({"kind": "lab_ranges", "ranges": [{"low": [9, 0, 0], "high": [8, 9, 9]}]}, "above high"),
        ({"kind": "lab_ranges", "ranges": []}, "at least 1 item"),
        ({"kind": "kmeans_segment", "clusters": 1}, "greater than or equal to 2"),
        ({"kind": "kmeans_segment", "outside": "white"}, "'black' or 'neutral'"),
        ({"kind": "multiscale_kmeans", "scales": [2.0]}, "less than or equal to 1"),
        ({"kind": "adaptive_clahe", "clip_limits": []}, "at least 1 item"),
        ({"kind": "gaussian_blur", "sigma_px": 0}, "greater than 0"),
        ({"kind": "morphology", "radius_px": 0}, "greater than or equal to 1"),
        ({"kind": "reinhard", "std": [1, 0, 1]}, "greater than 0"),
        ({"kind": "macenko", "angle_percentile": 50}, "less than 50"),
        ({"kind": "leukocytes", "size": 3}, "Extra inputs are not permitted"),
        ({"kind": "watershed"}, "does not match any of the expected tags"),
    ],
)
def test_wrong_values_are_named(step: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PreprocessSpec.model_validate({"steps": [step]})

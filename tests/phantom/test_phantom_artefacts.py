"""What can be planted into an image, and that it does what its name says and no more."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from leukoscope.core.errors import ConfigError, UnknownNameError
from leukoscope.phantom import (
    ARTEFACTS,
    PhantomSpec,
    plant_artefact,
    render_phantom,
    write_phantoms,
)
from leukoscope.phantom.artefacts import PIXEL_ARTEFACTS, STRENGTHS, artefact_level

SPEC = PhantomSpec(images=4, sessions=2, size_px=96, seed=3, class_names=("benign", "pre_b"))
FIELD = render_phantom(SPEC, 1)
CELLS = FIELD.mask >= 2
OF_PIXELS = [name for name, artefact in ARTEFACTS.items() if artefact.plant is not None]


def _planted(name, strength, seed=0):
    return plant_artefact(FIELD.image, name, strength, rng=np.random.default_rng(seed), cells=CELLS)


def _change(name, strength):
    return np.abs(_planted(name, strength).astype(int) - FIELD.image).sum(axis=2)


def _high_pass(image):
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.abs(luma - cv2.GaussianBlur(luma, (0, 0), 1.0)).mean())


def test_at_least_fourteen_and_each_fits_fields_or_cells():
    assert len(ARTEFACTS) >= 14
    assert all(one.fields or one.cells for one in ARTEFACTS.values())
    assert {name for name in ARTEFACTS if not ARTEFACTS[name].fields} == {"rim", "jpeg-cut"}


@pytest.mark.parametrize("name", [n for n in OF_PIXELS if n not in ("size", "scale-bar")])
def test_a_higher_strength_changes_more_and_the_input_stays(name):
    before = FIELD.image.copy()
    mean = [_change(name, strength).mean() for strength in STRENGTHS]
    assert 0 < mean[0] < mean[1] < mean[2]
    assert np.array_equal(FIELD.image, before)


def test_noise_stays_inside_or_outside_the_cells():
    assert not _change("noise-inside", 3)[~CELLS].any()
    assert _change("noise-inside", 3)[CELLS].mean() > 3
    assert not _change("noise-outside", 3)[CELLS].any()
    assert _change("noise-outside", 3)[~CELLS].mean() > 3


def test_a_rim_darkens_the_outermost_pixels_of_the_cells_alone():
    changed = _change("rim", 3) > 0
    depth = cv2.distanceTransform(CELLS.astype(np.uint8), cv2.DIST_C, 3)
    assert changed.any()
    assert not changed[~CELLS].any()
    assert depth[changed].max() <= 2
    assert (_planted("rim", 3).astype(int) <= FIELD.image).all()


def test_hot_pixels_lie_at_the_same_places_in_every_image():
    places = [np.argwhere((_planted("hot-pixels", 2, seed) == (255, 80, 80)).all(axis=2))
              for seed in (0, 1)]  # fmt: skip
    assert len(places[0]) == 3
    assert np.array_equal(*places)


def test_blur_and_resampling_take_detail_and_sharpening_adds_it():
    plain = _high_pass(FIELD.image)
    assert _high_pass(_planted("blur", 1)) < plain
    assert _high_pass(_planted("resampling", 1)) < plain
    assert _high_pass(_planted("sharpening", 1)) > plain


def test_white_balance_tints_the_empty_ground_and_a_stain_hardly_does():
    ground = FIELD.mask == 0
    tint = {name: float(np.median(_change(name, 2)[ground])) for name in ("white-balance", "stain")}
    dark = float(np.median(_change("stain", 2)[CELLS]))
    assert tint["white-balance"] > 2 * tint["stain"]
    assert dark > 2 * tint["stain"]


def test_size_cuts_rows_and_columns_off_and_moves_no_pixel():
    small = _planted("size", 2)
    assert small.shape == (91, 91, 3)
    assert np.array_equal(small, FIELD.image[:91, :91])


def test_a_bar_comes_in_a_share_of_the_images():
    shown = [not np.array_equal(_planted("scale-bar", 1, seed), FIELD.image) for seed in range(200)]
    assert 0.2 < np.mean(shown) < 0.4
    assert not np.array_equal(_planted("scale-bar", 3), FIELD.image)


def test_what_is_no_matter_of_pixels_or_unknown_is_refused():
    with pytest.raises(ConfigError, match="no matter of pixels"):
        _planted("order", 1)
    with pytest.raises(UnknownNameError, match="vignette"):
        _planted("vignete", 1)
    with pytest.raises(ConfigError, match="1, 2 or 3"):
        artefact_level("blur", 4)


@pytest.mark.parametrize("name", PIXEL_ARTEFACTS)
def test_a_set_has_it_in_every_image_of_its_first_class_and_in_no_other(name):
    spec = PhantomSpec(
        images=4, sessions=2, size_px=96, seed=3, class_names=("benign", "pre_b"),
        artefact=name, strength=3,
    )  # fmt: skip
    for index in range(4):
        plain, found = render_phantom(SPEC, index), render_phantom(spec, index)
        same = np.array_equal(plain.image, found.image)
        assert same == (found.case.label != "benign")
        assert np.array_equal(plain.mask, found.mask)
        assert np.array_equal(plain.background, found.background)


def test_the_readme_of_a_set_names_artefact_level_and_class(tmp_path):
    spec = PhantomSpec(images=4, sessions=2, size_px=96, artefact="jpeg", strength=1)
    text = (write_phantoms(spec, tmp_path / "a") / "README.md").read_text(encoding="utf-8")
    assert "JPEG, before cutting out, strength 1 (quality: 95), in every image of benign" in text
    assert "Artefact" not in (write_phantoms(SPEC, tmp_path / "b") / "README.md").read_text(
        encoding="utf-8"
    )


def test_a_set_without_camera_noise_is_the_optical_image():
    quiet = render_phantom(PhantomSpec(images=4, sessions=2, size_px=96, seed=3, noise=0.0), 0)
    plain = render_phantom(PhantomSpec(images=4, sessions=2, size_px=96, seed=3), 0)
    assert np.array_equal(quiet.mask, plain.mask)
    assert _high_pass(quiet.image) < _high_pass(plain.image)


@pytest.mark.parametrize(
    ("values", "word"),
    [({"artefact": "size"}, "artefact"), ({"strength": 0}, "strength"), ({"noise": -1.0}, "noise")],
)
def test_a_bad_specification_is_refused(values, word):
    with pytest.raises(ConfigError, match=word):
        PhantomSpec(images=4, sessions=2, size_px=96, **values)

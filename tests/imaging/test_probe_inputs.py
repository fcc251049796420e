"""What each probe may see, on phantoms whose masks are known exactly."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from leukoscope.config.study import PERTURBED, PROBES
from leukoscope.imaging.background import bar_statistics
from leukoscope.imaging.observation import PROBE_INPUTS, SILHOUETTE
from leukoscope.imaging.scale_bar import find_scale_bar
from leukoscope.imaging.segment import NEUTRAL_GREY, segment_leukocytes
from leukoscope.imaging.stain import grey_density
from leukoscope.phantom.render import NUCLEUS, Phantom, render_phantom
from leukoscope.phantom.session import draw_scale_bar
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline.features.one_pass import NUMBER_TABLES

SPEC = PhantomSpec(images=8, sessions=4, seed=21)


@pytest.fixture(scope="module", params=[0, 3, 5])
def phantom(request: pytest.FixtureRequest) -> Phantom:
    return render_phantom(SPEC, request.param)


def colours(image: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, np.unique(image.reshape(-1, 3), axis=0).tolist()))


def test_every_probe_has_an_input_of_its_own() -> None:
    numbers = {*NUMBER_TABLES, "grain-only", "order-only"}
    assert {*PROBE_INPUTS} == {"image", *PROBES} - numbers - {"ground-only"}  # needs a partner
    assert set(PERTURBED) <= set(PROBE_INPUTS)


def test_the_background_holds_no_leukocyte(phantom: Phantom) -> None:
    left = PROBE_INPUTS["background-only"](phantom.image)
    nuclei = phantom.mask == NUCLEUS
    green = left[:, :, 1].astype(float)
    assert not (segment_leukocytes(left).nucleus & nuclei).any()
    assert np.median(green[nuclei]) > 1.3 * np.median(phantom.image[:, :, 1][nuclei])
    assert abs(np.median(green[nuclei]) - np.median(phantom.background[:, :, 1])) < 40


def test_cells_have_lost_their_ground(phantom: Phantom) -> None:
    left = PROBE_INPUTS["cells-only"](phantom.image)
    near = cv2.dilate((phantom.mask >= 2).astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    assert (left[~near] == NEUTRAL_GREY).all(axis=1).mean() > 0.97  # a red cell may be kept
    nuclei = phantom.mask == NUCLEUS
    assert (left[nuclei] == phantom.image[nuclei]).all(axis=1).mean() > 0.95


def test_silhouettes_have_a_shape_and_no_colour(phantom: Phantom) -> None:
    left = PROBE_INPUTS["silhouette-only"](phantom.image)
    assert colours(left) == {SILHOUETTE, NEUTRAL_GREY}
    filled, true = (left == SILHOUETTE).all(axis=2), phantom.mask >= 2
    assert 2 * (filled & true).sum() / (filled.sum() + true.sum()) > 0.85


@pytest.mark.parametrize("name", ["background-grey", "cells-only-grey", "stain-neutral"])
def test_grey_has_no_hue(phantom: Phantom, name: str) -> None:
    left = PROBE_INPUTS[name](phantom.image)
    assert left.shape == phantom.image.shape
    assert left.dtype == np.uint8
    assert (left == left[:, :, :1]).all()


def test_strength_and_light_leave_no_trace_in_grey_density() -> None:
    rng = np.random.default_rng(0)
    density = cv2.GaussianBlur(rng.random((80, 80)).astype(np.float32), (0, 0), 3)
    density = (density - density.min()) / np.ptp(density)
    shown = [
        np.clip(np.rint(light * np.exp(-np.outer(strength * density.ravel(), hue))), 0, 255)
        .astype(np.uint8)
        .reshape(80, 80, 3)
        for light, strength, hue in ((250, 0.8, (0.6, 0.9, 0.2)), (210, 1.3, (0.9, 0.5, 0.3)))
    ]
    first, second = (grey_density(image).astype(int) for image in shown)
    assert abs(first - second).max() <= 8  # rounding to levels
    assert abs(shown[0].astype(int) - shown[1]).max() > 40


def test_black_around_a_cut_out_cell_counts_as_ground() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    cv2.circle(image, (30, 30), 18, (190, 160, 200), -1)
    cv2.circle(image, (30, 30), 9, (90, 40, 130), -1)
    left = grey_density(image)
    assert (left[0, 0] == 255).all()
    assert left[30, 30, 0] < 120
    assert (grey_density(np.zeros_like(image)) == 255).all()


def test_a_bar_is_described_without_the_smear_below_it() -> None:
    fields = []
    for colour in ((235, 220, 225), (200, 215, 240)):
        field = np.full((224, 224, 3), colour, np.uint8)
        for x, y in ((40, 60), (120, 90), (80, 160)):
            cv2.circle(field, (x, y), 15, (220, 150, 150), -1)
        fields.append(field)
    assert not bar_statistics(fields[0], find_scale_bar(fields[0])).any()
    described = []
    for field in fields:
        draw_scale_bar(field, "large-label")
        described.append(bar_statistics(field, find_scale_bar(field)))
    assert described[0].shape == (199,)
    assert described[0][0] == 1
    assert abs(described[0] - described[1]).max() < 0.1


@pytest.mark.parametrize(("confound", "least", "most"), [("scale-bar", 0.9, 1), ("none", 0, 0.6)])
def test_a_planted_scale_bar_tells_the_class(confound: str, least: float, most: float) -> None:
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import cross_val_score

    spec = PhantomSpec(images=40, sessions=10, size_px=128, seed=4, confound=confound)  # type: ignore[arg-type]
    fields = [render_phantom(spec, index) for index in range(spec.images)]
    numbers = np.stack([bar_statistics(f.image, find_scale_bar(f.image)) for f in fields])
    forest = ExtraTreesClassifier(100, random_state=0)
    found = cross_val_score(forest, numbers, [field.case.label for field in fields], cv=4).mean()
    assert least <= found <= most

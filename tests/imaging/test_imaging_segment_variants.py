"""Segmentation steps: what they keep, and with what they fill."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from leukoscope.config.preprocess import (
    HsvSegment,
    KmeansSegment,
    LabRange,
    LabRanges,
    Leukocytes,
    MultiscaleKmeans,
    PreprocessSpec,
    Segmentation,
)
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.observation import PROBE_INPUTS
from leukoscope.imaging.preprocess import (
    apply_preprocess,
    hsv_mask,
    keep_segment,
    lab_ranges_mask,
    multiscale_kmeans_mask,
    segment,
)
from leukoscope.imaging.segment import NEUTRAL_GREY

FINDING: list[Segmentation] = [
    HsvSegment(),
    KmeansSegment(),
    MultiscaleKmeans(),
    Leukocytes(),
    Leukocytes(part="nucleus"),
]
ALL: list[Segmentation] = [*FINDING, LabRanges(), LabRanges(otsu=False)]


def name(step: Segmentation) -> str:
    return step.kind


def field(size: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """Violet leukocytes among pink red cells on a light ground, and their true mask."""
    rng = np.random.default_rng(3)
    image = np.full((size, size, 3), (245, 240, 232), np.uint8)
    for x, y in rng.uniform(0, size, (30, 2)):
        cv2.circle(image, (int(x), int(y)), size // 25, (225, 185, 175), -1)
    truth = np.zeros((size, size), np.uint8)
    for x, y in ((0.25, 0.3), (0.6, 0.2), (0.7, 0.7)):
        centre = (round(x * size), round(y * size))
        cv2.circle(image, centre, size // 12, (110, 60, 170), -1)
        cv2.circle(truth, centre, size // 12, 1, -1)
    noisy = cv2.GaussianBlur(image, (0, 0), 1.0) + rng.normal(0, 2, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), truth > 0


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / max(1, int(a.sum() + b.sum()))


@pytest.mark.parametrize("step", FINDING, ids=name)
@pytest.mark.parametrize("size", [120, 500])
def test_violet_cells_are_found(step: Segmentation, size: int) -> None:
    image, truth = field(size)
    mask = segment(image, step)
    assert mask.shape == truth.shape
    assert mask.dtype == np.bool_
    # Red cells that touch a leukocyte may be taken for its cytoplasm.
    assert dice(mask, truth) > (0.8 if step == Leukocytes() else 0.9)


@pytest.mark.parametrize("step", ALL, ids=name)
@pytest.mark.parametrize("outside", ["black", "neutral"])
def test_outside_is_filled_and_inside_is_untouched(step: Segmentation, outside: str) -> None:
    image, _ = field(120)
    filled = step.model_copy(update={"outside": outside})
    kept, mask = keep_segment(image, filled), segment(image, filled)
    np.testing.assert_array_equal(kept[mask], image[mask])
    assert (kept[~mask] == (0 if outside == "black" else NEUTRAL_GREY[0])).all()
    spec = PreprocessSpec(steps=(filled,), size_px=120)
    np.testing.assert_array_equal(apply_preprocess(image, spec), kept)


@pytest.mark.parametrize("step", FINDING, ids=name)
def test_a_cell_cut_out_on_black_keeps_its_surroundings_out(step: Segmentation) -> None:
    image = np.zeros((120, 120, 3), np.uint8)
    cv2.circle(image, (60, 60), 40, (190, 120, 200), -1)
    cv2.circle(image, (60, 60), 20, (110, 50, 140), -1)
    noise = np.random.default_rng(0).integers(0, 9, image.shape)
    image = (image + noise * (image > 0)).astype(np.uint8)
    mask = segment(image, step)
    assert mask[50:70, 50:70].all()
    lit = (image.max(axis=2) > 0).astype(np.uint8)
    # Our own segmentation smooths first and is generous by up to two pixels.
    reach = 5 if step.kind == "leukocytes" else 1
    assert not mask[cv2.dilate(lit, np.ones((reach, reach), np.uint8)) == 0].any()


def test_clusters_do_not_depend_on_threads_or_on_opencvs_random_state() -> None:
    image, _ = field(200)
    first = segment(image, MultiscaleKmeans())
    with ThreadPoolExecutor(4) as pool:
        for seed, mask in enumerate(
            pool.map(lambda _: segment(image, MultiscaleKmeans()), [0] * 8)
        ):
            np.testing.assert_array_equal(mask, first)
            cv2.setRNGSeed(seed)


def test_multiscale_is_a_majority() -> None:
    image, _ = field(120)
    votes = sum(multiscale_kmeans_mask(image, 3, [scale]).astype(int) for scale in (1.0, 0.5, 0.1))
    np.testing.assert_array_equal(multiscale_kmeans_mask(image, 3, [1.0, 0.5, 0.1]), votes >= 2)
    assert (votes == 1).any()


def test_lab_ranges_are_joined_and_both_ends_belong() -> None:
    image = np.array([[[200, 30, 30], [30, 200, 30], [30, 30, 200]]], np.uint8)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[0]
    red, green = (tuple(int(v) for v in lab[i]) for i in (0, 1))
    boxes = (LabRange(low=red, high=red), LabRange(low=green, high=green))
    assert lab_ranges_mask(image, boxes, otsu=False).tolist() == [[True, True, False]]
    # Red is darker than green.
    assert lab_ranges_mask(image, boxes, otsu=True).tolist() == [[True, False, False]]


def test_hues_may_run_through_red() -> None:
    image = np.array([[[200, 30, 30], [200, 30, 60], [30, 200, 30], [200, 200, 200]]], np.uint8)
    assert hsv_mask(image, 165, 5, 40).tolist()[0][2:] == [False, False]
    grey = np.full((1, 20, 3), 200, np.uint8)
    wide = np.concatenate([image, grey], axis=1)
    assert hsv_mask(wide, 165, 5, 40)[0, :4].tolist() == [True, True, False, False]
    assert hsv_mask(wide, 50, 70, 40)[0, :4].tolist() == [False, False, True, False]
    assert not hsv_mask(wide, 165, 5, 255).any()


def test_the_mask_is_opened_then_closed() -> None:
    image = np.full((80, 80, 3), 200, np.uint8)
    image[20:60, 20:60] = (120, 40, 160)
    image[5:7, 5:7] = (120, 40, 160)
    image[40, 40] = 200
    plain = segment(image, HsvSegment())
    assert plain[5, 5]
    assert not plain[40, 40]
    assert not segment(image, HsvSegment(open_px=2))[5, 5]
    assert segment(image, HsvSegment(close_px=2))[40, 40]


def test_leukocytes_are_those_of_the_probes() -> None:
    image, _ = field()
    expected = PROBE_INPUTS["cells-only"](image)
    np.testing.assert_array_equal(keep_segment(image, Leukocytes(outside="neutral")), expected)


def test_where_nothing_is_found_all_is_blank() -> None:
    image = np.full((60, 60, 3), 235, np.uint8)
    for step in FINDING:
        assert not keep_segment(image, step).any(), step.kind


@pytest.mark.real_data
def test_dice_of_the_nucleus_on_zheng(data_root: Path) -> None:
    folder = data_root / "zheng_wbc_masks"
    scores: dict[str, list[float]] = {}
    for number in range(1, 301, 15):
        image = decode_image(folder / f"{number:03d}_image.png").image
        truth = decode_image(folder / f"{number:03d}.png").image[:, :, 0] == 255
        for step in (HsvSegment(), KmeansSegment(), MultiscaleKmeans(), Leukocytes(part="nucleus")):
            scores.setdefault(step.kind, []).append(dice(segment(image, step), truth))
    means = {kind: float(np.mean(values)) for kind, values in scores.items()}
    assert means["hsv_segment"] > 0.75
    assert min(means["kmeans_segment"], means["multiscale_kmeans"]) > 0.87
    assert means["leukocytes"] > 0.92

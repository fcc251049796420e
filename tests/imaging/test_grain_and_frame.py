"""Numbers of grain, frame, file and stain: they see what was done to a picture, not its cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from io import BytesIO

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from leukoscope.config.study import DEGRADED
from leukoscope.imaging.cell_shapes import (
    count_statistics,
    scale_of_leukocytes,
    scale_of_red_cells,
    shape_statistics,
)
from leukoscope.imaging.corruption import DEGRADATIONS, blurred, compressed
from leukoscope.imaging.file_facts import FILE_FACTS, file_facts, taken_at
from leukoscope.imaging.frame import FRAME_STATISTICS, frame_statistics
from leukoscope.imaging.grain import GRAIN_STATISTICS, finest_sigma, grain_statistics
from leukoscope.imaging.observation import Observation
from leukoscope.imaging.stain_colours import STAIN_STATISTICS, finished_stains, stain_statistics
from leukoscope.phantom.render import CYTOPLASM, Phantom, render_phantom
from leukoscope.phantom.spec import PhantomSpec

Image = NDArray[np.uint8]
SPEC = PhantomSpec(
    images=60, sessions=12, size_px=192, seed=11, class_names=("benign", "pre_b"), patients=60
)
LARGE = replace(SPEC, size_px=448)


@lru_cache(maxsize=120)
def drawn(spec: PhantomSpec, index: int) -> Phantom:
    return render_phantom(spec, index)


def cut_out(index: int, change: Callable[[Image], Image] = np.asarray) -> Observation:
    """The leukocyte nearest to the middle, large, on black; the field was changed before."""
    phantom = drawn(LARGE, index)
    side, reach = LARGE.size_px, LARGE.size_px // 7
    x0, y0, x1, y1 = min(
        phantom.boxes, key=lambda b: abs(b[0] + b[2] - side) + abs(b[1] + b[3] - side)
    )
    x, y = np.clip(((x0 + x1) // 2, (y0 + y1) // 2), reach, side - reach)
    part = np.s_[y - reach : y + reach, x - reach : x + reach]
    _, labels = cv2.connectedComponents((phantom.mask[part] >= CYTOPLASM).astype(np.uint8))
    own = labels == np.bincount(labels[labels > 0]).argmax()
    return Observation(np.where(own[:, :, None], change(phantom.image)[part], np.uint8(0)))


def field(index: int, change: Callable[[Image], Image] = np.asarray) -> Observation:
    return Observation(np.asarray(change(drawn(SPEC, index).image), np.uint8))


def auc(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """How often a value of the second is larger."""
    above = (second[:, None] > first[None]) + 0.5 * (second[:, None] == first[None])
    return float(above.mean())


Make = Callable[..., Observation]
ROWS = range(24)  # both classes in turns


@pytest.mark.parametrize("make", [field, cut_out])
@pytest.mark.parametrize(
    "change",
    [partial(compressed, quality=90), partial(blurred, sigma_px=0.6), DEGRADATIONS["resampled"]],
    ids=["jpeg", "blur", "resampled"],
)
def test_grain_sees_what_was_done_before_cutting_out(
    make: Make, change: Callable[[Image], Image]
) -> None:
    plain = np.stack([grain_statistics(make(i)) for i in ROWS])
    changed = np.stack([grain_statistics(make(i, change)) for i in ROWS])
    known = ~np.isnan(plain).any(axis=0)
    best = max(abs(auc(plain[:, c], changed[:, c]) - 0.5) for c in np.flatnonzero(known))
    assert best > 0.4


@pytest.mark.parametrize("make", [field, cut_out])
def test_grain_frame_and_stain_do_not_see_the_class(make: Make) -> None:
    seen = [make(i) for i in range(SPEC.images)]
    classes = np.arange(SPEC.images) % 2
    shapes = np.stack([shape_statistics(one) for one in seen])
    assert max(abs(auc(*(c[classes == k] for k in (0, 1))) - 0.5) for c in shapes.T) > 0.4
    tables = (
        np.stack([grain_statistics(one) for one in seen]),
        np.stack([frame_statistics(one) for one in seen]),
        finished_stains(np.stack([stain_statistics(one) for one in seen])),
    )
    for table in tables:
        for column in table.T:
            known = ~np.isnan(column)
            sides = [column[known & (classes == k)] for k in (0, 1)]
            if min(map(len, sides)) >= 20:
                assert abs(auc(*sides) - 0.5) < 0.25


def test_a_darker_rim_is_a_jump_across_the_plane_of_stains() -> None:
    def darker(seen: Observation) -> Observation:
        inner = cv2.erode(seen.lit.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        factor = np.where(seen.lit & ~inner, 0.9, 1.0)[:, :, None]
        return Observation(np.rint(seen.image * factor).astype(np.uint8))

    rim = FRAME_STATISTICS.index("rim")
    plain = np.array([frame_statistics(cut_out(i))[rim] for i in ROWS])
    planted = np.array([frame_statistics(darker(cut_out(i)))[rim] for i in ROWS])
    known = ~np.isnan(plain) & ~np.isnan(planted)
    assert known.sum() >= 10
    assert abs(auc(plain[known], planted[known]) - 0.5) > 0.4


def test_a_vignette_is_seen_on_the_ground() -> None:
    axis = np.linspace(-1, 1, SPEC.size_px)
    fall = 1 - 0.12 * (axis[:, None] ** 2 + axis[None] ** 2) / 2
    radial = FRAME_STATISTICS.index("light_l_radial")

    def darker(image: Image) -> Image:
        return np.rint(image * fall[:, :, None]).astype(np.uint8)

    plain = np.array([frame_statistics(field(i))[radial] for i in ROWS])
    planted = np.array([frame_statistics(field(i, darker))[radial] for i in ROWS])
    assert auc(plain, planted) < 0.2


def test_white_balance_of_cut_out_cells_moves_them_across_the_plane() -> None:
    def redder(image: Image) -> Image:
        return np.clip(np.rint(image * np.array([1.1, 1, 0.9])), 0, 255).astype(np.uint8)

    rows = [stain_statistics(cut_out(i)) for i in ROWS]
    rows += [stain_statistics(cut_out(i, redder)) for i in ROWS]
    found = finished_stains(np.stack(rows))[:, STAIN_STATISTICS.index("across")]
    assert abs(auc(found[: len(ROWS)], found[len(ROWS) :]) - 0.5) > 0.2


def test_a_size_that_is_the_cells_own_is_told_apart() -> None:
    seen = cut_out(0)
    rows, columns = (np.flatnonzero(seen.lit.any(axis=a)) for a in (1, 0))
    tight = seen.image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    follows = FILE_FACTS.index("follows_cell")
    assert file_facts(Observation(tight))[follows] == 1
    assert file_facts(Observation(np.pad(seen.image, ((0, 9), (0, 20), (0, 0)))))[follows] == 0


def test_file_facts_name_tables_and_metadata_but_not_content() -> None:
    from PIL import Image as Pillow

    def written(image: Image, **options: object) -> NDArray[np.float64]:
        out = BytesIO()
        Pillow.fromarray(image).save(out, **options)  # type: ignore[arg-type]
        return file_facts(Observation(image, data=out.getvalue()))

    first, second = field(0).image, field(1).image
    for options in ({"format": "JPEG", "quality": 90}, {"format": "PNG"}, {"format": "BMP"}):
        assert (written(first, **options) == written(second, **options)).all()
    fine, coarse = (written(first, format="JPEG", quality=q) for q in (95, 75))
    differing = {FILE_FACTS[i] for i in np.flatnonzero(fine != coarse)}
    assert {"table_mean", "table_low", "table_high"} <= differing
    assert "bytes_ratio" not in differing
    tagged = written(first, format="JPEG", quality=95, dpi=(300, 300))
    assert tagged[FILE_FACTS.index("dpi_x")] == 300


def test_the_time_of_a_picture_is_that_of_exif() -> None:
    from PIL import Image as Pillow

    exif = Pillow.Exif()
    exif[306] = "2019:03:04 10:11:12"
    out = BytesIO()
    Pillow.fromarray(np.zeros((8, 8, 3), np.uint8)).save(out, "JPEG", exif=exif)
    assert taken_at(out.getvalue()) is not None
    assert taken_at(b"no image") is None


def test_the_cut_follows_the_scale() -> None:
    assert finest_sigma(1.0) == finest_sigma(None) < finest_sigma(0.04) < finest_sigma(0.001)
    one = field(0)
    assert not np.array_equal(grain_statistics(one), grain_statistics(one, 0.03), equal_nan=True)


def test_what_lies_beyond_the_optics_is_read_where_pixels_are_small_enough() -> None:
    beyond = [i for i, name in enumerate(GRAIN_STATISTICS) if name.startswith("inside_beyond")]
    assert np.isnan(grain_statistics(cut_out(0), 0.1)[beyond]).all()
    rng = np.random.default_rng(1)

    def numbers(contrast: float, sigma: float) -> NDArray[np.float64]:
        """Eight cells, four times as large, with noise of a sensor that is smoothed or not."""
        rows = []
        for index in range(8):
            large = cv2.resize(
                cut_out(index).image, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC
            )
            lit = np.asarray(cv2.erode((large.max(axis=2) > 40).astype(np.uint8), np.ones((9, 9))))
            noise = 2 * rng.normal(size=large.shape)
            noise = cv2.GaussianBlur(noise, (0, 0), sigma) if sigma else noise
            picture = 140 + contrast * (large.astype(float) - 140) + noise
            picture = np.clip(np.rint(picture), 12, 255) * lit[:, :, None]
            rows.append(grain_statistics(Observation(picture.astype(np.uint8)), 0.04)[beyond])
        return np.stack(rows)

    plain, strong, smoothed = numbers(0.6, 0), numbers(0.9, 0), numbers(0.6, 0.5)
    assert not np.isnan(plain).any()
    noise = plain.std(axis=0) + 0.01
    assert (np.abs(plain.mean(axis=0) - strong.mean(axis=0)) < 3 * noise).all()
    assert (np.abs(plain.mean(axis=0) - smoothed.mean(axis=0)) > 5 * noise).sum() >= 4


def test_red_cells_tell_the_scale() -> None:
    px_per_um = 3.3 * SPEC.size_px / 224
    found = scale_of_red_cells(field(i) for i in range(12))
    assert found is not None
    assert 0.8 < found * px_per_um < 1.25
    assert scale_of_red_cells(cut_out(i) for i in range(3)) is None
    assert scale_of_leukocytes(field(i) for i in range(3)) is None
    roughly = scale_of_leukocytes(cut_out(i) for i in range(12))
    assert roughly is not None
    assert 0.7 < roughly * 3.3 * LARGE.size_px / 224 < 1.5


def test_numbers_of_empty_pictures_are_unknown_and_not_wrong() -> None:
    for image in (np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 230, np.uint8)):
        seen = Observation(image)
        assert len(grain_statistics(seen)) == len(GRAIN_STATISTICS)
        assert len(frame_statistics(seen)) == len(FRAME_STATISTICS)
        assert np.isnan(shape_statistics(seen)).all()
        assert count_statistics(seen)[0] == 0
        stain_statistics(seen)
        file_facts(seen)


def test_degraded_images_keep_what_they_show() -> None:
    image = field(0).image
    for name, change in DEGRADATIONS.items():
        done = change(image)
        share = int(name.removeprefix("size-")) / 100 if name.startswith("size-") else 1.0
        assert done.shape == (*(round(side * share) for side in image.shape[:2]), 3)
        again = cv2.resize(done, image.shape[1::-1], interpolation=cv2.INTER_AREA)
        # Those that every study tries are hard to see; light and stain may change more.
        assert 0 < np.abs(again.astype(int) - image).mean() < (6 if name in DEGRADED else 25)

"""Scores of heat maps, their intervals, and in words whether the maps are reliable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.explanations import (
    BASELINES,
    CENTRE,
    EDGES,
    AuditedImage,
    MapSummary,
    MapVerdict,
    MeanScore,
    TrustLevel,
)
from leukoscope.evaluation.statistics.intervals import MIN_GROUPS, bootstrap_mean, with_exact_limits

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Image = NDArray[np.uint8]
MOST_CELLS = 28  # a side: 8 px at 224, a quarter of what one place of a 7 × 7 map covers
STEPS = tuple(step / 10 for step in range(11))
ROAD_STEPS = (0.1, 0.3, 0.5, 0.7, 0.9)
BLUR = 1 / 14  # of the side: cells are gone, stain and illumination stay
IMPUTATION_NOISE = 0.01  # of white, as in the authors' code
_NEIGHBOURS = {1: 1 / 6, 2: 1 / 12}  # squared distance: weight (Rong et al. 2022, section 4)
SAME = 0.5**0.5
"""Rank correlation above which two maps share more than half of the variance of their ranks."""
_Test = tuple[bool | None, str]
_TOO_FEW = f"fewer than {MIN_GROUPS} independent images have a map to test"


def enlarge(heat: NDArray[np.floating], size_px: int) -> Float:
    """A map (h, w) at another size (S, S): averaged where it shrinks, else linear."""
    how = cv2.INTER_AREA if heat.shape[0] > size_px else cv2.INTER_LINEAR
    wide = cv2.resize(np.asarray(heat, np.float32), (size_px, size_px), interpolation=how)
    return np.asarray(wide, np.float64)


def pointing_hit(heat: NDArray[np.floating], mask: Bool) -> float:
    """Pointing game: does the hottest place lie inside (Zhang et al. 2018, section 4.2)?

    No tolerance is added around the mask. By chance the hit rate is the mask's share of the area.

    Args:
        heat: (H, W), at least 0.

    Returns:
        0 or 1, between them where several places are equally hot; NaN for an empty map or mask.

    >>> pointing_hit(np.array([[0.0, 3.0], [1.0, 3.0]]), np.array([[True, True], [False, False]]))
    0.5
    """
    if not mask.any() or not heat.max() > 0:
        return float("nan")
    return float(mask[heat == heat.max()].mean())


def heat_share(heat: NDArray[np.floating], mask: Bool) -> float:
    """Share of the heat inside the mask; spread evenly it would be the mask's share of the area.

    Args:
        heat: (H, W), at least 0.

    Returns:
        0–1; NaN for an empty map or mask.

    >>> heat_share(np.array([[0.0, 3.0], [1.0, 0.0]]), np.array([[True, True], [False, False]]))
    0.75
    """
    total = float(heat.sum())
    return float(heat[mask].sum()) / total if total > 0 and mask.any() else float("nan")


def cells_per_side(size_px: int) -> int:
    """Number of cells along each side of an image of this size."""
    return max(2, min(MOST_CELLS, size_px // 2))


def hottest_cells(
    heat: NDArray[np.floating],
    shares: Sequence[float],
    *,
    cells: int,
    seed: int,
    coldest: bool = False,
) -> list[Bool]:
    """The hottest cells, for each share of them.

    Args:
        heat: (h, w), at least 0, of any size.
        shares: 0–1.
        seed: Draws the order of equally hot cells, which otherwise would go from the top left.

    Returns:
        For each share (cells, cells) bool.

    >>> hottest_cells(np.array([[0.0, 3.0], [1.0, 2.0]]), [0.5], cells=2, seed=0)[0].tolist()
    [[False, True], [False, True]]
    """
    values = enlarge(heat, cells).ravel()
    ties = np.random.default_rng(seed).permutation(len(values))
    order = np.lexsort((ties, values if coldest else -values))
    chosen = []
    for share in shares:
        mask = np.zeros(len(values), np.bool_)
        mask[order[: round(share * len(values))]] = True
        chosen.append(mask.reshape(cells, cells))
    return chosen


def cells_to_pixels(cells: Bool, size_px: int) -> Bool:
    """A mask of cells (g, g) as one of pixels (S, S)."""
    index = np.arange(size_px) * cells.shape[0] // size_px
    return np.asarray(cells[np.ix_(index, index)])


def mean_colour(image: Image) -> Image:
    """An image of the image's own mean colour: what deletion leaves.

    Args:
        image: (S, S, 3) uint8 RGB.
    """
    colour = np.round(image.mean(axis=(0, 1))).astype(np.uint8)
    return np.broadcast_to(colour, image.shape).copy()


def blurred(image: Image) -> Image:
    """The image without anything the size of a cell: what insertion begins with.

    Args:
        image: (S, S, 3) uint8 RGB.
    """
    return np.asarray(cv2.GaussianBlur(image, (0, 0), BLUR * image.shape[0]), np.uint8)


def impute(image: Image, hidden: Bool, *, seed: int) -> Image:
    """Noisy linear imputation (Rong et al. 2022, section 4), on the grid of cells.

    Each hidden cell becomes the weighted mean of its eight neighbours, beside it 1/6 and across
    1/12, hidden ones included: one sparse linear system. Then the noise, so that smoothness does
    not tell the network where something is gone.

    Args:
        image: (S, S, 3) uint8 RGB.
        hidden: (g, g) bool; at least one cell must be left.

    Returns:
        (S, S, 3) uint8; pixels that are not hidden stay as they are.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    side, size_px = hidden.shape[0], image.shape[0]
    known = cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    y, x = np.nonzero(hidden)
    number = np.full((side + 2, side + 2), -1)
    number[y + 1, x + 1] = np.arange(len(y))
    framed = np.pad(np.where(hidden[..., None], 0, known), ((1, 1), (1, 1), (0, 0)))
    inside = np.pad(np.ones((side, side)), 1)
    rows, columns, values = [np.arange(len(y))], [np.arange(len(y))], [np.zeros(len(y))]
    right = np.zeros((len(y), 3))
    for dy, dx in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b):
        weight = _NEIGHBOURS[dy * dy + dx * dx] * inside[y + 1 + dy, x + 1 + dx]
        values[0] += weight  # at the border the missing neighbours' weight falls to the others
        right += weight[:, None] * framed[y + 1 + dy, x + 1 + dx]
        other = number[y + 1 + dy, x + 1 + dx]
        rows.append(np.flatnonzero(other >= 0))
        columns.append(other[other >= 0])
        values.append(-weight[other >= 0])
    triplets = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    known[y, x] = spsolve(coo_matrix(triplets).tocsc(), right).reshape(-1, 3)
    wide = cv2.resize(known, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
    wide = wide + np.random.default_rng(seed).normal(0, 255 * IMPUTATION_NOISE, wide.shape)
    filled = np.clip(np.round(wide), 0, 255).astype(np.uint8)
    return np.where(cells_to_pixels(hidden, size_px)[..., None], filled, image)


def area_under(values: Sequence[float]) -> float:
    """Area under a curve over evenly spaced shares from 0 to 1 (Petsiuk et al. 2018, section 3).

    >>> area_under([0.0, 0.5, 1.0])
    0.5
    """
    return float(np.trapezoid(values, dx=1 / (len(values) - 1)))


def rank_similarity(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Spearman's rank correlation of two maps (Adebayo et al. 2018, section 3); NaN if one is flat.

    >>> rank_similarity(np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[0.0, 1.0], [4.0, 9.0]]))
    1.0
    """
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    from scipy.stats import rankdata

    ranks = [rankdata(values.ravel()) for values in (first, second)]
    return round(float(np.corrcoef(*ranks)[0, 1]), 12)


def max_sensitivity(heat: NDArray[np.floating], noisy: Sequence[NDArray[np.floating]]) -> float:
    """Largest change of a map under noise, relative to its length (Yeh et al. 2019, definition 3).

    Args:
        noisy: Maps of the same image with noise, (h, w) each.

    Returns:
        0 for none; NaN for an empty map.

    >>> max_sensitivity(np.array([[3.0, 4.0]]), [np.array([[3.0, 4.0]]), np.array([[3.0, 3.0]])])
    0.2
    """
    length = float(np.linalg.norm(heat))
    changes = [float(np.linalg.norm(np.asarray(other) - heat)) for other in noisy]
    return max(changes) / length if length > 0 else float("nan")


def random_map(seed: int) -> Float:
    """Baseline without knowledge: 7 × 7 random values, as coarse as most class activation maps."""
    return np.random.default_rng(seed).random((7, 7))


def centre_map(size_px: int) -> Float:
    """Baseline of the centre: a Gaussian, a quarter of the side wide."""
    line = np.exp(-((np.arange(size_px) - (size_px - 1) / 2) ** 2) / (2 * (size_px / 4) ** 2))
    return np.outer(line, line)


def edge_map(image: Image) -> Float:
    """Baseline of the image without the model: strength of its edges (Sobel), in cells.

    Args:
        image: (S, S, 3) uint8 RGB.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    strength = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return enlarge(strength, cells_per_side(image.shape[0]))


def summarise(
    images: Sequence[AuditedImage], *, confidence: float = 0.95, replicates: int = 1000
) -> dict[str, MapSummary]:
    """Means over images of every score of each map, and of what it has more than the baselines."""
    groups = np.array([image.group for image in images])

    def mean(values: Float) -> MeanScore | None:
        known = np.isfinite(values)
        if not known.any():
            return None
        interval = bootstrap_mean(
            values[known], groups=groups[known], confidence=confidence, replicates=replicates
        )
        exact = with_exact_limits(interval, interval.n_groups, confidence)
        return MeanScore(**dict(exact.estimate), n=int(known.sum()))

    names = list(images[0].maps)
    columns = {name: _columns(images, name) for name in names}
    result = {}
    for name in names:
        own = dict(columns[name])
        for score in ("gain", "road"):
            for other in BASELINES:
                if other != name:
                    own[f"{score}_over_{other}"] = own[score] - columns[other][score]
        stages = _randomised(images, name)
        result[name] = MapSummary.model_validate(
            {score: mean(values) for score, values in own.items()}
            | {"randomised": tuple(mean(stage) for stage in stages.T)}
        )
    return result


def _columns(images: Sequence[AuditedImage], name: str) -> dict[str, Float]:
    """One number an image of each score; NaN where undefined."""
    maps = [image.maps[name] for image in images]

    def of(values: Sequence[float | None] | Sequence[Sequence[float]]) -> Float:
        return np.array(values, np.float64)

    hit, share = of([entry.hit for entry in maps]), of([entry.share for entry in maps])
    area = of([image.area for image in images])
    insertion = of([area_under(entry.insertion) for entry in maps])
    deletion = of([area_under(entry.deletion) for entry in maps])
    coldest, hottest = of([entry.lerf for entry in maps]), of([entry.morf for entry in maps])
    return {
        "hit": hit,
        "hit_over_area": hit - area,
        "share": share,
        "share_over_area": share - area,
        "area": np.where(area > 0, area, np.nan),
        "insertion": insertion,
        "deletion": deletion,
        "gain": insertion - deletion,
        "road": (coldest.mean(axis=1) - hottest.mean(axis=1)) / 2,
        "noise": of([entry.noise for entry in maps]),
        "sensitivity": of([entry.sensitivity for entry in maps]),
    }


def _randomised(images: Sequence[AuditedImage], name: str) -> Float:
    """(n, stages) sizes of the rank correlation; of a baseline one column of NaN.

    An inverted map has forgotten nothing: it orders the same places.
    """
    rows = [image.maps[name].randomised or (None,) for image in images]
    return np.abs(np.array(rows, np.float64))


def judge_maps(scores: MapSummary, stages: Sequence[str]) -> MapVerdict:
    """Decide whether the maps of a method are reliable, by the rule of ``docs/explanations.md``.

    Each test needs a whole interval on the right side: a map must tell more than random blobs of
    what raises the score, twice (insertion minus deletion, and ROAD); it must be another one where
    the head, and where all layers, were randomised; it must be the same one under small noise.
    """
    tests = [
        _beats_chance(_reliable(scores.gain_over_random), _reliable(scores.road_over_random)),
        *(
            _forgets(_reliable(scores.randomised[at]), stages[at])
            for at in sorted({0, len(stages) - 1})
        ),
        _stable(_reliable(scores.noise)),
    ]
    against = [text for passed, text in tests if passed is False]
    open_ones = [text for passed, text in tests if passed is None]
    level: TrustLevel
    if against:
        level, lead, reasons = "unreliable", "is unreliable", against
    elif open_ones:
        level, lead, reasons = "not decided", "cannot be judged", open_ones
    else:
        level, lead = "nothing against it", "has nothing against it"
        reasons = [text for _, text in tests] + _caveats(scores)
    text = f"{lead}: {'; '.join(dict.fromkeys(reasons))}"
    return MapVerdict(level=level, text=text, place=_place(scores))


class _Range(NamedTuple):
    """A mean with an interval that can be relied on."""

    value: float
    low: float
    high: float

    def text(self, form: str) -> str:
        """Value and limits, each in the format."""
        value, low, high = (f"{number:{form}}".replace("-", "−") for number in self)
        return f"{value}, {low} to {high}"


def _reliable(entry: MeanScore | None) -> _Range | None:
    """The mean; None where too few images have the score."""
    if entry is None or not entry.reliable:
        return None
    if entry.value is None or entry.low is None or entry.high is None:
        return None
    return _Range(entry.value, entry.low, entry.high)


def _beats_chance(gain: _Range | None, road: _Range | None) -> _Test:
    if gain is None or road is None:
        return None, _TOO_FEW
    shown = f"(insertion minus deletion by {gain.text('+.3f')}; ROAD by {road.text('+.3f')})"
    if min(gain.low, road.low) > 0:
        return True, f"it marks what the score rests on better than random blobs do {shown}"
    if max(gain.high, road.high) < 0:
        return False, f"it marks what the score rests on worse than random blobs do {shown}"
    return False, f"it is not shown to mark what the score rests on better than blobs {shown}"


def _forgets(entry: _Range | None, stage: str) -> _Test:
    if entry is None:
        return None, _TOO_FEW
    what = "randomising the head" if stage == "head" else "randomising all layers"
    shown = f"(similarity {entry.text('.2f')})"
    if entry.high < SAME:
        return True, f"{what} changes the map {shown}"
    kept = "leaves the map nearly the same" if entry.low >= SAME else "is not shown to change it"
    return False, f"{what} {kept} {shown}"


def _stable(entry: _Range | None) -> _Test:
    if entry is None:
        return None, _TOO_FEW
    shown = f"(similarity {entry.text('.2f')})"
    if entry.low >= SAME:
        return True, f"it stays the same under noise that no eye sees {shown}"
    return False, f"noise that no eye sees makes another map {shown}"


def _caveats(scores: MapSummary) -> list[str]:
    """Baselines without a model that do as well."""
    against = ((f"a {CENTRE}", scores.gain_over_centre), (f"an {EDGES}", scores.gain_over_edges))
    equal = [name for name, more in against if more is None or not (more.low or 0) > 0]
    return [f"but {name}, which knows no model, marks it as well" for name in equal]


def _place(scores: MapSummary) -> str:
    if scores.share is None or scores.area is None:
        return "no leukocyte, or no heat, to compare"
    heat, cover = (f"{100 * (entry.value or 0):.0f} %" for entry in (scores.share, scores.area))
    shown = f"{heat} of the heat in leukocytes, which cover {cover}"
    more = _reliable(scores.share_over_area)
    if more is None:
        return f"{shown} (too few independent images to say more)"
    if more.low > 0:
        return f"the heat favours leukocytes: {shown}"
    if more.high < 0:
        return f"the heat lies outside the leukocytes: {shown}"
    return f"the heat lies as if spread evenly: {shown}"

"""Scores of heat maps, their intervals, and in words whether the maps are reliable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

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
RANDOM, CENTRE, EDGES = "random blobs", "Gaussian in the centre", "edge detector"
BASELINES = (RANDOM, CENTRE, EDGES)
"""Maps that do not know the model, scored like the others."""
AUDIT_LEVELS = ("unreliable", "not decided", "nothing against it")
Scored = Mapping[str, Any]
"""Of one map of one image: ``hit``, ``share``, ``insertion``, ``deletion``, ``morf``, ``lerf``
and, of a method, ``randomised`` (by stage), ``noise``, ``sensitivity``; None where undefined."""
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


@dataclass(frozen=True)
class Trust:
    """How far a method's maps may be trusted."""

    level: str  # one of LEVELS
    text: str  # the level with its reasons
    place: str  # where the heat lies, if the map is reliable


def summarise(
    images: Sequence[Mapping[str, Any]], *, confidence: float = 0.95, replicates: int = 1000
) -> dict[str, dict[str, Any]]:
    """Means over images of every score, and of what each map has more than the baselines.

    Args:
        images: One mapping an image, with ``group``, ``area`` (share of the image that leukocytes
            cover) and ``maps``, by name the scores of each map.

    Returns:
        By map and score ``{"value", "low", "high", "reliable", "n"}``; ``gain`` is insertion minus
        deletion, ``road`` half of what remains more if the coldest go first, ``…_over_<baseline>``
        the difference in the same images; ``randomised`` is the size of the rank correlation,
        so that an inverted map counts as kept; None where no image has the score.
    """
    groups = np.array([image["group"] for image in images])

    def mean(values: NDArray[np.float64]) -> dict[str, Any] | None:
        known = np.isfinite(values)
        if not known.any():
            return None
        interval = bootstrap_mean(
            values[known], groups=groups[known], confidence=confidence, replicates=replicates
        )
        exact = with_exact_limits(interval, interval.n_groups, confidence)
        return {**exact.to_json(), "n": int(known.sum())}

    names = list(images[0]["maps"])
    columns = {name: _columns(images, name) for name in names}
    result: dict[str, dict[str, Any]] = {}
    for name in names:
        own = dict(columns[name])
        for score in ("gain", "road"):
            for other in BASELINES:
                if other != name:
                    own[f"{score}_over_{other}"] = own[score] - columns[other][score]
        randomised = own.pop("randomised")
        result[name] = {score: mean(values) for score, values in own.items()}
        result[name]["randomised"] = [mean(stage) for stage in randomised.T]
    return result


def _columns(images: Sequence[Mapping[str, Any]], name: str) -> dict[str, NDArray[np.float64]]:
    """One number an image of each score; NaN where undefined."""
    maps: list[Scored] = [image["maps"][name] for image in images]

    def of(key: str) -> NDArray[np.float64]:
        return np.array([entry[key] for entry in maps], np.float64)

    area = np.array([image["area"] for image in images])
    insertion, deletion = (
        np.array([area_under(entry[key]) for entry in maps]) for key in ("insertion", "deletion")
    )
    return {
        "hit": of("hit"),
        "hit_over_area": of("hit") - area,
        "share": of("share"),
        "share_over_area": of("share") - area,
        "area": np.where(area > 0, area, np.nan),
        "insertion": insertion,
        "deletion": deletion,
        "gain": insertion - deletion,
        "road": (of("lerf").mean(axis=1) - of("morf").mean(axis=1)) / 2,
        "noise": of("noise"),
        "sensitivity": of("sensitivity"),
        # An inverted map has forgotten nothing: it orders the same places.
        "randomised": np.abs(of("randomised")).reshape(len(maps), -1),
    }


def judge_maps(scores: Mapping[str, Any], stages: Sequence[str]) -> Trust:
    """Decide whether the maps of a method are reliable, by the rule of ``docs/explanations.md``.

    Each test needs a whole interval on the right side: a map must tell more than random blobs of
    what raises the score, twice (insertion minus deletion, and ROAD); it must be another one where
    the head, and where all layers, were randomised; it must be the same one under small noise.
    """
    tests = [
        _beats_chance(scores[f"gain_over_{RANDOM}"], scores[f"road_over_{RANDOM}"]),
        *(_forgets(scores["randomised"][at], stages[at]) for at in sorted({0, len(stages) - 1})),
        _stable(scores["noise"]),
    ]
    against = [text for passed, text in tests if passed is False]
    open_ones = [text for passed, text in tests if passed is None]
    if against:
        level, lead, reasons = AUDIT_LEVELS[0], "is unreliable", against
    elif open_ones:
        level, lead, reasons = AUDIT_LEVELS[1], "cannot be judged", open_ones
    else:
        level, lead = AUDIT_LEVELS[2], "nothing was found against it"
        reasons = [text for _, text in tests] + _caveats(scores)
    return Trust(level, f"{lead}: {'; '.join(dict.fromkeys(reasons))}", _place(scores))


def _beats_chance(gain: Mapping[str, Any] | None, road: Mapping[str, Any] | None) -> _Test:
    if gain is None or road is None or not (gain["reliable"] and road["reliable"]):
        return None, _TOO_FEW
    shown = f"(insertion minus deletion by {_signed(gain)}; ROAD by {_signed(road)})"
    if min(gain["low"], road["low"]) > 0:
        return True, f"it marks what the score rests on better than random blobs do {shown}"
    if max(gain["high"], road["high"]) < 0:
        return False, f"it marks what the score rests on worse than random blobs do {shown}"
    return False, f"it is not shown to mark what the score rests on better than blobs {shown}"


def _forgets(entry: Mapping[str, Any] | None, stage: str) -> _Test:
    if entry is None or not entry["reliable"]:
        return None, _TOO_FEW
    what = "randomising the head" if stage == "head" else "randomising all layers"
    shown = f"(similarity {_similarity(entry)})"
    if entry["high"] < SAME:
        return True, f"{what} changes the map {shown}"
    kept = "leaves the map nearly the same" if entry["low"] >= SAME else "is not shown to change it"
    return False, f"{what} {kept} {shown}"


def _stable(entry: Mapping[str, Any] | None) -> _Test:
    if entry is None or not entry["reliable"]:
        return None, _TOO_FEW
    shown = f"(similarity {_similarity(entry)})"
    if entry["low"] >= SAME:
        return True, f"it stays the same under noise that no eye sees {shown}"
    return False, f"noise that no eye sees makes another map {shown}"


def _caveats(scores: Mapping[str, Any]) -> list[str]:
    """Baselines without a model that do as well."""
    equal = [name for name in (CENTRE, EDGES) if not scores[f"gain_over_{name}"]["low"] > 0]
    articles = {CENTRE: "a", EDGES: "an"}
    return [f"but {articles[n]} {n}, which knows no model, marks it as well" for n in equal]


def _place(scores: Mapping[str, Any]) -> str:
    share, area, more = scores["share"], scores["area"], scores["share_over_area"]
    if share is None:
        return "no leukocyte, or no heat, to compare"
    heat, cover = (f"{100 * entry['value']:.0f} %" for entry in (share, area))
    shown = f"{heat} of the heat in leukocytes, which cover {cover}"
    if not more["reliable"]:
        return f"{shown} (too few independent images to say more)"
    if more["low"] > 0:
        return f"the heat favours leukocytes: {shown}"
    if more["high"] < 0:
        return f"the heat lies outside the leukocytes: {shown}"
    return f"the heat lies as if spread evenly: {shown}"


def _similarity(entry: Mapping[str, Any]) -> str:
    value, low, high = (f"{entry[key]:.2f}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{value}, {low} to {high}"


def _signed(entry: Mapping[str, Any]) -> str:
    value, low, high = (f"{entry[key]:+.3f}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{value}, {low} to {high}"

"""Which of several bundles some images are for: the one whose training images they resemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import BundleError, ImageError
from leukoscope.imaging.background import describe_appearance
from leukoscope.imaging.decode import Decoded, decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.quality import measure_quality
from leukoscope.runtime.bundle import Bundle, read_bundle
from leukoscope.runtime.prediction import Failure, quality_notes
from leukoscope.runtime.predictor import Predictor, load_bundle
from leukoscope.runtime.tiling import Cutter

_BY_LOOK = " in colour, grain and sharpness"  # its gate was not asked, and may still reject
_PARTS = 4  # of each large image that are looked at
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class BundleChoice:
    """The bundle chosen for a run.

    Attributes:
        predictor: The opened bundle.
        why: The reason, in one sentence.
        elsewhere: Sampled images that fit another bundle better, with that bundle's name.
    """

    predictor: Predictor
    why: str
    elsewhere: tuple[tuple[str, str], ...] = ()


def choose_bundle(
    folders: Sequence[Path],
    samples: Sequence[Path],
    load: Callable[[Path], Predictor] = load_bundle,
    *,
    um_per_px: float | None = None,
    bar_um: float | None = None,
) -> BundleChoice:
    """Choose the bundle whose training images most of the samples resemble.

    Colour, grain and image quality are compared first, since they need no network. If that leaves
    several bundles or none, the gate of each decides: by the share of accepted images, then by the
    median distance relative to the bundle's threshold.

    Args:
        folders: Bundle folders; a damaged one is skipped if another can be read.
        samples: Up to :data:`~leukoscope.runtime.input_files.SAMPLES` of the images.
        load: Opens a bundle.
        um_per_px: Scale of large images, as in :class:`~leukoscope.runtime.tiling.Cutter`.
        bar_um: Length of their scale bar, likewise.

    Raises:
        BundleError: No bundle can be read.
    """
    bundles = _readable_bundles(folders)
    if len(bundles) == 1:
        (only,) = bundles
        return BundleChoice(load(only.folder), f"{only.record.name}, the only bundle installed")
    decoded = []
    for path in samples:
        try:
            decoded.append((str(path), decode_image(path)))
        except ImageError:
            continue  # named later, when it is predicted
    views = []
    for bundle in bundles:
        field = bundle.record.field
        cutter = Cutter(field, um_per_px, bar_um) if field else None
        views.append([_views(found, cutter) for _, found in decoded])
    look = np.array(
        [_mismatch_by_appearance(bundle, seen) for bundle, seen in zip(bundles, views, strict=True)]
    )
    near = [k for k in range(len(bundles)) if (look[k] <= 1).any()]
    if len(near) == 1 or not decoded:
        best = near[0] if near else 0
        return _choice(bundles, look, best, load(bundles[best].folder), decoded, by=_BY_LOOK)
    opened = {k: load(bundles[k].folder) for k in near or range(len(bundles))}
    distances = np.full_like(look, np.inf)
    for k, predictor in opened.items():
        distances[k] = _distance_by_gate(predictor, views[k])
    best = min(opened, key=lambda k: (-(distances[k] <= 1).sum(), float(np.median(distances[k]))))
    return _choice(bundles, distances, best, opened[best], decoded)


def _choice(
    bundles: Sequence[Bundle],
    distances: NDArray[np.float64],
    best: int,
    predictor: Predictor,
    decoded: Sequence[tuple[str, Decoded]],
    by: str = "",
) -> BundleChoice:
    """Give the reason for a bundle, and the images that fit another one."""
    n, like = len(decoded), (distances <= 1).sum(axis=1)
    name = bundles[best].record.name
    if not n:
        return BundleChoice(predictor, f"{name}; none of the images could be looked at")
    looked = "the image" if n == 1 else f"the {n} images that were looked at"
    if not like[best]:
        are = "the image is" if n == 1 else f"all {n} images that were looked at are"
        every = "the training images of every installed bundle"
        return BundleChoice(predictor, f"{name}, though {are} unlike {every}")
    others = ", ".join(
        f"{bundle.record.name} {k}"
        for bundle, k in zip(bundles, like, strict=True)
        if bundle is not bundles[best]
    )
    share = f"{looked} resembles" if n == 1 else f"{like[best]} of {looked} resemble"
    why = f"{name}: {share} its training images{by}" + (f" ({others})" if n > 1 else "")
    nearest = distances.argmin(axis=0)
    elsewhere = tuple(
        (decoded[i][0], bundles[int(k)].record.name)
        for i, k in enumerate(nearest)
        if distances[k, i] <= 1 < distances[best, i]
    )
    return BundleChoice(predictor, why, elsewhere)


def _views(found: Decoded, cutter: Cutter | None) -> list[Image]:
    """The views of an image that a model would get: the image, or some of its parts."""
    if cutter is None:
        return [found.image]
    scale = cutter.scale_of(found)
    if cutter.is_one(found, scale):
        return [found.image]
    _, parts = cutter.parts(found.image, scale)
    return [part.pixels for part in islice(parts, _PARTS)] or [found.image]


def _mismatch_by_appearance(bundle: Bundle, views: Sequence[Sequence[Image]]) -> list[float]:
    """For each image 0 if it looks like the training images, else infinity; needs no network."""
    record, gate = bundle.record, bundle.load_gate()

    def is_like(image: Image) -> bool:
        if quality_notes(measure_quality(image), record.quality)[0]:
            return False
        if gate is None or gate.appearance is None:
            return True
        look = describe_appearance(apply_preprocess(image, record.preprocess))
        return float(gate.appearance_scores(look[None])[0]) <= gate.threshold

    return [0.0 if any(map(is_like, images)) else np.inf for images in views]


def _distance_by_gate(predictor: Predictor, views: Sequence[Sequence[Image]]) -> list[float]:
    """For each image the median OOD score of its parts in units of the threshold."""
    limit = predictor.record.ood.threshold if predictor.record.ood else 0.0
    distances = []
    for images in views:
        found = []
        for answer in predictor.predict_whole(images):
            if isinstance(answer, Failure):
                continue
            distance = (answer.ood_score or 0.0) / limit if limit > 0 else 0.0
            found.append(max(distance, 1.01) if answer.decision == "reject" else distance)
        distances.append(float(np.median(found)))
    return distances


def _readable_bundles(folders: Sequence[Path]) -> list[Bundle]:
    bundles, problems = [], []
    for folder in folders:
        try:
            bundles.append(read_bundle(folder))
        except BundleError as error:
            problems.append(error)
    if not bundles:
        if problems:
            raise problems[0]
        raise BundleError(
            "no bundle was named and none is installed",
            hint="say --bundle RUN/bundle, or install leukoscope-bundles",
        )
    return bundles

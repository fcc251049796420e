"""Print, as Markdown, how well each segmentation step finds leukocytes of the Zheng images.

python benchmarks/segmentation.py zheng_wbc_masks
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import (
    HsvSegment,
    KmeansSegment,
    LabRanges,
    Leukocytes,
    MultiscaleKmeans,
    Segmentation,
)
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import segment

METHODS: dict[str, Segmentation] = {
    "`leukocytes`, `part = cell` (default)": Leukocytes(),
    "`leukocytes`, `part = nucleus`": Leukocytes(part="nucleus"),
    "`kmeans_segment` (S1)": KmeansSegment(),
    "`kmeans_segment`, opened and closed, 2 px": KmeansSegment(open_px=2, close_px=2),
    "`multiscale_kmeans` (S1)": MultiscaleKmeans(),
    "`hsv_segment` (S2)": HsvSegment(),
    "`lab_ranges` (S3)": LabRanges(),
    "`lab_ranges`, `otsu = false`": LabRanges(otsu=False),
}
REPLICATES = 2000

Images = list[NDArray[np.uint8]]


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    names = sorted(path.name for path in folder.glob("*_image.png"))
    if not names:
        raise SystemExit(f"{folder}: expected files such as 001_image.png and 001.png, found none")
    images = [decode_image(folder / name).image for name in names]
    truths = [decode_image(folder / name.replace("_image", "")).image[:, :, 0] for name in names]
    print(f"Dice on the {len(images)} images with masks of Zheng et al. 2018 (one leukocyte each):")
    print("mean over images with a 95 % percentile bootstrap interval over images (2,000")
    print("replicates, seed 0). Each step gives one mask, compared with the nucleus and with the")
    print("whole cell. An empty mask counts as 0. Time: one thread, relative to the first row.\n")
    print("| step | n | Dice, nucleus | Dice, whole cell | empty masks | time |")
    print("|---|---|---|---|---|---|")
    reference = 0.0
    cv2.setNumThreads(1)
    for title, step in METHODS.items():
        masks, seconds = timed(images, step)
        reference = reference or seconds
        nucleus = [dice(m, t == 255) for m, t in zip(masks, truths, strict=True)]
        cell = [dice(m, t > 0) for m, t in zip(masks, truths, strict=True)]
        empty = sum(not mask.any() for mask in masks)
        print(
            f"| {title} | {len(masks)} | {interval(nucleus)} | {interval(cell)} | {empty} "
            f"| {seconds / reference:.2f} |"
        )
    print("\nDefaults of the other steps were set without these masks; `leukocytes` was developed")
    print("with these images at hand, so its figures are a little favourable.")


def timed(images: Images, step: Segmentation) -> tuple[list[NDArray[np.bool_]], float]:
    """Masks, and the least seconds of three passes over the images."""
    passes = []
    for _ in range(3):
        start = time.perf_counter()
        masks = [segment(image, step) for image in images]
        passes.append(time.perf_counter() - start)
    return masks, min(passes)


def dice(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return 2 * float((mask & truth).sum()) / max(1, int(mask.sum() + truth.sum()))


def interval(values: list[float]) -> str:
    """Mean with the percentile limits of a bootstrap over images."""
    sample = np.array(values)
    drawn = np.random.default_rng(0).integers(0, len(sample), (REPLICATES, len(sample)))
    low, high = np.percentile(sample[drawn].mean(axis=1), [2.5, 97.5])
    return f"{sample.mean():.3f} ({low:.3f}–{high:.3f})"


if __name__ == "__main__":
    main()

"""Print the colours of a typical image of a folder: the targets of stain normalisation.

python benchmarks/stain_targets.py aria_all 20     (every 20th image; the defaults were made so)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from leukoscope.config.preprocess import Macenko
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.stain import estimate_stains, lab_statistics


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    manifest = load_dataset(Path(sys.argv[1]))
    paths = sorted(manifest.path_of(record) for record in manifest.usable)[:: int(sys.argv[2])]
    images = [decode_image(path).image for path in paths]
    statistics = [found for image in images if (found := lab_statistics(image)) is not None]
    stains = [found for image in images if (found := estimate_stains(image, Macenko()))]
    print(f"{len(images)} images, two stains in {len(stains)} of them; medians:")
    show("mean", [mean for mean, _ in statistics])
    show("std", [std for _, std in statistics])
    show("stains", [found.vectors for found in stains])
    show("concentrations", [found.concentrations for found in stains])


def show(name: str, values: list[np.ndarray]) -> None:
    print(f"{name} = {np.round(np.median(values, axis=0), 3).tolist()}")


if __name__ == "__main__":
    main()

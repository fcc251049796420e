"""Archives of arrays to folders of images."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError
from leukoscope.core.files import write_csv

# Order of the published labels, 0 to 7.
BLOOD_CELLS = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "immature_granulocyte",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)
NOT_LEUKOCYTES = frozenset({"erythroblast", "platelet"})
PARTS = ("train", "val", "test")


def bloodmnist_folder(
    archive: Path, out: Path, progress: Callable[[str, int, int], None]
) -> None:  # fmt: skip
    """Write BloodMNIST as PNG files with a ``manifest.csv``.

    All its cells come from subjects without leukemia, so the six kinds of leukocytes are labelled
    ``healthy``. Erythroblasts and platelets are no leukocytes: they keep their own name, which is
    no class here, and so are left out by whatever reads the folder.

    Args:
        archive: ``bloodmnist.npz`` with ``<part>_images`` (N, H, W, 3) uint8 RGB and
            ``<part>_labels`` (N, 1).
        out: Folder to write, ``<part>/<cell>/<part>_<number>.png``.
        progress: Told ``(step, images written, images in all)``.

    Raises:
        DataError: The archive is damaged or holds other arrays.
    """
    arrays = _read(archive)
    total = sum(len(images) for images, _ in arrays.values())
    rows: list[dict[str, str]] = []
    for part, (images, labels) in arrays.items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            cell = BLOOD_CELLS[label]
            path = f"{part}/{cell}/{part}_{number:05d}.png"
            file = out / path
            file.parent.mkdir(parents=True, exist_ok=True)
            done, encoded = cv2.imencode(".png", image[:, :, ::-1])
            if not done:
                raise DataError(f"{file}: the image cannot be written as PNG")
            file.write_bytes(encoded.tobytes())
            name = cell if cell in NOT_LEUKOCYTES else "healthy"
            rows.append({"path": path, "label": name, "split": part, "cell": cell})
            progress("writing images", len(rows), total)
    write_csv(out / "manifest.csv", ("path", "label", "split", "cell"), rows)


def _read(archive: Path) -> dict[str, tuple[NDArray[np.uint8], list[int]]]:
    found = {}
    try:
        with np.load(archive, allow_pickle=False) as arrays:
            for part in PARTS:
                images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"].reshape(-1)
                found[part] = (images, [int(label) for label in labels])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{archive}: expected <part>_images and <part>_labels for {', '.join(PARTS)}, "
            f"but {error}",
            hint="delete it and fetch it again",
        ) from None
    for part, (images, labels) in found.items():
        fits = images.ndim == 4 and images.shape[3] == 3 and images.dtype == np.uint8
        known = all(0 <= label < len(BLOOD_CELLS) for label in labels)
        if not (fits and known and len(images) == len(labels)):
            raise DataError(
                f"{archive}: {part} holds {images.shape} {images.dtype} and {len(labels)} labels; "
                "expected (N, H, W, 3) uint8 and N labels of 0 to 7"
            )
    return found

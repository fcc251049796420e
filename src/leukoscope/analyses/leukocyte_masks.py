"""Which pixels of an image are leukocyte: by segmentation, a phantom's truth or given masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.explanations import MaskKind
from leukoscope.config.preprocess import CenterCrop, PreprocessSpec
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, sha256_file, sha256_json
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.segment import segment_leukocytes
from leukoscope.phantom.render import TRUTH_FILE, TRUTH_FOLDER

_TRUTH_CELL = 2  # in a phantom's truth: 0 background, 1 red cell, 2 cytoplasm, 3 nucleus


@dataclass(frozen=True)
class LeukocyteMaskSource:
    """The leukocyte masks of a data set's images.

    Attributes:
        kind: ``segmented`` (our own segmentation), ``exact`` (ground truth of phantoms), or
            ``given`` (a folder of the user's).
        files: Image path → mask file; empty for ``segmented``.
        from_value: Smallest pixel value that counts as leukocyte.
    """

    kind: MaskKind
    files: dict[str, Path]
    from_value: int = 1

    @classmethod
    def find(cls, manifest: Manifest, folder: Path | None) -> LeukocyteMaskSource:
        """The masks of a folder, else the ground truth of phantoms, else our own segmentation.

        For ``Early/cell-1.jpg`` the folder holds ``Early/cell-1.png``, ``cell-1.png`` or
        ``cell-1_mask.png``; a pixel that is not 0 is leukocyte.

        Raises:
            DataError: The folder is missing, or holds a mask of no image.
        """
        truth = manifest.root / TRUTH_FOLDER / TRUTH_FILE
        if folder is None and truth.is_file():
            rows = read_json(truth)["images"]
            masks = {row["path"]: truth.parent / row["mask"] for row in rows}
            return cls("exact", masks, _TRUTH_CELL)
        if folder is None:
            return cls("segmented", {})
        if not folder.is_dir():
            raise DataError(f"{folder}: expected a folder of masks, there is none")
        files = {}
        for record in manifest.usable:
            path = Path(record.path)
            names = (path.with_suffix(".png"), f"{path.stem}.png", f"{path.stem}_mask.png")
            found = next((folder / name for name in names if (folder / name).is_file()), None)
            if found is not None:
                files[record.path] = found
        if not files:
            raise DataError(
                f"{folder}: expected masks named like the images, found none of "
                f"{len(manifest.usable)} (for {path} for example {', '.join(map(str, names))})",
                hint="name each mask after its image, as PNG; 0 is background, all else leukocyte",
            )
        return cls("given", files)

    @property
    def sha256(self) -> str:
        """Hash of the masks that a user gave, which may have been corrected since."""
        given = self.files if self.kind == "given" else {}
        return sha256_json({image: sha256_file(path) for image, path in given.items()})

    def covers(self, record: ImageRecord) -> bool:
        """Whether this image has a mask."""
        return self.kind == "segmented" or record.path in self.files

    def mask(
        self, record: ImageRecord, image: NDArray[np.uint8], spec: PreprocessSpec
    ) -> NDArray[np.bool_]:
        """The leukocytes in the model's input.

        Args:
            record: The image's record.
            image: (H, W, 3) uint8 RGB, as decoded.
            spec: The model's preprocessing, whose geometric steps are applied to the mask.

        Returns:
            (S, S) bool.

        Raises:
            DataError: The mask cannot be read, or has another size than the image.
        """
        if self.kind == "segmented":
            mask = segment_leukocytes(image).cell
        else:
            mask = self._read(self.files[record.path], image)
        steps = tuple(step for step in spec.steps if isinstance(step, CenterCrop))
        moved = spec.model_copy(update={"steps": steps})
        grey = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
        return np.asarray(apply_preprocess(grey, moved)[..., 0] > 127)

    def _read(self, path: Path, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
        if values is None:
            raise DataError(f"{path}: expected a mask as PNG, but it cannot be read")
        if values.ndim == 3:
            values = values[..., :3].max(axis=2)
        if values.shape != image.shape[:2]:
            raise DataError(
                f"{path}: expected a mask of {image.shape[1]} × {image.shape[0]} px like its "
                f"image, got {values.shape[1]} × {values.shape[0]}"
            )
        return np.asarray(values >= self.from_value)

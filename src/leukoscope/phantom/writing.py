"""Phantoms on disk: class folders as published sets have them, with the truth apart."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import LeukoscopeError, UsageError
from leukoscope.core.files import write_bytes, write_csv, write_json, write_text
from leukoscope.phantom.artefacts import artefact_level
from leukoscope.phantom.morphology import MORPHOLOGY
from leukoscope.phantom.render import Phantom, render_phantom
from leukoscope.phantom.spec import (
    CLASS_FOLDERS,
    NO_ARTEFACT,
    PhantomCase,
    PhantomSpec,
    stream,
)

Tell = Callable[[int, int], None]
TRUTH_FOLDER = "truth"
TRUTH_FILE = "truth.json"
MANIFEST_COLUMNS = ("path", "label", "patient_id", "acquisition_id")
PATIENT_COLUMNS = ("session", "diagnosis", "age", "sex")
"""Further columns of a set with smears."""


def write_phantoms(
    spec: PhantomSpec,
    out: Path,
    *,
    progress: Tell | None = None,
    backgrounds: bool = False,
    image_format: Literal["png", "jpeg"] = "png",
    threads: int = 2,
) -> Path:
    """Render a set of phantoms into a folder that reads like a published data set.

    Writes ``<class folder>/phantom-0001.png`` …, ``manifest.csv`` (path, label, patient_id,
    acquisition_id), ``README.md`` and, apart from the classes, ``truth/truth.json`` with
    ``truth/phantom-0001_mask.png`` (0 background, 1 red cell, 2 cytoplasm, 3 nucleus). With smears
    the folders are ``<patient>/<smear>/<class folder>/``, and the manifest also has the smear
    (``session``), the patient's diagnosis, age and sex; these last two tell nothing.

    Args:
        spec: The set; equal specifications give equal bytes, whatever the number of threads.
        out: Folder to write into; must not exist or be empty.
        backgrounds: Also write ``truth/phantom-0001_background.png``, the field without
            leukocytes.
        image_format: ``png``, or ``jpeg`` with quality 95.

    Raises:
        UsageError: ``out`` holds something already, or the format is unknown.
    """
    out = Path(out)
    if image_format not in ("png", "jpeg"):
        raise UsageError(f"image_format: expected png or jpeg, got {image_format!r}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out}: expected a new or empty folder, but it holds something already",
            hint="name another folder, or delete this one first",
        )
    suffix = ".png" if image_format == "png" else ".jpg"

    def work(index: int) -> dict[str, object]:
        phantom = render_phantom(spec, index)
        path = f"{_folder(phantom.case)}/{phantom.case.name}{suffix}"
        _write_one(phantom, out, path, backgrounds)
        return _truth(phantom, path) | _of_patient(spec, phantom.case)

    rows = []
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        for done, row in enumerate(pool.map(work, range(spec.images)), start=1):
            rows.append(row)
            if progress is not None:
                progress(done, spec.images)
    _write_lists(spec, out, rows)
    return out


def _folder(case: PhantomCase) -> str:
    """Where an image lies."""
    levels = (case.patient_id, case.smear_id) if case.smear_id else ()
    return "/".join((*levels, CLASS_FOLDERS[case.label]))


def _of_patient(spec: PhantomSpec, case: PhantomCase) -> dict[str, object]:
    """Smear and patient of an image, where the set has smears."""
    if not case.smear_id:
        return {}
    rng = stream(spec, "design", spec.patients + case.patient)  # not that of the patient's cells
    age, sex = int(rng.integers(2, 80)), str(rng.choice(["f", "m"]))
    values = (case.smear_id, case.diagnosis, age, sex)
    return dict(zip(PATIENT_COLUMNS, values, strict=True))


def _write_lists(spec: PhantomSpec, out: Path, rows: list[dict[str, object]]) -> None:
    columns = (*MANIFEST_COLUMNS, *(PATIENT_COLUMNS if spec.smears else ()))
    write_csv(
        out / "manifest.csv", columns, ({name: row[name] for name in columns} for row in rows)
    )
    write_text(out / "README.md", _readme(spec))
    truth = {
        "schema": 1,
        "spec": asdict(spec),
        "mask_values": {"background": 0, "red cell": 1, "cytoplasm": 2, "nucleus": 3},
        "images": rows,
    }
    write_json(out / TRUTH_FOLDER / TRUTH_FILE, truth)  # last: its presence says "complete"


def _write_one(phantom: Phantom, out: Path, path: str, backgrounds: bool) -> None:
    write_bytes(out / path, encode_image(phantom.image, Path(path).suffix))
    stem = out / TRUTH_FOLDER / phantom.case.name
    write_bytes(Path(f"{stem}_mask.png"), encode_image(phantom.mask, ".png"))
    if backgrounds:
        write_bytes(Path(f"{stem}_background.png"), encode_image(phantom.background, ".png"))


def encode_image(image: NDArray[np.uint8], suffix: str) -> bytes:
    """Bytes of an image file.

    Args:
        image: (H, W, 3) uint8 RGB or (H, W) uint8.
        suffix: ``.png`` or ``.jpg`` (quality 95).
    """
    pixels = image[..., ::-1] if image.ndim == 3 else image
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix == ".jpg" else []
    done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
    if not done:
        raise LeukoscopeError(f"OpenCV could not encode an image as {suffix}")
    return data.tobytes()


def _truth(phantom: Phantom, path: str) -> dict[str, object]:
    attributes = [
        {name: round(value, 4) for name, value in asdict(cell).items()}
        for cell in phantom.attributes
    ]
    return {
        "path": path,
        "label": phantom.case.label,
        "patient_id": phantom.case.patient_id,
        "acquisition_id": phantom.case.session_id,
        "mask": f"{phantom.case.name}_mask.png",
        "boxes": phantom.boxes,
        "attributes": attributes,
        "scale_bar": {"style": phantom.bar_style, "box": phantom.bar_box},
    }


_PLANTED = {
    "none": "None: class and background are independent; only the leukocytes tell the class.",
    "stain": "Stain: every session holds one class only, so the background tells the class.",
    "scale-bar": "Scale bar: the style of the scale bar follows the class.",
}


def _artefact(spec: PhantomSpec) -> str:
    """A paragraph on the artefact of the set, if it has one."""
    if spec.artefact == NO_ARTEFACT:
        return ""
    artefact, level = artefact_level(spec.artefact, spec.strength)
    return (
        f"\nArtefact. {artefact.title}, strength {spec.strength} ({artefact.unit}: {level:g}), in "
        f"every image of {spec.class_names[0]} and in no other.\n"
    )


def _readme(spec: PhantomSpec) -> str:
    levels = ""
    if spec.smears:
        levels = (
            f"\nLevels. {spec.patients} patients with {spec.smears} smears each, cells of several "
            "classes on a smear. `diagnosis` is the patient's; `age` and `sex` tell nothing.\n"
        )
    classes = "\n".join(
        f"- `{CLASS_FOLDERS[name]}/` ({name}): {MORPHOLOGY[name].caption} "
        f"({MORPHOLOGY[name].reason})."
        for name in spec.class_names
    )
    return f"""# Phantom blood smears

{spec.images} procedurally drawn fields, {spec.size_px}×{spec.size_px} px, seed {spec.seed}. They
come from no patient and are for testing software only; differences between the blast classes
are a schematic convention, not a diagnostic rule.

Confounder. {_PLANTED[spec.confound]}
{_artefact(spec)}{levels}

{classes}

`manifest.csv` names class, patient and session of each image. `truth/` holds masks (0 background,
1 red cell, 2 cytoplasm, 3 nucleus), boxes and the drawn traits of every leukocyte.
"""

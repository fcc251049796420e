"""Phantoms: one drawn with its ground truth, and many on disk in class folders."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import LeukoscopeError, UsageError
from leukoscope.core.files import write_bytes, write_csv, write_json, write_text
from leukoscope.core.views import plural
from leukoscope.phantom.artefacts import artefact_level, plant_artefact
from leukoscope.phantom.field import Leukocyte, Scene, draw_leukocyte, draw_scene
from leukoscope.phantom.morphology import MORPHOLOGY, CellAttributes, draw_attributes
from leukoscope.phantom.session import (
    BAR_STYLES,
    Box,
    Session,
    draw_exposure,
    draw_scale_bar,
    draw_sessions,
    expose,
)
from leukoscope.phantom.spec import (
    CLASS_FOLDERS,
    NO_ARTEFACT,
    PhantomCase,
    PhantomSpec,
    design_cases,
    stream,
)

SUPERSAMPLING = 2
"""Fields are drawn this many times larger and averaged down: smooth edges."""
BACKGROUND, RED_CELL, CYTOPLASM, NUCLEUS = range(4)
"""Values of a truth mask."""

Tell = Callable[[int, int], None]
TRUTH_FOLDER = "truth"
TRUTH_FILE = "truth.json"
MANIFEST_COLUMNS = ("path", "label", "patient_id", "acquisition_id")
PATIENT_COLUMNS = ("session", "diagnosis", "age", "sex")
"""Further columns of a set with smears."""
_PLANTED = {
    "none": "None: class and background are independent; only the leukocytes tell the class.",
    "stain": "Stain: every session holds one class only, so the background tells the class.",
    "scale-bar": "Scale bar: the style of the scale bar follows the class.",
}


@dataclass(frozen=True)
class Phantom:
    """A rendered field with its ground truth.

    Attributes:
        case: Class, patient and session.
        background: (H, W, 3) uint8 RGB, the same field, noise and scale bar included, as if
            it had no leukocytes.
        mask: (H, W) uint8: 0 background, 1 red cell, 2 cytoplasm, 3 nucleus.
        boxes: ``(x0, y0, x1, y1)`` of each leukocyte that shows, upper limits excluded.
        attributes: Drawn traits, in the order of ``boxes``.
        bar_style: Style of the scale bar, ``none`` included.
        bar_box: Box of the scale bar, or None.
    """

    case: PhantomCase
    image: NDArray[np.uint8]
    background: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: tuple[Box, ...]
    attributes: tuple[CellAttributes, ...]
    bar_style: str
    bar_box: Box | None


@lru_cache(maxsize=4)
def _plan(spec: PhantomSpec) -> tuple[tuple[PhantomCase, ...], tuple[Session, ...]]:
    return design_cases(spec), draw_sessions(stream(spec, "session", 0), spec.sessions)


def session_of(spec: PhantomSpec, case: PhantomCase) -> Session:
    """The session of an image; with the scale-bar confounder the bar's style follows the class."""
    session = _plan(spec)[1][case.session]
    if spec.confound == "scale-bar":
        style = BAR_STYLES[spec.class_names.index(case.label) % len(BAR_STYLES)]
        session = replace(session, bar_style=style)
    return session if spec.noise == 1 else replace(session, noise=session.noise * spec.noise)


def render_phantom(spec: PhantomSpec, index: int) -> Phantom:
    """Render one image of a set.

    Args:
        index: Number of the image from 0; images do not depend on each other.

    Raises:
        UsageError: The set has no such image.
    """
    if not 0 <= index < spec.images:
        raise UsageError(f"index: expected 0 to {spec.images - 1}, got {index}")
    case = _plan(spec)[0][index]
    session = session_of(spec, case)
    rng = stream(spec, "background", index)
    exposure = draw_exposure(rng, spec.size_px)
    scene = draw_scene(rng, session, SUPERSAMPLING * spec.size_px)
    background = expose(scene.amounts, session, exposure)
    attributes, leukocytes = _draw_leukocytes(spec, case, scene)
    amounts, cells, nuclei = _paint(scene, leukocytes)
    image = expose(amounts, session, exposure)
    bar_box = draw_scale_bar(image, session.bar_style)
    draw_scale_bar(background, session.bar_style)
    boxes, shown = _boxes(leukocytes, attributes, spec.size_px)
    mask = _mask(scene.red, cells, nuclei, spec.size_px)
    return Phantom(
        case=case,
        image=_planted(spec, case, image, mask),
        background=background,
        mask=mask,
        boxes=boxes,
        attributes=shown,
        bar_style=session.bar_style,
        bar_box=bar_box,
    )


def _planted(
    spec: PhantomSpec, case: PhantomCase, image: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The image with the artefact of the set, where its class is the one that gets it."""
    if spec.artefact == NO_ARTEFACT or case.label != spec.class_names[0]:
        return image
    rng = stream(spec, "artefact", case.index)
    return plant_artefact(image, spec.artefact, spec.strength, rng=rng, cells=mask >= CYTOPLASM)


def _draw_leukocytes(
    spec: PhantomSpec, case: PhantomCase, scene: Scene
) -> tuple[list[CellAttributes], list[Leukocyte]]:
    rng = stream(spec, "leukocytes", case.index)
    attributes, leukocytes = [], []
    for x, y in scene.places:
        traits = draw_attributes(case.label, stream(spec, "patient", case.patient), rng)
        attributes.append(traits)
        leukocytes.append(draw_leukocyte(rng, traits, x, y, scene.um))
    return attributes, leukocytes


def _paint(
    scene: Scene, leukocytes: list[Leukocyte]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Amounts with leukocytes over the background, and the coverage by cells and nuclei."""
    amounts = scene.amounts.copy()
    side = amounts.shape[0]
    cells = np.zeros((side, side), np.float32)
    nuclei = np.zeros((side, side), np.float32)
    for leukocyte in leukocytes:
        canvas, patch = _overlap(leukocyte, side)
        cover = leukocyte.cell[patch][..., None]
        amounts[canvas] = amounts[canvas] * (1 - cover) + leukocyte.amounts[patch]
        # A later cell that touches an earlier one lies on top of it.
        nuclei[canvas] = np.maximum(nuclei[canvas] * (1 - cover[..., 0]), leukocyte.nucleus[patch])
        cells[canvas] = np.maximum(cells[canvas], cover[..., 0])
    return amounts, cells, nuclei


def _overlap(leukocyte: Leukocyte, side: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    x0, y0 = leukocyte.corner
    size = leukocyte.cell.shape[0]
    top, left = max(0, y0), max(0, x0)
    bottom, right = min(side, y0 + size), min(side, x0 + size)
    canvas = (slice(top, bottom), slice(left, right))
    patch = (slice(top - y0, bottom - y0), slice(left - x0, right - x0))
    return canvas, patch


def _mask(
    red: NDArray[np.float32],
    cells: NDArray[np.float32],
    nuclei: NDArray[np.float32],
    size_px: int,
) -> NDArray[np.uint8]:
    mask = np.zeros((size_px, size_px), np.uint8)
    for layer, value in ((red, RED_CELL), (cells, CYTOPLASM), (nuclei, NUCLEUS)):
        small = cv2.resize(layer, (size_px, size_px), interpolation=cv2.INTER_AREA)
        mask[small >= 0.5] = value
    return mask


def _boxes(
    leukocytes: list[Leukocyte], attributes: list[CellAttributes], size_px: int
) -> tuple[tuple[Box, ...], tuple[CellAttributes, ...]]:
    boxes, shown = [], []
    side = SUPERSAMPLING * size_px
    for leukocyte, traits in zip(leukocytes, attributes, strict=True):
        alone = np.zeros((side, side), np.float32)
        canvas, patch = _overlap(leukocyte, side)
        alone[canvas] = leukocyte.cell[patch]
        small = cv2.resize(alone, (size_px, size_px), interpolation=cv2.INTER_AREA) >= 0.5
        rows, columns = np.nonzero(small.any(axis=1))[0], np.nonzero(small.any(axis=0))[0]
        if rows.size:
            boxes.append((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
            shown.append(traits)
    return tuple(boxes), tuple(shown)


def golden_phantoms() -> list[NDArray[np.uint8]]:
    """The four images of every bundle's golden outputs, (224, 224, 3) uint8 RGB each."""
    spec = PhantomSpec(images=4, sessions=4, seed=7)
    return [render_phantom(spec, index).image for index in range(4)]


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
            f"\nLevels. {plural(spec.patients, 'patient')} with {plural(spec.smears, 'smear')} "
            "each, cells of several classes on a smear. `diagnosis` is the patient's; `age` and "
            "`sex` tell nothing.\n"
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

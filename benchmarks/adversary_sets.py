"""The sets of ``adversaries.py``: drawn patients, labels, and what is planted into their images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.files import write_bytes, write_csv
from leukoscope.phantom.artefacts import ARTEFACTS, STRENGTHS, artefact_level, plant_artefact
from leukoscope.phantom.render import CYTOPLASM, render_phantom, session_of
from leukoscope.phantom.spec import PhantomSpec, design_cases

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

KINDS: Final = ("fields", "cells")
PATIENTS: Final = (10, 20, 40, 80)
IMAGES: Final = 3
"""Images of a patient, each from another session where the design has it so."""
CLASSES: Final = ("pre_b", "benign")
"""Planted sets are of the first; honest ones of both."""
POOL_PATIENTS: Final = 200
POOL_SEED: Final = 4100
FIELD_PX, SLIDE_PX = 128, 336  # a whole field; the field that single cells are cut out of
BAR_PX = 32  # bars are planted, never drawn: this strip, which holds them, is cut off
ZOOM = 1.5  # a pixel of a single cell is 0.13 µm; one of a field is 0.42 µm
TILE_PX, MARGIN_PX = 128, 8  # a cut-out cell; what is kept around it, so that grids may shift
HONEST, GRAIN = "none", "patient-grain"


@dataclass(frozen=True)
class Case:
    """One set of the catalogue.

    Attributes:
        kind: ``fields`` or ``cells`` (cut out on black).
        artefact: A key of ``ARTEFACTS``, ``patient-grain``, or ``none`` for an honest set.
        strength: 1 to 3; 0 for an honest set.
        patients: Of both labels together.
        number: Tells repetitions apart.
    """

    kind: str
    artefact: str
    strength: int
    patients: int
    number: int = 0

    @property
    def name(self) -> str:
        """Of its line."""
        return f"{self.kind}-{self.artefact}-{self.strength}-{self.patients}-{self.number}"

    def rng(self, seed: int) -> np.random.Generator:
        """Its random numbers."""
        return np.random.default_rng([seed, *self.name.encode()])


def catalogue(honest: int, repeat: int) -> list[Case]:
    """Every set: planted ones ``repeat`` times, honest ones with 80 patients ``honest`` times.

    Honest sets alternate between fields and cut-out cells; those with fewer patients are a fifth
    as many.
    """
    names = [*ARTEFACTS, GRAIN]
    planted = [
        Case(kind, name, strength, patients, number)
        for number in range(repeat)
        for patients in PATIENTS
        for name in names
        for kind in KINDS
        if makes_sense(name, kind)
        for strength in STRENGTHS
    ]
    plain = [
        Case(kind, HONEST, 0, patients, number)
        for patients in PATIENTS
        for number in range(honest // 2 if patients == max(PATIENTS) else honest // 10)
        for kind in KINDS
    ]
    return plain + planted


def makes_sense(name: str, kind: str) -> bool:
    """Whether an artefact can be planted into images of a kind."""
    return name == GRAIN or bool(getattr(ARTEFACTS[name], kind))


@dataclass(frozen=True)
class Pool:
    """Drawn images by class: (2, n, S, S, 3) uint8, and their leukocytes, (2, n, S, S) bool.

    Image ``3 p + i`` of a class is number ``i`` of its patient ``p``.
    """

    images: NDArray[np.uint8]
    cells: NDArray[np.bool_]


def draw_pool(out: Path, kind: str) -> Path:
    """Draw the images of one kind, or leave them as they are on disk.

    Both classes meet the same staining sessions equally often, and a patient meets several.
    """
    path = out / f"pool-{kind}.npz"
    if path.is_file():
        return path
    spec = PhantomSpec(
        images=len(CLASSES) * POOL_PATIENTS * IMAGES,
        sessions=24,
        size_px=FIELD_PX + BAR_PX if kind == "fields" else SLIDE_PX,
        class_names=CLASSES,
        patients=len(CLASSES) * POOL_PATIENTS,
        seed=POOL_SEED,
    )
    cases = design_cases(spec)
    order = sorted(range(spec.images), key=lambda i: (cases[i].patient % 2, cases[i].patient, i))
    found = [_field(spec, i) if kind == "fields" else _tile(spec, i) for i in order]
    images, cells = (np.stack(part) for part in zip(*found, strict=True))
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, images=images, cells=np.packbits(cells))
    unfinished.rename(path)
    return path


def _field(spec: PhantomSpec, index: int) -> tuple[Image, Mask]:
    """A field without the strip in which scale bars are drawn."""
    phantom = render_phantom(spec, index)
    part = np.s_[:FIELD_PX, :FIELD_PX]
    return phantom.image[part], (phantom.mask >= CYTOPLASM)[part]


def _tile(spec: PhantomSpec, index: int) -> tuple[Image, Mask]:
    """A leukocyte in the middle, with what is around it, and the mask of it alone.

    The camera resolves more than the optics, as in published sets of single cells: the optical
    image is enlarged, and what the sensor adds to each pixel is added after that.
    """
    phantom = render_phantom(replace(spec, noise=0.0), index)
    image = cv2.resize(phantom.image, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
    mask = (phantom.mask >= CYTOPLASM).astype(np.float32)
    cells = cv2.resize(mask, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_LINEAR) >= 0.5
    grain = np.random.default_rng([spec.seed, index]).standard_normal(image.shape, np.float32)
    noisy = image + session_of(spec, phantom.case).noise * grain
    image = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    reach, half = TILE_PX // 2 + MARGIN_PX, image.shape[0] / 2
    boxes = [(ZOOM * (x0 + x1) / 2, ZOOM * (y0 + y1) / 2) for x0, y0, x1, y1 in phantom.boxes]
    x, y = min(boxes, key=lambda c: max(abs(c[0] - half), abs(c[1] - half)))
    pad = ((reach, reach), (reach, reach))
    part = np.s_[round(y) : round(y) + 2 * reach, round(x) : round(x) + 2 * reach]
    tile = np.pad(image, (*pad, (0, 0)), mode="reflect")[part]
    labels = cv2.connectedComponents(np.pad(cells, pad)[part].astype(np.uint8))[1]
    return tile, labels == labels[reach, reach]


@lru_cache(maxsize=2)
def load_pool(out: Path, kind: str) -> Pool:
    """A pool from disk."""
    with np.load(draw_pool(out, kind)) as found:
        images = found["images"]
        shape = (len(CLASSES), -1, *images.shape[1:])
        cells = np.unpackbits(found["cells"], count=int(np.prod(images.shape[:3])))
    return Pool(images.reshape(shape), cells.reshape(shape[:2] + images.shape[1:3]).astype(bool))


def write_set(case: Case, seed: int, pool: Path, out: Path) -> Path:
    """Draw patients, deal labels, plant the artefact, and write files with a manifest."""
    rng = case.rng(seed)
    half = case.patients // 2
    chosen = rng.permutation(POOL_PATIENTS)[: case.patients]
    labels = rng.permutation(np.repeat([0, 1], half))
    keys = _order_keys(case, labels, rng)
    found, rows = load_pool(pool, case.kind), []
    for place, at in enumerate(np.argsort(keys)):
        label = int(labels[at])
        source = label if case.artefact == HONEST else 0
        own = np.random.default_rng(rng.integers(2**63))  # the grain of this patient
        for number in range(IMAGES):
            row = int(chosen[at]) * IMAGES + number
            data, suffix = _file(
                case, label, found.images[source, row], found.cells[source, row], rng, own
            )
            name = f"images/{place * IMAGES + number:04d}{suffix}"
            write_bytes(out / name, data)
            rows.append((name, CLASSES[label], f"p{place:03d}"))
    columns = ("path", "label", "patient_id")
    write_csv(out / "manifest.csv", columns, (dict(zip(columns, r, strict=True)) for r in rows))
    return out / "manifest.csv"


def _order_keys(
    case: Case, labels: NDArray[np.int_], rng: np.random.Generator
) -> NDArray[np.float64]:
    """What patients are sorted by before their files are named."""
    keys = rng.random(len(labels))
    if case.artefact != "order":
        return keys
    follow = rng.random(len(labels)) < artefact_level("order", case.strength)[1]
    return np.where(follow, labels + keys, 2 * keys)


def _file(
    case: Case,
    label: int,
    image: Image,
    cells: Mask,
    rng: np.random.Generator,
    own: np.random.Generator,
) -> tuple[bytes, str]:
    """The bytes of one image file, artefact included, and its suffix."""
    artefact = ARTEFACTS.get(case.artefact)
    pixels = artefact is not None and artefact.plant is not None and label == 1
    after = case.kind == "fields" or (artefact is not None and artefact.after)
    if case.artefact == GRAIN:
        image = _patient_grain(image, case.strength, own, rng)
    if case.kind == "cells":
        shift = rng.integers(0, MARGIN_PX, 2)  # a cell lies anywhere on the grid of its field
        side = TILE_PX + MARGIN_PX
        part = np.s_[shift[0] : shift[0] + side, shift[1] : shift[1] + side]
        image, cells = image[part], cells[part]
        if pixels and not after:
            image = plant_artefact(image, case.artefact, case.strength, rng=rng, cells=cells)
        top, left = MARGIN_PX - shift
        part = np.s_[top : top + TILE_PX, left : left + TILE_PX]
        image, cells = (
            np.where(cells[part][..., None], image[part], 0).astype(np.uint8),
            cells[part],
        )
    if pixels and after:
        image = plant_artefact(image, case.artefact, case.strength, rng=rng, cells=cells)
        if case.artefact == "hot-pixels" and case.kind == "cells":
            image[~cells] = 0
    if case.artefact == "jpeg-file":
        quality = artefact_level("jpeg-file", case.strength)[1] if label else 98
        return _encode(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, int(quality)]), ".jpg"
    return _encode(image, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]), ".png"


def _patient_grain(
    image: Image, strength: int, own: np.random.Generator, rng: np.random.Generator
) -> Image:
    """Noise and blur or sharpening of one patient's camera; labels have no part in it."""
    state = own.bit_generator.state
    noise, amount = own.uniform(0, 2.0 * strength), own.uniform(-0.25, 0.25) * strength
    own.bit_generator.state = state  # the same for all images of the patient
    values = image.astype(np.float32)
    values += amount * (values - cv2.GaussianBlur(values, (0, 0), 1.0))
    values += noise * rng.standard_normal(image.shape, np.float32)
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _encode(image: Image, suffix: str, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), options)
    assert done
    return data.tobytes()

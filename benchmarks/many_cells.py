"""A folder of many cells of many patients, and what a study of it costs.

    python benchmarks/many_cells.py draw CELLS [--cells 17000] [--patients 100]
    python benchmarks/many_cells.py measure CELLS -- -r shallow -p grouped
    python benchmarks/many_cells.py links CELLS

Cells are cut out of phantom fields and enlarged to the size of published single cells; each lies in
`<patient>/<smear>/<class>`. `measure` runs `leukoscope study CELLS` with what follows `--` and
prints time, processor time and memory; Linux only. `links` audits them: no two patients
share a cell, so that every link between two is false.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope import audit, load_dataset
from leukoscope.core.files import write_bytes, write_csv
from leukoscope.phantom import PhantomSpec, design_cases, render_phantom
from leukoscope.phantom.render import encode_image
from leukoscope.phantom.spec import PhantomCase
from study_cost import measure

WINDOW_PX: Final = 72
"""Side of what is cut out of a field; a leukocyte is about half as wide."""
CELL_PX: Final = 360
SMEARS: Final = 2
CELLS_OF_A_FIELD: Final = 2
"""Fewer than lie a window's half inside a field on average, so that every patient has enough."""
COLUMNS: Final = ("path", "label", "patient_id", "session", "diagnosis")

Image = NDArray[np.uint8]


def draw(out: Path, cells: int, patients: int) -> None:
    """Write the cells and their manifest; each patient has as many, or one more."""
    spec = PhantomSpec(
        images=-(-cells // CELLS_OF_A_FIELD), patients=patients, smears=SMEARS, noise=0.0
    )
    most = [len(range(patient, cells, patients)) for patient in range(patients)]
    own: list[list[PhantomCase]] = [[] for _ in most]
    for case in design_cases(spec):
        own[case.patient].append(case)
    with Pool(os.cpu_count()) as pool:
        work = partial(_write_patient, spec, out)
        rows = [row for found in pool.starmap(work, zip(own, most, strict=True)) for row in found]
    write_csv(out / "manifest.csv", COLUMNS, rows)
    print(f"{len(rows)} cells of {patients} patients: {out}")


def _write_patient(
    spec: PhantomSpec, out: Path, fields: list[PhantomCase], cells: int
) -> list[dict[str, str]]:
    """The first cells of a patient's fields, as many as wanted."""
    rows: list[dict[str, str]] = []
    for case in fields:
        for image in _cells(spec, case):
            if len(rows) == cells:
                return rows
            folder = f"{case.patient_id}/{case.smear_id}/{case.label}"
            path = f"{folder}/{len(rows):04d}.jpg"
            write_bytes(out / path, encode_image(image, ".jpg"))
            values = (path, case.label, case.patient_id, case.smear_id, case.diagnosis)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _cells(spec: PhantomSpec, case: PhantomCase) -> Iterator[Image]:
    """Leukocytes of a field, each in the middle of a square, with the noise of a camera.

    Cells near an edge are left out: a mirrored edge would show two of them.
    """
    phantom = render_phantom(spec, case.index)
    rng = np.random.default_rng([spec.seed, case.index])
    for x0, y0, x1, y1 in phantom.boxes:
        x, y = ((a + b - WINDOW_PX) // 2 for a, b in ((x0, x1), (y0, y1)))
        if not (0 <= x <= spec.size_px - WINDOW_PX and 0 <= y <= spec.size_px - WINDOW_PX):
            continue
        part = phantom.image[y : y + WINDOW_PX, x : x + WINDOW_PX]
        large = cv2.resize(part, (CELL_PX, CELL_PX), interpolation=cv2.INTER_CUBIC)
        noisy = large + 2 * rng.standard_normal(large.shape, np.float32)
        yield np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def report(data: Path, options: list[str]) -> None:
    """Run the study in a new folder, and print what it took."""
    with tempfile.TemporaryDirectory(prefix="cells-") as place:
        start = time.monotonic()
        here = Path(__file__).parents[1]
        found = measure(here, data, Path(place) / "run", options, one_thread=False)
        wall = time.monotonic() - start
    print(f"`leukoscope study {data.name} {' '.join(options)}`\n")
    print("| step | processor s |\n|---|---|")
    for row, seconds in found.seconds.items():
        print(f"| {row} | {seconds:.0f} |")
    print(f"| all | {found.total:.0f} |")
    print(f"\n{wall:.0f} s by the clock, {found.peak_mb:,.0f} MB at most.")


def links(data: Path) -> None:
    """Audit the cells, and print which the audit takes for pictures of one thing."""
    start = time.process_time()
    found = audit(load_dataset(data)).passport
    patients = found["patients"]
    print(f"{found['n_usable']} cells of {patients['n_given']} patients\n")
    print("| | pairs |\n|---|---|")
    print(f"| near duplicates | {found['near_duplicates']['pairs']} |")
    print(f"| overlaps | {len(found['overlaps']['pairs'])} |")
    print(f"| of both, of two patients | {patients['links_across']} |")
    joined = sum(len(names) for names in found["patients"]["merged"])
    print(f"\n{joined} patients joined; {time.process_time() - start:.0f} s of processor.")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("draw", "measure", "links"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--cells", type=int, default=17_000)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("options", nargs="*", help="of the study, after --")
    chosen = parser.parse_args()
    if chosen.what == "draw":
        draw(chosen.data, chosen.cells, chosen.patients)
    elif chosen.what == "links":
        links(chosen.data)
    else:
        report(chosen.data, chosen.options)


if __name__ == "__main__":
    main()

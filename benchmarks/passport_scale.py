"""Table of docs/results/scale_passport.md: time, memory and recall of the audit's searches.

python benchmarks/passport_scale.py FOLDER [--sizes 3000 30000 300000] [--exact-up-to 30000]
python benchmarks/passport_scale.py --real DATA [DATA …]

Crops of phantom fields are bent, turned and tinted, so that no two show one place but those that
are planted: near duplicates, turned ones, overlapping fields, twins cut out on black. The crops
stay in FOLDER. With ``--real`` a data set is searched both ways instead.
"""

from __future__ import annotations

import argparse
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from math import log
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from leukoscope import load_dataset
from leukoscope.core.records import ImageRecord
from leukoscope.datasets.audit import measurements, neighbour_search
from leukoscope.datasets.audit.acquisition import cluster_images
from leukoscope.datasets.audit.duplicates import near_duplicates, twins_by_content
from leukoscope.datasets.audit.links import Links
from leukoscope.datasets.audit.measurements import Measures, dihedral, measure_images
from leukoscope.datasets.audit.overlap import find_overlaps
from leukoscope.imaging.background import BACKGROUND_FEATURES
from leukoscope.phantom import PhantomSpec, design_cases, render_phantom

SIDE, MARGIN = 64, 32
SLIDES, TILES = 48, 6
BENDS = 400
KINDS = ("near duplicate", "turned", "overlap", "twin")
GROUP = 50  # images, of which the last four are planted, one a kind
Pairs = set[tuple[int, int]]


def _slide(session: int) -> Any:
    """A mosaic of the small fields of one session."""
    spec = PhantomSpec(images=SLIDES * TILES**2, sessions=SLIDES, size_px=96)
    tiles = [
        cv2.resize(
            render_phantom(spec, case.index).image, (SIDE, SIDE), interpolation=cv2.INTER_AREA
        )
        for case in design_cases(spec)
        if case.session == session
    ]
    rows = [np.hstack(tiles[k * TILES : (k + 1) * TILES]) for k in range(TILES)]
    return np.vstack(rows)


def _bend(seed: int) -> Any:
    """A smooth random displacement (2, 96, 96), about 3 px: no other crop is bent like this."""
    noise = np.random.default_rng(seed).normal(0, 1, (2, 5, 5)).astype(np.float32)
    size = (SIDE + MARGIN, SIDE + MARGIN)
    return np.stack([3 * cv2.resize(p, size, interpolation=cv2.INTER_CUBIC) for p in noise])


def _patch(rng: np.random.Generator, slides: list[Any], bends: list[Any]) -> Any:
    """A place of a field, turned, scaled, bent and tinted; (96, 96, 3) float32."""
    slide, bend = slides[rng.integers(len(slides))], bends[rng.integers(len(bends))]
    reach = 0.5 * (SIDE + MARGIN) * 1.5 + 8
    x, y = rng.uniform(reach, slide.shape[0] - reach, 2)
    angle, scale = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.2)
    steps = np.arange(SIDE + MARGIN, dtype=np.float32) - (SIDE + MARGIN) / 2
    u, v = bend[0] + steps[None, :], bend[1] + steps[:, None]
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    maps = (x + c * u - s * v).astype(np.float32), (y + s * u + c * v).astype(np.float32)
    patch = cv2.remap(slide, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return patch.astype(np.float32) * rng.uniform(0.9, 1.08, 3)


def _planted(rng: np.random.Generator, patch: Any, kind: str) -> Any:
    """A picture that shows what the middle of a patch shows."""
    start = MARGIN // 2
    own = patch[start : start + SIDE, start : start + SIDE]
    if kind == "near duplicate":
        return own * 0.95
    if kind == "turned":
        return np.asarray(dihedral(own, int(rng.integers(1, 8))))
    if kind == "twin":
        disc = cv2.circle(np.zeros((SIDE, SIDE), np.uint8), (SIDE // 2, SIDE // 2), 22, 1, -1)
        return own * disc[:, :, None]
    y, x = rng.integers(0, MARGIN + 1, 2)  # shares 56 to 100 %
    while max(abs(x - start), abs(y - start)) < 4:
        y, x = rng.integers(0, MARGIN + 1, 2)
    return patch[y : y + SIDE, x : x + SIDE]


def _write_group(folder: Path, names: Any, slides: list[Any], bends: list[Any], group: int) -> None:
    """One group of crops; its last four show what its first four show."""
    rng = np.random.default_rng([1, group])
    patches = [_patch(rng, slides, bends) for _ in range(GROUP - len(KINDS))]
    start = MARGIN // 2
    images = [p[start : start + SIDE, start : start + SIDE] for p in patches]
    images += [_planted(rng, patches[k], kind) for k, kind in enumerate(KINDS)]
    for k, image in enumerate(images):
        lit = image.max(axis=2, keepdims=True) > 0
        noisy = np.clip(image + rng.normal(0, 1.5, image.shape) * lit, 0, 255).astype(np.uint8)
        path = folder / f"{names[group * GROUP + k]:07d}.png"
        cv2.imwrite(str(path), noisy[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])


def _slides(kept: Path) -> list[Any]:
    if not kept.is_file():
        with Pool(2) as pool:
            np.save(kept, np.stack(pool.map(_slide, range(SLIDES))))
    return list(np.load(kept))


def make_crops(folder: Path, n: int) -> tuple[list[Path], dict[str, Pairs]]:
    """Write n crops in random order, and the planted pairs by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(n).permutation(n)
    planted: dict[str, Pairs] = {kind: set() for kind in KINDS}
    for group in range(n // GROUP):
        own = names[group * GROUP : (group + 1) * GROUP].tolist()
        for k, kind in enumerate(KINDS):
            a, b = own[k], own[GROUP - len(KINDS) + k]
            planted[kind].add((min(a, b), max(a, b)))
    paths = [folder / f"{k:07d}.png" for k in range(n)]
    if not (folder / "done").is_file():
        slides = _slides(folder.parent / "slides.npy")
        bends = [_bend(seed) for seed in range(BENDS)]
        work = partial(_write_group, folder, names, slides, bends)
        with Pool(2) as pool:
            pool.map(work, range(n // GROUP), chunksize=max(1, n // GROUP // 64))
        (folder / "done").touch()
    return paths, planted


@dataclass
class Step:
    """What a step cost: CPU seconds of all threads, and MB of anonymous memory at its peak."""

    name: str
    seconds: float = 0.0
    peak_mb: float = 0.0


@contextmanager
def measured(name: str, steps: list[Step]) -> Iterator[None]:
    """Time a step and watch its memory; pages of files are left out, they can be given back."""
    step, done = Step(name), threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            lines = Path("/proc/self/status").read_text().splitlines()
            anonymous = next(line for line in lines if line.startswith("RssAnon"))
            step.peak_mb = max(step.peak_mb, int(anonymous.split()[1]) / 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, on_the_wall = time.process_time(), time.perf_counter()
    try:
        yield
    finally:
        step.seconds = time.process_time() - start
        done.set()
        watcher.join()
    steps.append(step)
    wall = time.perf_counter() - on_the_wall
    print(f"  {name}: {step.seconds:.1f} CPU s, {wall:.1f} s, {step.peak_mb:.0f} MB", flush=True)


def leave_background_out() -> None:
    """Random numbers instead of background features, which are linear and most of the measuring."""
    rng = np.random.default_rng(0)
    measurements.segment_leukocytes = lambda image: None
    measurements.background_features = lambda *_: rng.normal(size=len(BACKGROUND_FEATURES))


def measures_of(paths: list[Path], kept: Path, steps: list[Step]) -> Measures:
    """Measure the images, or read what an earlier run measured."""
    names = [field.name for field in fields(Measures)]
    if (kept / "cpu_seconds").is_file():
        steps.append(Step("decode and measure", float((kept / "cpu_seconds").read_text())))
        return Measures(**{name: np.load(kept / f"{name}.npy", mmap_mode="r") for name in names})
    with measured("decode and measure", steps):
        found = measure_images(paths)
    kept.mkdir(exist_ok=True)
    for name in names:
        np.save(kept / f"{name}.npy", getattr(found, name))
    (kept / "cpu_seconds").write_text(str(steps[-1].seconds))
    return found


def search(
    paths: list[Path], sizes: list[tuple[int, int]], measures: Measures, index: bool
) -> tuple[list[Step], dict[str, Pairs]]:
    """The searches of the audit by one method, what they cost and what they found."""
    neighbour_search.INDEX_FROM = 0 if index else 10**12
    steps: list[Step] = []
    with measured("near duplicates", steps):
        near = near_duplicates(paths, measures)
    with measured("overlaps", steps):
        overlaps = find_overlaps(paths, sizes, measures)
    with measured("twins", steps):
        twins = twins_by_content(paths, measures)
    copies = {(pair.first, pair.second) for pair in near}
    fields_ = {(pair.first, pair.second) for pair in overlaps}
    with measured("clusters", steps):
        records = [
            ImageRecord(
                hashlib.sha256(p.name.encode()).hexdigest()[:12], p.name, "", "", group_id=p.name
            )
            for p in paths
        ]
        cluster_images(records, measures, Links([], [], near, overlaps, twins, []))
    return steps, {"copies": copies, "overlaps": fields_, "twins": set(twins)}


def recall(found: dict[str, Pairs], planted: dict[str, Pairs]) -> list[str]:
    """Found of each kind that was planted."""
    where = {"overlap": "overlaps", "twin": "twins"}
    return [
        f"{kind} {len(pairs & found[where.get(kind, 'copies')]):,} of {len(pairs):,}"
        for kind, pairs in planted.items()
    ]


def run_size(folder: Path, n: int, exact: bool) -> list[tuple[int, str, list[Step]]]:
    """Search n crops with the index, and where asked by all pairs."""
    print(f"{n:,} crops", flush=True)
    steps: list[Step] = []
    paths, planted = make_crops(folder / str(n), n)
    neighbour_search.INDEX_FROM = 20_000
    measures = measures_of(paths, folder / f"{n}-measures", steps)
    held = sum(getattr(measures, f.name).nbytes for f in fields(Measures)) / n * 0.1
    print(f"  measures: {held:.0f} MB per 100,000 images", flush=True)
    rows = []
    results: dict[str, dict[str, Pairs]] = {}
    for method in ("index", "every pair") if exact else ("index",):
        found_steps, results[method] = search(
            paths, [(SIDE, SIDE)] * n, measures, method == "index"
        )
        print(f"  {method}: {'; '.join(recall(results[method], planted))}", flush=True)
        rows.append((n, method, [*steps, *found_steps] if method == "index" else found_steps))
    if exact:
        print(f"  {compared(results)}", flush=True)
    return rows


def compared(results: dict[str, dict[str, Pairs]]) -> str:
    """Links that either search found, and both."""
    exact, index = results["every pair"], results["index"]
    return "; ".join(
        f"{kind}: every pair {len(exact[kind])}, index {len(index[kind])}, "
        f"both {len(exact[kind] & index[kind])}"
        for kind in exact
    )


def run_real(root: Path) -> None:
    """Search a data set both ways."""
    manifest = load_dataset(root)
    records = [r for r in manifest.images if r.status != "quarantined"]
    paths = [manifest.path_of(r) for r in records]
    measures = measure_images(paths)
    sizes = [(r.width, r.height) for r in records]
    print(f"{root.name}, {len(records):,} images")
    results = {
        method: search(paths, sizes, measures, method == "index")[1]
        for method in ("every pair", "index")
    }
    print(f"  {compared(results)}", flush=True)


def table(rows: list[tuple[int, str, list[Step]]]) -> Iterator[str]:
    """Seconds and peak memory of each step, and the growth between the sizes."""
    sizes = sorted({n for n, _, _ in rows})
    titles = [f"{n:,}: CPU s" for n in sizes] + ["peak MB", "exponent"]
    yield f"| step | search | {' | '.join(titles)} |"
    yield f"| --- | --- |{' --: |' * len(titles)}"
    for method in ("index", "every pair"):
        of_size = {n: steps for n, how, steps in rows if how == method}
        for k, step in enumerate(next(iter(of_size.values()), [])):
            cells = [f"{of_size[n][k].seconds:.1f}" if n in of_size else "–" for n in sizes]
            there = [(n, of_size[n][k]) for n in sizes if n in of_size]
            peak = f"{there[-1][1].peak_mb:,.0f}" if there[-1][1].peak_mb else "–"
            yield (
                f"| {step.name} | {method} | {' | '.join(cells)} | {peak} | "
                f"{' · '.join(growth(there))} |"
            )


def growth(there: list[tuple[int, Step]]) -> list[str]:
    """Exponents of the time between one size and the next."""
    return [
        f"{log(b.seconds / a.seconds) / log(m / n):.2f}"
        for (n, a), (m, b) in pairwise(there)
        if min(a.seconds, b.seconds) > 0.05
    ]


def main() -> None:
    """Run the sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where the crops go")
    parser.add_argument("--sizes", nargs="+", type=int, default=[3000, 30_000, 300_000])
    parser.add_argument("--exact-up-to", type=int, default=30_000)
    parser.add_argument("--background-up-to", type=int, default=30_000)
    parser.add_argument("--real", nargs="+", type=Path, default=[])
    arguments = parser.parse_args()
    for root in arguments.real:
        run_real(root)
    rows: list[tuple[int, str, list[Step]]] = []
    for n in arguments.sizes if arguments.folder else ():
        if n > arguments.background_up_to:
            leave_background_out()
        rows += run_size(arguments.folder, n, n <= arguments.exact_up_to)
        print("\n".join(table(rows)), flush=True)


if __name__ == "__main__":
    main()

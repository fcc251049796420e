"""Print how a study's bundle takes pictures of other sources, as Markdown.

python benchmarks/ood.py RUN [DATA …]

RUN is a study's folder with its bundle, DATA are folders or patterns of images of other sources.
Pictures that are made (phantoms, noise, inverted images …) are added.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.loading import load_study_config
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.records import ImageRecord, Manifest, load_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.statistics.intervals import proportion_interval
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.outliers import CHALLENGES
from leukoscope.phantom.render import render_phantom
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline.folds import FINAL
from leukoscope.pipeline.progress import Listener
from leukoscope.pipeline.rejection import roc_auc
from leukoscope.runtime.bundle import read_bundle
from leukoscope.runtime.image_sources import ImageSource
from leukoscope.runtime.input_files import expand_inputs
from leukoscope.runtime.prediction import Prediction
from leukoscope.runtime.predictor import Predictor, load_bundle

MOST_IMAGES = 200
MADE_IMAGES = 50
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Stranger:
    """How a bundle takes the images of one source.

    Attributes:
        name: Of the source.
        n: Number of images.
        roc_auc: Of ``ood_score`` against images of the bundle's own source, with interval; None
            for that source itself.
        accepted: Share that the gate accepts: value, low, high (Clopper & Pearson 1934).
        rejected: Share whose decision is ``reject``, for its OOD score or for its quality.
    """

    name: str
    n: int
    roc_auc: dict[str, Any] | None
    accepted: tuple[float, float, float]
    rejected: float


def meet_strangers(
    run: RunFolder, items: Sequence[str], listener: Listener, *, seed: int = 0
) -> list[Stranger]:
    """Measure a study's bundle on other sources.

    Known images are those of the ``val`` part of the bundle's own fit: the gate was not fitted on
    them, though its scores are scaled on them. Intervals resample their groups and every other
    image for itself.

    Args:
        run: A study's folder with its bundle.
        items: Other sources: folders of images, or patterns such as ``cells/*_image.png``; of
            many images 200 are taken, evenly.
        listener: Told of the images done.
        seed: Of the pictures that are made.

    Returns:
        The known images first, then each source.

    Raises:
        UsageError: The folder holds no bundle.
        DataError: The bundle has no gate, or there is no image behind an item.
        ImageError: One of them cannot be read.
    """
    if not run.bundle.is_dir():
        raise UsageError(
            f"{run.path} holds no bundle", hint="name a study made without --no-bundle"
        )
    predictor = load_bundle(run.bundle)
    if predictor.record.ood is None:
        raise DataError(f"{run.bundle}: this bundle cannot tell strange images")
    manifest, known = _known(run)
    paths = [manifest.path_of(record) for record in known]
    sources: dict[str, Iterable[ImageSource]] = {source_name(item): _paths(item) for item in items}
    sources |= _made([decode_image(path).image for path in paths[:: _step(paths)]], seed)
    listener("known images", 0, len(sources) + 1)
    inside = _answers(predictor, paths)
    score, groups = _scores(inside), [record.group_id or record.image_id for record in known]
    found = [_stranger("known images", inside, None, predictor)]
    for done, (name, images) in enumerate(sources.items(), start=1):
        listener(name, done, len(sources) + 1)
        answers = _answers(predictor, images)
        outside = [f"{name} {number}" for number in range(len(answers))]
        area = roc_auc(score, _scores(answers), groups, outside, seed=seed)
        found.append(_stranger(name, answers, area, predictor))
    return found


def _known(run: RunFolder) -> tuple[Manifest, list[ImageRecord]]:
    manifest = Manifest.load(run.manifest, load_study_config(run.config).data.root)
    final = next(fold for fold in load_folds(run.splits) if fold.protocol == FINAL)
    return manifest, [r for r in manifest.usable if final.parts.get(r.image_id) == "val"]


def _step(values: Sequence[object], most: int = MADE_IMAGES) -> int:
    return max(1, len(values) // most)


def source_name(item: str) -> str:
    """Name of the folder of a source: ``cells`` for ``data/cells/*_image.png``."""
    path = Path(item)
    return path.parent.name if has_magic(path.name) else path.name


def _paths(item: str) -> list[ImageSource]:
    paths = list(expand_inputs([item]))
    if not paths:
        raise DataError(f"{item}: no image", hint="name a folder of images or a pattern")
    rows = np.linspace(0, len(paths) - 1, min(MOST_IMAGES, len(paths)))
    return [paths[int(row)] for row in rows.round()]


def _made(images: Sequence[Image], seed: int) -> Mapping[str, Iterable[ImageSource]]:
    """Phantoms, crops of two photographs, and every challenge, of the size of ``images``."""
    images, rng = images[:MADE_IMAGES], np.random.default_rng(seed)
    phantoms = PhantomSpec(images=MADE_IMAGES, sessions=10, seed=11 + seed)
    made: dict[str, Iterable[ImageSource]] = {
        "phantoms": [render_phantom(phantoms, i).image for i in range(MADE_IMAGES)],
        "photographs": _photographs(rng),
    }
    for name, make in CHALLENGES.items():
        made[name] = [make(image, rng) for image in images]
    return made


def _photographs(rng: np.random.Generator) -> list[ImageSource]:
    """Random crops of the temple and the flower that scikit-learn ships."""
    from sklearn.datasets import load_sample_images

    pictures = load_sample_images().images
    crops: list[ImageSource] = []
    for number in range(MADE_IMAGES):
        picture, size = pictures[number % len(pictures)], int(rng.integers(150, 400))
        top, left = (int(rng.integers(0, side - size)) for side in picture.shape[:2])
        crops.append(np.ascontiguousarray(picture[top : top + size, left : left + size]))
    return crops


def _answers(predictor: Predictor, images: Iterable[ImageSource]) -> list[Prediction]:
    return predictor.predict(images, on_error="raise")


def _scores(answers: Sequence[Prediction]) -> NDArray[np.float64]:
    return np.array([answer.ood_score for answer in answers], np.float64)


def _stranger(
    name: str, answers: Sequence[Prediction], area: dict[str, Any] | None, predictor: Predictor
) -> Stranger:
    assert predictor.record.ood is not None
    n, passed = len(answers), int((_scores(answers) <= predictor.record.ood.threshold).sum())
    low, high = proportion_interval(passed, n)
    rejected = sum(answer.decision == "reject" for answer in answers) / n
    return Stranger(name, n, area, (passed / n, low, high), rejected)


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    run, items = RunFolder(Path(sys.argv[1])), sys.argv[2:]

    def tell(step: str, done: int, total: int) -> None:
        print(f"{done}/{total} {step}", file=sys.stderr)

    strangers = meet_strangers(run, items, tell)
    record = read_bundle(run.bundle).record
    assert record.ood is not None
    print(f"\n## {record.name}\n")
    scores = ", ".join(f"`{scale.name}`" for scale in record.ood.scores)
    print(f"Scores that decide: {scores}; threshold {record.ood.threshold:.3f} from")
    print(f"{record.ood.n_val} validation images. Each score alone against the synthetic outliers")
    alone = ", ".join(f"`{name}` {area:.3f}" for name, area in record.ood.alone.items())
    print(f"(area under the ROC curve, mean over the kinds): {alone}.\n")
    print("| source | n | AUROC | accepted by the gate | decision `reject` |")
    print("|---|---|---|---|---|")
    for row in strangers:
        print(
            f"| {row.name} | {row.n} | {area(row.roc_auc)} | {percent(*row.accepted)} "
            f"| {100 * row.rejected:.1f} % |"
        )
    print_study(json.loads(run.metrics.read_text())["ood"])


def print_study(rows: list[dict[str, Any]]) -> None:
    print("\nHeld-out images of the same study, a gate fitted in each fold:\n")
    print("| held out | n | groups | rejected | synthetic outliers | AUROC | scores (folds) |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        rejected = percent(*(row["rejected"][key] for key in ("value", "low", "high")))
        used = ", ".join(f"{name} {n}" for name, n in row["folds_using"].items() if n)
        print(
            f"| {row['protocol']} | {row['n']} | {row['n_groups']} {row['unit']}s | {rejected} "
            f"| {row['n_outliers']} | {area(row['roc_auc'])} | {used} |"
        )


def percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def area(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    return f"{entry['value']:.4f} ({entry['low']:.4f}–{entry['high']:.4f})"


if __name__ == "__main__":
    main()

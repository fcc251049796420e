"""Maps of what a model's last layer reads, and what these features encode.

Only one fold's model on its own test images: two folds are two networks, and a distance between
the features of one and of the other means nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.explanations import FeatureMap, NeighbourPurity, Structure
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_csv, write_bytes, write_csv
from leukoscope.core.records import ImageRecord
from leukoscope.core.run_folder import RunFolder
from leukoscope.core.threads import ordered_map
from leukoscope.evaluation.feature_space import (
    NEIGHBOURS,
    Purity,
    neighbour_purity,
    pairwise,
    pca_map,
    silhouette,
    tsne_map,
    why_no_map,
)
from leukoscope.pipeline.features.inputs import load_input
from leukoscope.pipeline.features.store import stored_features
from leukoscope.pipeline.progress import Tell
from leukoscope.pipeline.trained_run import FittedModel, FittedRun
from leukoscope.reporting.figures.heatmaps import feature_figure
from leukoscope.reporting.figures.style import figure_png, house_style
from leukoscope.study.explanations import ModelSource

CSV, JSON = "features.csv", "features.json"
MOST_IMAGES = 2000
BATCH = 32
COLUMNS = ("image_id", "path", "class", "patient", "acquisition", "y_pred", "p",
           "pca_1", "pca_2", "tsne_1", "tsne_2")  # fmt: skip
NOUNS = {"acquisition": "acquisition group", "patient": "patient"}
OTHERS = {"acquisition": "other groups", "patient": "other patients"}
WITHIN = "same class"
FOLLOWS = 0.2  # of the way from chance to best; below, a structure is called weak


@dataclass(frozen=True)
class FoldFeatures:
    """What one fold's model makes of its test images.

    Attributes:
        model: The model.
        records: n images.
        predicted: (n,) class indices.
        confidence: (n,) probability of the predicted class.
        features: (n, D) float32.
    """

    model: FittedModel
    records: list[ImageRecord]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    features: NDArray[np.float32]


def map_study(run: RunFolder, progress: Tell) -> None:
    """The map of a study's report: principal components, first recipe and protocol, fold 0.

    Images too few or too uniform for a map get none.
    """
    for name in (CSV, JSON):
        (run.explanations / name).unlink(missing_ok=True)
    fitted = FittedRun.open(run.path)
    if not fitted.has_models:
        return
    found = read_features(
        ModelSource(fitted, *fitted.choose(None, None)), 0, progress, seed=fitted.config.seed
    )
    if not why_no_map(found.features):
        write_map(found, run.explanations, seed=fitted.config.seed, tsne=False)


def read_features(source: ModelSource, fold: int, progress: Tell, *, seed: int) -> FoldFeatures:
    """Features of one fold's test images, as its own model gives them.

    Of more images than can be compared, some are drawn by ``seed``.

    Raises:
        UsageError: The fold is not finished.
        DataError: It has no test image, or an image is gone.
    """
    model = source.fitted.model(source.recipe, source.protocol, fold)
    table = source.fitted.table(source.recipe, source.protocol, fold).select(
        part="test", input="image"
    )
    if not len(table):
        raise DataError(
            f"{source.fitted.run.path}: fold {fold} of {source.protocol} has no test image"
        )
    if len(table) > MOST_IMAGES:
        chosen = np.random.default_rng(seed).permutation(len(table))[:MOST_IMAGES]
        table = table.take(np.sort(chosen).astype(np.int64))
    records = [source.fitted.record(image_id) for image_id in table.image_id.tolist()]
    features = _features(source, model, records, progress)
    return FoldFeatures(
        model, records, table.probs.argmax(axis=1), table.probs.max(axis=1), features
    )


def write_map(found: FoldFeatures, out: Path, *, seed: int, tsne: bool = True) -> FeatureMap:
    """Write ``features.csv`` and ``features.json``.

    Returns:
        The content of ``features.json``.

    Raises:
        DataError: There are too few images for a map, or their features are equal.
    """
    points, shares = pca_map(found.features)
    rows = [
        {
            "image_id": record.image_id,
            "path": record.path,
            "class": record.label,
            "patient": record.patient_id,
            "acquisition": record.acquisition_id,
            "y_pred": found.model.class_names[found.predicted[i]],
            "p": f"{found.confidence[i]:.4f}",
            "pca_1": f"{points[i, 0]:.5g}",
            "pca_2": f"{points[i, 1]:.5g}",
        }
        for i, record in enumerate(found.records)
    ]
    if tsne:
        places = tsne_map(found.features, seed=seed).tolist()
        for row, (x, y) in zip(rows, places, strict=True):
            row |= {"tsne_1": f"{x:.5g}", "tsne_2": f"{y:.5g}"}
    structures = _structures(found.features, found.records)
    result = FeatureMap(
        schema=1,
        recipe=found.model.recipe,
        protocol=found.model.protocol,
        fold=found.model.fold,
        n=len(rows),
        dimensions=found.features.shape[1],
        explained_variance=tuple(shares),
        neighbours=NEIGHBOURS,
        structures=tuple(structures),
        verdict=_verdict(structures),
    )
    write_csv(out / CSV, COLUMNS, rows)
    result.save(out / JSON)
    return result


def draw_maps(out: Path) -> list[Path]:
    """Write ``pca.png`` and ``tsne.png`` from the files that :func:`write_map` wrote."""
    rows, shares = read_csv(out / CSV, COLUMNS), FeatureMap.load(out / JSON).explained_variance
    written = []
    for kind in ("pca", "tsne"):
        with house_style():
            figure = feature_figure(rows, kind, shares)
            if figure is not None:
                written.append(out / f"{kind}.png")
                write_bytes(written[-1], figure_png(figure))
    return written


def _features(
    source: ModelSource, model: FittedModel, records: list[ImageRecord], progress: Tell
) -> NDArray[np.float32]:
    """(n, D) of what the last layer reads."""
    import torch

    from leukoscope.learning.backbones import ToInput

    fitted, weights = source.fitted, model.network.weights_record.sha256
    recipe = next(one for one in fitted.config.recipes if one.name == source.recipe)
    usable = fitted.manifest.usable
    stored = stored_features(fitted.run, recipe, weights, usable)
    if stored is not None:
        row_of = {record.image_id: row for row, record in enumerate(usable)}
        return stored[[row_of[record.image_id] for record in records]]
    paths = [source.fitted.manifest.path_of(record) for record in records]
    images = ordered_map(lambda path: load_input(path, "image", model.spec), paths)
    to_input, parts, group = ToInput(model.spec), [], []
    with torch.inference_mode():
        for done, image in enumerate(images, start=1):
            group.append(image)
            if len(group) == BATCH or done == len(paths):
                batch = to_input(torch.from_numpy(np.stack(group)))
                parts.append(model.network.features(batch).float().numpy())
                group = []
                progress(done, len(paths))
    return np.concatenate(parts)


def _structures(features: NDArray[np.float32], records: list[ImageRecord]) -> list[Structure]:
    """Each labelling that the data has, alone and crossed with the class."""
    distances = pairwise(features)
    component = [record.group_id for record in records]
    labels = {
        "class": [record.label for record in records],
        "acquisition": [record.acquisition_id for record in records],
        "patient": [record.patient_id for record in records],
    }
    there = {name: values for name, values in labels.items() if len({*values} - {""}) > 1}
    found = []
    for name, values in there.items():
        plain = neighbour_purity(distances, values, apart=[component])
        found.append(_structure(name, "", values, plain, silhouette(distances, values)))
        if name == "class" or "class" not in there:
            continue
        crossed = neighbour_purity(distances, labels["class"], apart=[component, values])
        found.append(_structure("class", OTHERS[name], labels["class"], crossed))
        within = neighbour_purity(distances, values, apart=[component], within=labels["class"])
        found.append(_structure(name, WITHIN, values, within))
    return [structure for structure in found if structure is not None]


def _structure(
    name: str, crossed: str, values: list[str], purity: Purity | None, score: float | None = None
) -> Structure | None:
    if purity is None:
        return None
    return Structure(
        labelling=name,
        crossed=crossed,
        groups=len({*values} - {""}),
        silhouette=score,
        purity=NeighbourPurity.model_validate(asdict(purity)),
        above_chance=purity.above_chance,
    )


def _verdict(structures: list[Structure]) -> str:
    """Which labelling the features follow, in a sentence; the crossed numbers decide."""
    sentences = []
    for name, noun in NOUNS.items():
        of_class = _above(structures, "class", OTHERS[name])
        of_group = _above(structures, name, WITHIN)
        if of_class is None or of_group is None:
            continue
        if max(of_class, of_group) < FOLLOWS:
            what = f"neither the class nor the {noun}"
        elif min(of_class, of_group) >= FOLLOWS:
            first, second = ("class", noun) if of_class >= of_group else (noun, "class")
            what = f"both, the {first} more than the {second}"
        else:
            what = f"the class, not the {noun}" if of_class > of_group else f"the {noun}"
            what += "" if of_class > of_group else ", not the class"
        sentences.append(
            f"The features follow {what}: with neighbours from other {noun}s only, the class is "
            f"{100 * of_class:.0f} % of the way from chance to best; among images of the same "
            f"class, the {noun} is {100 * of_group:.0f} % of the way."
        )
    return " ".join(sentences) or (
        "The test images of this fold do not tell whether the features follow the class, the "
        "patient or the acquisition: that takes classes with several patients, or acquisition "
        "clusters, of several images each."
    )


def _above(structures: list[Structure], name: str, crossed: str) -> float | None:
    rows = (s.above_chance for s in structures if (s.labelling, s.crossed) == (name, crossed))
    return next(rows, None)

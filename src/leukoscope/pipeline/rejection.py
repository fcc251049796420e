"""The gate of every fold, measured on its held-out images and on outliers made of them.

Outliers are made of a few images spread over the data set. In each fold, those whose image will
be tested measure the gate, and those of all other images choose its scores: no choice sees a
test image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import OutOfDistribution
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.files import read_csv, read_json, sha256_json, write_csv, write_json
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.core.records import Fold
from leukoscope.core.run_folder import OOD_COLUMNS, OOD_CSV, OOD_JSON, PREDICTIONS, RunFolder
from leukoscope.evaluation.gate import (
    GATE_SCORES,
    Gate,
    GateInputs,
    fit_gate,
    separation,
    set_threshold,
)
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.evaluation.statistics.intervals import Sampling, bootstrap_mean, bootstrap_metrics
from leukoscope.imaging.background import describe_appearance
from leukoscope.imaging.observation import Observation
from leukoscope.imaging.outliers import synthetic_outliers
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.pipeline.features.inputs import load_input
from leukoscope.pipeline.features.one_pass import NumberTable
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.folds import groups_of, unit_of
from leukoscope.pipeline.jobs import HELD_OUT, PartRows
from leukoscope.pipeline.results.entries import sampling

ACCEPT = 0.95
OUTLIER_IMAGES = 32  # in eight ways each; about as many passes as a twelfth of 3,000 images
FIT_IMAGES = 500  # the decomposition of more would take longer than a linear head
OUTLIERS = "outliers"
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class GateKeeper:
    """Fits and measures the gate of each fold of a recipe.

    Attributes:
        image_ids: Of the n images of the data.
        appearance: (n + m, A) of the images, then of m outliers.
        pixels: (m, S, S, 3) uint8 RGB of the outliers.
        source: (m,) row of the image that each was made of.
        kinds: (m,) in which way.
    """

    image_ids: tuple[str, ...]
    appearance: NDArray[np.float64]
    pixels: NDArray[np.uint8]
    source: NDArray[np.int64]
    kinds: NDArray[np.str_]

    @classmethod
    def of(cls, store: InputStore, recipe: Recipe, seed: int) -> GateKeeper:
        """Measure the appearance of all images, and make outliers of some."""
        spec, paths, records = recipe.preprocess, store.paths(), store.data.records

        def load(row: int) -> NDArray[np.uint8]:
            return load_input(paths[row], "image", spec, sha256=records[row].sha256)

        appearance = store.numbers(appearance_table(spec))
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.permutation(len(paths))[: min(OUTLIER_IMAGES, -(-len(paths) // 2))])
        source, kinds, pixels = make_outliers(np.stack([load(row) for row in rows]), seed)
        described = np.stack([describe_appearance(image) for image in pixels])
        ids = tuple(record.image_id for record in store.data.records)
        return cls(ids, np.concatenate([appearance, described]), pixels, rows[source], kinds)

    def parts(self, rows: PartRows) -> PartRows:
        """The rows whose features are needed: ``train`` thinned, ``val``, ``test``, ``outliers``.

        Outliers, numbered from n, are those of images of the fold.
        """
        used = np.isin(self.source, np.concatenate([rows[part] for part in ("train", *HELD_OUT)]))
        train = rows["train"][:: max(1, -(-len(rows["train"]) // FIT_IMAGES))]
        outliers = len(self.image_ids) + np.flatnonzero(used)
        return {"train": train, "val": rows["val"], "test": rows["test"], OUTLIERS: outliers}

    def extended(
        self, features: NDArray[np.float32], store: InputStore, recipe: Recipe, seed: int
    ) -> NDArray[np.float32]:
        """Features of the images and of the outliers (n + m, D) of a frozen network."""
        made = store.features(recipe, f"{OUTLIERS}-{seed}", seed, self.pixels)
        return np.concatenate([features, made])

    def shown(self, images: NDArray[np.uint8], rows: PartRows, part: str) -> NDArray[np.uint8]:
        """Pixels of one part of :meth:`parts`, where ``images`` (n, S, S, 3) are the data's."""
        if part == OUTLIERS:
            return self.pixels[rows[part] - len(images)]
        return images[rows[part]]

    def keep(self, folder: Path, rows: PartRows, seen: Mapping[str, tuple[Floats, Floats]]) -> None:
        """Fit the gate of a fold and write ``ood.csv`` and ``ood.json`` into the model's folder.

        Args:
            folder: The model's folder.
            rows: From :meth:`parts`.
            seen: For each part of them features (n, D) and logits (n, K); those of ``train``
                are not read.
        """
        parts = {part: GateInputs(self.appearance[rows[part]], *seen[part]) for part in rows}
        made = rows[OUTLIERS] - len(self.image_ids)
        tested, kinds = np.isin(self.source[made], rows["test"]), self.kinds[made]
        outliers = parts.pop(OUTLIERS)
        choosing = outliers.take(~tested)
        gate, record = fit_gate(
            parts["train"], parts["val"], choosing, kinds[~tested].tolist(), accept=ACCEPT
        )
        source, table = self.source[made], []
        for part, seen_of, of, kind in (
            ("val", parts["val"], rows["val"], None),
            ("test", parts["test"], rows["test"], None),
            ("val", choosing, source[~tested], kinds[~tested]),
            ("test", outliers.take(tested), source[tested], kinds[tested]),
        ):
            ids = [self.image_ids[row] for row in of]
            table += _table(gate, seen_of, ids, part, kind)
        write_csv(folder / OOD_CSV, OOD_COLUMNS, table)
        write_json(folder / OOD_JSON, record.model_dump(mode="json"))


def appearance_table(spec: PreprocessSpec) -> NumberTable:
    """The appearance of every image as a network sees it."""
    key = sha256_json(spec.model_dump(mode="json"))[:8]

    def described(seen: Observation) -> NDArray[np.float64]:
        return describe_appearance(apply_preprocess(seen.image, spec))

    return NumberTable(f"appearance-{key}", described)


def make_outliers(
    images: NDArray[np.uint8], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.uint8]]:
    """Outliers of preprocessed images (n, S, S, 3): row of the source, kind, and pixels of each."""
    made = list(synthetic_outliers(images, seed))
    rows, kinds, pixels = zip(*made, strict=True)
    return np.array(rows, np.int64), np.array(kinds), np.stack(pixels)


def _table(
    gate: Gate, seen: GateInputs, image_ids: list[str], part: str, kinds: NDArray[np.str_] | None
) -> list[dict[str, object]]:
    scores = gate.scores(seen)
    names = list(scores)
    stacked = np.stack([scores[name] for name in names])
    highest, decisive = stacked.max(axis=0), stacked.argmax(axis=0)
    return [
        {
            "image_id": image_id,
            "part": part,
            "outlier": "" if kinds is None else kinds[row],
            "score": f"{highest[row]:.6g}",
            "decided_by": names[decisive[row]],
            "accepted": int(highest[row] <= gate.threshold),
        }
        for row, image_id in enumerate(image_ids)
    ]


def rejection_metrics(
    run: RunFolder, folds: Sequence[Fold], config: StudyConfig
) -> list[dict[str, object]]:
    """Share of rejected test images and separation of outliers, by recipe and protocol.

    Returns:
        The entry ``ood`` of ``metrics.json``; nothing for recipes whose fits keep no gate.
    """
    found = []
    for recipe in config.recipes:
        for protocol in PROTOCOLS:
            of = [fold for fold in folds if fold.protocol == protocol]
            folders = [run.model(recipe.name, protocol, fold.fold) for fold in of]
            if of and all((folder / OOD_CSV).is_file() for folder in folders):
                entry = {"recipe": recipe.name, "protocol": protocol, "unit": unit_of(protocol, of)}
                found.append(entry | _measured(folders, groups_of(of)[protocol], config))
    return found


def _measured(
    folders: Sequence[Path], groups: Mapping[str, str], config: StudyConfig
) -> dict[str, object]:
    """Statistics of all folds of one protocol together."""
    every = [row for folder in folders for row in read_csv(folder / OOD_CSV, OOD_COLUMNS)]
    rows = [row for row in every if row["part"] == "test"]
    kinds = np.array([row["outlier"] for row in rows])
    score = np.array([float(row["score"]) for row in rows])
    rejected = np.array([row["accepted"] == "0" for row in rows])
    units = np.array([groups.get(row["image_id"], row["image_id"]) for row in rows])
    options = sampling(config)
    inside, gates = kinds == "", [read_json(folder / OOD_JSON) for folder in folders]
    right = _right(folders)
    names = [scale["name"] for gate in gates for scale in gate["scores"]]
    return {
        "n": int(inside.sum()),
        "n_groups": len(set(units[inside].tolist())),
        "n_outliers": int((~inside).sum()),
        "accept": ACCEPT,
        "least_n_val": min(gate["n_val"] for gate in gates),
        "rejected": bootstrap_mean(rejected[inside], groups=units[inside], **options).to_json(),
        "roc_auc": roc_auc(score[inside], score[~inside], units[inside], units[~inside], **options),
        "accuracy": {
            name: bootstrap_mean(
                [right[rows[i]["image_id"]] for i in chosen], groups=units[chosen], **options
            ).to_json()
            for name, chosen in (
                ("accepted", np.flatnonzero(inside & ~rejected)),
                ("rejected", np.flatnonzero(inside & rejected)),
            )
            if len(chosen)
        },
        "kinds": {
            kind: {
                "n": int((kinds == kind).sum()),
                "roc_auc": round(separation(score[inside], score[kinds == kind]), 6),
                "false_accept": round(float(1 - rejected[kinds == kind].mean()), 6),
            }
            for kind in sorted(set(kinds[~inside].tolist()))
        },
        "folds_using": {name: names.count(name) for name in GATE_SCORES},
        "folds": len(folders),
    }


def _right(folders: Sequence[Path]) -> dict[str, bool]:
    """Whether the class of each test image was predicted."""
    tables = [PredictionTable.load(folder / PREDICTIONS) for folder in folders]
    test = concatenate(tables).select(part="test")
    hits = test.probs.argmax(axis=1) == test.y_true
    return dict(zip(test.image_id.tolist(), hits.tolist(), strict=True))


def roc_auc(
    inside: NDArray[np.float64],
    outside: NDArray[np.float64],
    inside_groups: Sequence[str] | NDArray[np.str_],
    outside_groups: Sequence[str] | NDArray[np.str_],
    **options: Unpack[Sampling],
) -> dict[str, float | bool | None] | None:
    """Separation of outliers with an interval over resampled groups; None without outliers."""
    if len(outside) == 0 or len(inside) == 0:
        return None
    y = np.repeat([0, 1], [len(inside), len(outside)])
    ranks = np.unique(np.concatenate([inside, outside]), return_inverse=True)[1]
    p = ranks / max(1, ranks.max())
    groups = [*inside_groups, *outside_groups]
    probs = np.column_stack([1 - p, p])
    found = bootstrap_metrics(
        y, probs, ("known", "foreign"), groups=groups, names=["roc_auc"], **options
    )
    return found["roc_auc"].to_json()


def fit_bundle_gate(
    pixels: Mapping[str, NDArray[np.uint8]],
    outputs: Mapping[str, Mapping[str, NDArray[np.float32]]],
    run_graph: Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.float32]]],
    seed: int,
    unseen: tuple[Floats, Floats] | None = None,
) -> tuple[Gate, OutOfDistribution]:
    """The gate of a bundle, fitted on what its own graph gives.

    Args:
        pixels: Preprocessed images of the parts ``train`` (thinned) and ``val``.
        outputs: ``features`` and ``logits`` of the same.
        run_graph: For the outliers, which are made of validation images.
        seed: Of the outliers.
        unseen: Scores (n,) that the gates of the folds gave their test images, and weights (n,);
            they set the threshold. None where there are none: validation images then do.
    """

    def seen(images: NDArray[np.uint8], found: Mapping[str, NDArray[np.float32]]) -> GateInputs:
        described = np.stack([describe_appearance(image) for image in images])
        return GateInputs(described, found["features"], found["logits"])

    val = pixels["val"]
    step = max(1, len(val) // OUTLIER_IMAGES)
    _, kinds, made = make_outliers(val[::step][:OUTLIER_IMAGES], seed)
    train, val_seen = (seen(pixels[part], outputs[part]) for part in ("train", "val"))
    outliers, names = seen(made, run_graph(made)), kinds.tolist()
    gate, record = fit_gate(train, val_seen, outliers, names, accept=ACCEPT)
    if unseen is None:
        return gate, record
    return set_threshold(gate, record, *unseen, outliers, names)

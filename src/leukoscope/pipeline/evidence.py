"""What the verdict needs beside the predictions: the negative control, inapplicable probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.passport import Passport
from leukoscope.config.recipe import LinearHeadTraining, Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, sha256_json, write_json
from leukoscope.core.protocols import strictest
from leukoscope.core.records import Fold
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.evaluation.statistics.metrics import weighted_metrics
from leukoscope.pipeline.features.one_pass import SEEN
from leukoscope.pipeline.features.patient_store import Store
from leukoscope.pipeline.folds import ProtocolPlan
from leukoscope.pipeline.inapplicable import inapplicable_probes, picture_scale
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.linear_fits import Beside, linear_logits, read_beside
from leukoscope.pipeline.probes import probe_recipe
from leukoscope.pipeline.progress import Progress
from leukoscope.pipeline.results.shortcut_summary import Evidence

IntArray = NDArray[np.int64]
METRIC: Final = "roc_auc"
CHANCE: Final = 0.5
CONFIDENCE: Final = 0.99  # of the mean over draws: a study must not fail by bad luck
_ATTEMPTS: Final = 100


def negative_control(
    store: Store, plan: ProtocolPlan, config: StudyConfig, progress: Progress
) -> dict[str, object]:
    """The entry ``control`` of ``metrics.json``; what an earlier run wrote is read.

    The classifier is the study's first recipe where that is a linear head on frozen features,
    else the plain one of the probes: training a network several times on wrong labels would cost
    more than the study itself.

    Returns:
        ``protocol``, ``recipe``, ``metric``, ``chance``, ``draws`` (one value each), their mean
        as ``value`` with 99 % limits ``low`` and ``high``, and ``passed``; or ``reason`` where no
        control could be run.
    """
    protocol = strictest(plan.names)
    if not config.control_draws or protocol is None:
        return {"reason": "no negative control was asked for"}
    folds, recipe = plan.of(protocol), control_recipe(config)
    key = sha256_json(
        [recipe.model_dump(mode="json"), [fold.parts for fold in folds], config.seed,
         config.control_draws, [record.sha256 for record in store.data.records]]
    )  # fmt: skip
    path = store.run.cache / "control" / f"{key[:16]}.json"
    if path.is_file():
        try:
            found: dict[str, object] = read_json(path)
            return found
        except DataError:
            path.unlink()
    with progress.step("negative control") as tell:
        features = store.features(recipe, "image", config.seed)
        beside = read_beside(store, recipe, config.seed)
        draws: list[float] = []
        for number in range(config.control_draws):
            y = dealt_labels(store.data, folds, config.seed + number)
            if y is None:
                return {
                    "protocol": protocol,
                    "reason": "the groups are too few to deal labels so that every fold can be "
                    "trained",
                }
            draws.append(_draw(recipe, features, store.data, y, folds, beside))
            tell(number + 1, config.control_draws)
    entry = {"protocol": protocol, "recipe": recipe.name, **control_summary(draws)}
    write_json(path, entry)
    return entry


def control_recipe(config: StudyConfig) -> Recipe:
    """What is fitted on wrong labels; without degraded copies, which are of training images."""
    first = config.recipes[0]
    if not isinstance(first.training, LinearHeadTraining) or first.inner_folds:
        first = probe_recipe(config)
    alone = first.training.model_copy(update={"degraded": (), "copy_penalty": 0.0})
    return first.model_copy(update={"training": alone})


def control_summary(draws: Sequence[float]) -> dict[str, object]:
    """Mean of the draws with t limits, and whether it lies at chance.

    It passes unless the lower limit lies above chance; limits that reach above 0.75 have not
    looked closely enough to pass either, and ``passed`` is then None.

    >>> control_summary([0.5, 0.48, 0.52, 0.51, 0.49])["passed"]
    True
    >>> control_summary([0.9, 0.88, 0.92, 0.91, 0.89])["passed"]
    False
    """
    from scipy.stats import t

    values = np.asarray(draws, np.float64)
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    half = float(t.ppf((1 + CONFIDENCE) / 2, max(1, len(values) - 1))) * spread
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    passed: bool | None = bool(low <= CHANCE)
    if passed and high > 0.75:
        passed = None
    return {
        "metric": METRIC,
        "chance": CHANCE,
        "draws": [round(float(v), 6) for v in values],
        "value": round(mean, 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "passed": passed,
    }


def dealt_labels(data: Labelled, folds: Sequence[Fold], seed: int) -> IntArray | None:
    """(n,) labels of the data with those of whole groups exchanged at random.

    A group whose images have several classes (an acquisition cluster can) counts as its most
    frequent one. Deals that leave a fold without training images of a class are drawn again;
    None where a hundred of them do.
    """
    units = folds[0].units(record.image_id for record in data.records)
    member = np.unique(units, return_inverse=True)[1]
    k = len(data.class_names)
    counts = np.zeros((int(member.max()) + 1, k), np.int64)
    np.add.at(counts, (member, data.y), 1)
    own = counts.argmax(axis=1)
    if len(np.unique(own)) < k:  # a class that is nowhere the most frequent one
        own = np.arange(len(own)) % k
    train = [data.rows(fold, "train") for fold in folds]
    test = np.unique(np.concatenate([data.rows(fold, "test") for fold in folds]))
    rng = np.random.default_rng([seed, 7])
    for _ in range(_ATTEMPTS):
        y = rng.permutation(own)[member].astype(np.int64)
        if all(len(np.unique(y[rows])) == k for rows in (*train, test)):
            return y
    return None


def _draw(
    recipe: Recipe,
    features: NDArray[np.float32],
    data: Labelled,
    y: IntArray,
    folds: Sequence[Fold],
    beside: Beside,
) -> float:
    """Area under the curve over the test images of all folds, fitted and tested on ``y``."""
    records = zip(data.records, y, strict=True)
    wrong = Labelled(
        tuple(replace(record, label=data.class_names[label]) for record, label in records),
        data.class_names,
    )
    truth, probs = [], []
    for fold in folds:
        rows: Mapping[str, IntArray] = {p: data.rows(fold, p) for p in ("train", "val", "test")}
        logits = linear_logits(recipe, features, wrong, rows, beside)["test"]
        truth.append(y[rows["test"]])
        probs.append(softmax(logits))
    stacked, prob = np.concatenate(truth), np.concatenate(probs)
    one = np.ones((1, len(stacked)))
    return float(weighted_metrics(stacked, prob, data.class_names, one, [METRIC])[METRIC][0])


def gather_evidence(
    store: Store,
    plan: ProtocolPlan,
    config: StudyConfig,
    passport: Passport,
    progress: Progress,
) -> Evidence:
    """What was measured of the data and of the pipeline; fits the negative control."""
    bare = np.flatnonzero(store.images.numbers(SEEN)[:, 1] == 0)
    return Evidence(
        inapplicable=inapplicable_probes(config, passport, store.images),
        partners=store.partner_classes(config.seed),
        without_leukocyte=frozenset(store.images.data.records[row].image_id for row in bare),
        control=negative_control(store, plan, config, progress),
        data_errors=data_errors(passport),
        scale=picture_scale(store.images, config).to_json()
        if "grain-only" in config.probes
        else None,
    )


def data_errors(passport: Passport) -> list[str]:
    """Sentences of the audit's errors: label conflicts, parts that leak."""
    return [row["text"] for row in passport["findings"] if row["level"] == "error"]

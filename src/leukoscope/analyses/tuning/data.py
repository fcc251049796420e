"""What a tuning may see, and the value of one configuration on it.

The test and calibration images are not in here at all: neither their pixels nor their labels can
reach a trial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import GradientTraining, LinearHeadTraining, Recipe
from leukoscope.config.study import SplitConfig, StudyConfig
from leukoscope.config.tuning_space import TuneConfig
from leukoscope.core.errors import DataError
from leukoscope.core.files import sha256_json, write_csv
from leukoscope.core.records import Fold, Manifest
from leukoscope.core.run_folder import HISTORY
from leukoscope.datasets.audit.run import Audit
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.evaluation.statistics.leaderboard import LeaderboardCriterion
from leukoscope.evaluation.statistics.metrics import HISTORY_METRICS, compute_metrics
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.fitting import HEAD_HISTORY, job_seed
from leukoscope.pipeline.folds import plan_protocols
from leukoscope.pipeline.inner_folds import member_recipe
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.linear_fits import fit_head, read_beside
from leukoscope.pipeline.progress import Tell

Rows = NDArray[np.int64]
# (step, value so far) → whether to end the trial there
Report = Callable[[int, float], bool]


class PrunedTrial(Exception):  # noqa: N818 - not an error
    """Ends a trial because others were better at the same step."""


@dataclass(frozen=True)
class TuningData:
    """The train and val images of a hold-out, and nothing else.

    Attributes:
        manifest: Their records and folder.
        data: The same records; every array follows their order.
        folds: ``(train rows, val rows)`` of each fold.
        protocol: How the images were held out.
        groups: For each image the group that must not be split.
    """

    manifest: Manifest
    data: Labelled
    folds: tuple[tuple[Rows, Rows], ...]
    protocol: str
    groups: tuple[str, ...]

    @property
    def val_rows(self) -> Rows:
        """Rows of the validation images of all folds, one fold after the other."""
        return np.concatenate([val for _, val in self.folds])

    @property
    def sha256(self) -> str:
        """Hash of the images' contents, labels and folds."""
        images = [(record.sha256, record.label) for record in self.data.records]
        places = [[part.tolist() for part in fold] for fold in self.folds]
        return sha256_json([images, places, self.data.class_names])


def hold_out(found: Audit, study: StudyConfig) -> Fold:
    """The single fold that sets ``cal`` and ``test`` aside.

    Raises:
        DataError: The protocol does not apply, or its test parts cover every image.
    """
    plan = plan_protocols(found.manifest, found, study)
    if not plan.folds:
        reason = plan.inapplicable[0]["reason"]
        raise DataError(f"the protocol {study.protocols[0]} does not apply: {reason}")
    if len(plan.folds) > 1:
        raise DataError(
            f"the protocol {study.protocols[0]} has {len(plan.folds)} folds of its own, which "
            "together test every image: none would be left to test the tuned recipe on",
            hint="tune with --protocol grouped or deduplicated",
        )
    return plan.folds[0]


def tuning_data(found: Audit, config: TuneConfig, fold: Fold) -> TuningData:
    """Take the train and val images of ``fold``, split again as ``config.folds`` says.

    Raises:
        SplitError: They cannot be split into so many folds.
    """
    manifest = found.manifest.with_images(
        record
        for record in found.manifest.usable
        if fold.parts[record.image_id] in ("train", "val")
    )
    data = Labelled(manifest.usable, found.manifest.class_names, config.study.data.roles)
    if config.folds == 1:
        folds = [(data.rows(fold, "train"), data.rows(fold, "val"))]
    else:
        folds = [_as_two(data, inner) for inner in _inner_folds(manifest, found, config)]
    if not all(len(val) for _, val in folds):
        raise DataError("a tuning needs validation images, and there are none")
    groups = tuple(fold.groups.get(r.image_id, r.image_id) for r in data.records)
    return TuningData(manifest, data, tuple(folds), fold.protocol, groups)


def _inner_folds(manifest: Manifest, found: Audit, config: TuneConfig) -> Sequence[Fold]:
    study = config.study
    protocol = study.protocols[0]
    splits = SplitConfig.model_validate(study.splits.model_dump() | {"folds": config.folds})
    if protocol == "given":  # the data's own parts cannot be divided further
        named = all(record.patient_id for record in manifest.usable)
        protocol = "grouped" if named else "deduplicated"
    inner = study.model_copy(update={"protocols": (protocol,), "splits": splits})
    plan = plan_protocols(manifest, found, inner)
    if len(plan.folds) < 2:
        reason = plan.inapplicable[0]["reason"] if plan.inapplicable else "too few groups"
        raise DataError(
            f"the train and val images cannot be divided into {config.folds} folds: {reason}",
            hint="tune with --folds 1",
        )
    return plan.folds


def _as_two(data: Labelled, fold: Fold) -> tuple[Rows, Rows]:
    """Train and val rows of an inner fold: its test part validates, the rest trains."""
    parts = [data.rows(fold, part) for part in ("train", "val", "cal")]
    return np.sort(np.concatenate(parts)), data.rows(fold, "test")


@dataclass
class ConfigurationScorer:
    """Fits configurations and measures them on the validation images.

    Attributes:
        tuning: The images.
        store: Keeps features between trials, and between processes.
        name: Name of the tuned recipe; with the seed it decides the seed of each fold, which is the
            same in all trials and in a later study of that recipe.
        seed: The study's seed.
    """

    tuning: TuningData
    store: InputStore
    name: str
    seed: int
    _pixels: tuple[str, NDArray[np.uint8]] | None = field(default=None, repr=False)

    def score(
        self, recipe: Recipe, folder: Path, report: Report, tell: Tell
    ) -> tuple[float, NDArray[np.float64]]:
        """Fit ``recipe`` on every fold.

        ``report`` gets (step, value so far) and ends the trial by returning True; the history of
        each fold is written to ``folder``.

        Returns:
            The mean of the criterion over the folds, and the (n_val, K) probabilities of
            ``tuning.val_rows``.

        Raises:
            PrunedTrial: ``report`` returned True.
            TrainingError: The optimisation failed.
        """
        data, linear = self.tuning.data, isinstance(recipe.training, LinearHeadTraining)
        values: list[float] = []
        probs: list[NDArray[np.float64]] = []
        for number, (train, val) in enumerate(self.tuning.folds):
            target = folder / f"fold{number}"
            if linear:
                logits = self._linear(recipe, train, val, target)
            else:
                logits = self._gradient(recipe, number, target, values, report, tell)
            probs.append(softmax(logits))
            values.append(
                compute_metrics(data.y[val], probs[-1], data.class_names)[criterion_of(recipe)]
            )
            if linear and len(self.tuning.folds) > 1:
                tell(number + 1, len(self.tuning.folds))
                hopeless = report(number + 1, float(np.mean(values)))
                if hopeless and number + 1 < len(self.tuning.folds):
                    raise PrunedTrial
        return float(np.mean(values)), np.concatenate(probs)

    def _linear(self, recipe: Recipe, train: Rows, val: Rows, out: Path) -> NDArray[np.float64]:
        assert isinstance(recipe.training, LinearHeadTraining)
        from filelock import FileLock

        # Another process may be computing them: waiting is cheaper than doing it twice.
        self.store.run.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(self.store.run.cache / "features.lock"):
            features = self.store.features(recipe, "image", self.seed)
            beside = read_beside(self.store, recipe, self.seed)
        data = self.tuning.data
        rows = {"train": train, "val": val}
        head = fit_head(member_recipe(recipe), features, data, rows, beside)
        write_csv(out / HISTORY, HEAD_HISTORY, head.history)
        return head.logits(features[val])

    def _gradient(
        self,
        recipe: Recipe,
        number: int,
        out: Path,
        before: Sequence[float],
        report: Report,
        tell: Tell,
    ) -> NDArray[np.float64]:
        from leukoscope.learning.backbones import build_network
        from leukoscope.learning.batches import ImageSet
        from leukoscope.learning.features import predict_logits
        from leukoscope.learning.trainer import train_gradient

        assert isinstance(recipe.training, GradientTraining)
        data, pixels = self.tuning.data, self._all_pixels(recipe)
        rows_of = self.tuning.folds[number]
        train, val = (
            ImageSet(
                pixels[rows],
                data.y[rows],
                tuple(data.records[row].path for row in rows),
                tuple(data.records[row].patient_id for row in rows),
            )
            for rows in rows_of
        )
        seed = job_seed(self.seed, self.name, self.tuning.protocol, number)
        network = build_network(
            recipe.model,
            num_classes=len(data.class_names),
            size_px=recipe.preprocess.size_px,
            seed=seed,
        )
        last = number + 1 == len(self.tuning.folds)
        hook = _Epochs(recipe.training, number, last, before, report)
        train_gradient(
            network,
            recipe,
            train,
            val,
            out,
            seed=seed,
            class_names=data.class_names,
            roles=data.roles,
            resume=False,
            progress=self._share(number, tell),
            epoch_end=hook,
        )
        if hook.pruned:
            raise PrunedTrial
        return predict_logits(network, pixels[rows_of[1]], recipe.preprocess)

    def _share(self, number: int, tell: Tell) -> Tell:
        folds = len(self.tuning.folds)
        return lambda done, total: tell(number * total + done, folds * total)

    def _all_pixels(self, recipe: Recipe) -> NDArray[np.uint8]:
        """The pixels of all images; those of the latest preprocessing stay in memory."""
        key = sha256_json(recipe.preprocess.model_dump(mode="json"))
        if self._pixels is None or self._pixels[0] != key:
            self._pixels = None  # before the next are read: both might not fit
            self._pixels = (key, self.store.pixels(recipe))
        return self._pixels[1]


@dataclass
class _Epochs:
    """Reports after each epoch the best value so far, averaged with those of earlier folds."""

    training: GradientTraining
    fold: int
    last_fold: bool
    before: Sequence[float]
    report: Report
    best: float | None = None
    pruned: bool = False

    def __call__(self, epoch: int, row: dict[str, float]) -> bool:
        value = row[self.training.keep_best]
        better = min if self.training.keep_best == "val_loss" else max
        self.best = value if self.best is None else better(self.best, value)
        step = self.fold * self.training.epochs + epoch
        hopeless = self.report(step, float(np.mean([*self.before, self.best])))
        finished = self.last_fold and epoch == self.training.epochs  # nothing is left to save
        self.pruned = hopeless and not finished
        return self.pruned


def criterion_of(recipe: Recipe) -> LeaderboardCriterion:
    """The metric that compares the trials of a recipe; for linear heads the log loss."""
    training = recipe.training
    return HISTORY_METRICS[
        training.keep_best if isinstance(training, GradientTraining) else "val_loss"
    ]

"""How far probabilities, prediction sets and thresholds keep their promise, for ``metrics.json``.

Everything is fitted on the ``cal`` part of each fold and measured on its ``test`` part; what is
chosen among is compared on ``val``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import Calibration, Conformal, SetGuarantee, SetScore
from leukoscope.config.study import StudyConfig
from leukoscope.core.records import Fold
from leukoscope.evaluation.calibration import apply_calibration, fit_calibration, fit_temperature
from leukoscope.evaluation.calibration_error import calibration_measures
from leukoscope.evaluation.conformal import (
    expected_coverage,
    fewest_for,
    fit_sets,
    hits,
    prediction_sets,
)
from leukoscope.evaluation.intervals import bootstrap_mean
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.selective import aurc, risk_coverage
from leukoscope.evaluation.softmax import softmax
from leukoscope.study.protocols import unit_of

ANSWERED = (0.5, 0.8, 0.9, 0.95, 1.0)  # shares of the images at which the risk is written down
# What images can be told apart by, whatever the protocol: a partition and its protocol.
PARTITIONS: Mapping[str, str] = {"patient": "grouped", "acquisition cluster": "acquisition"}


@dataclass(frozen=True)
class FoldResults:
    """One recipe under one protocol, fold by fold.

    Attributes:
        protocol: Its name.
        folds: Parts and units of each fold.
        val: Predictions of each fold's ``val`` part.
        cal: Of the ``cal`` part.
        test: Of the ``test`` part.
        config: Replicates, confidence, coverage, seed.
    """

    protocol: str
    folds: tuple[Fold, ...]
    val: tuple[PredictionTable, ...]
    cal: tuple[PredictionTable, ...]
    test: tuple[PredictionTable, ...]
    config: StudyConfig

    @classmethod
    def of(
        cls, table: PredictionTable, folds: Sequence[Fold], recipe: str, protocol: str,
        config: StudyConfig,
    ) -> FoldResults:  # fmt: skip
        """Sort out the rows of a recipe and a protocol."""
        rows = table.select(recipe=recipe, protocol=protocol, input="image")
        numbers = set(rows.select(part="test").fold.tolist())
        own = [f for f in folds if f.protocol == protocol and f.fold in numbers]
        parts = {
            part: tuple(rows.select(fold=fold.fold, part=part) for fold in own)
            for part in ("val", "cal", "test")
        }
        return cls(protocol, tuple(own), **parts, config=config)

    @property
    def y(self) -> NDArray[np.int64]:
        """(n,) true classes of the test images, fold after fold."""
        return np.concatenate([t.y_true for t in self.test])

    @property
    def probs(self) -> NDArray[np.float64]:
        """(n, K) their calibrated probabilities."""
        return np.concatenate([t.probs for t in self.test])

    @property
    def units(self) -> list[str]:
        """(n,) what an interval of this protocol resamples."""
        return [u for f, t in zip(self.folds, self.test, strict=True) for u in _units(f, t)]

    @property
    def options(self) -> dict[str, Any]:
        """Of every bootstrap."""
        config = self.config
        return {
            "groups": self.units,
            "replicates": config.bootstrap,
            "confidence": config.confidence,
            "seed": config.seed,
        }

    def fit(self, score: SetScore, guarantee: SetGuarantee) -> list[Conformal]:
        """Thresholds of each fold."""
        return [
            fit_sets(
                t.probs, t.y_true, self.config.coverage, score=score, guarantee=guarantee,
                groups=_units(f, t) if guarantee == "group" else None,
            )
            for f, t in zip(self.folds, self.cal, strict=True)
        ]  # fmt: skip


def calibration_entry(tested: FoldResults, recipe: str) -> dict[str, Any]:
    """Which scaling serves in each fold, and every calibration measure before and after."""
    records = _served(tested)
    logits = np.concatenate([t.logits for t in tested.test])
    options = tested.options
    found = calibration_measures(tested.y, tested.probs, softmax(logits), **options)
    return {
        "recipe": recipe,
        "protocol": tested.protocol,
        "n": len(tested.y),
        "n_groups": len(set(options["groups"])),
        "n_cal": [record.n_cal for record in records],
        "methods": [record.method for record in records],
        "temperature": [round(record.temperature, 4) for record in records],
        **{k: {name: v.to_json() for name, v in values.items()} for k, values in found.items()},
    }


def decision_entries(
    tests: Sequence[FoldResults], recipe: str, partitions: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Prediction sets, what may be promised, and what an order by confidence is worth.

    Args:
        tests: The recipe under each protocol.
        recipe: Its name.
        partitions: ``patient``, ``acquisition cluster`` → image id → group, where known.
    """
    if not tests:
        return {"recipe": recipe}
    config = tests[0].config
    sets = {t.protocol: _sets(t, partitions) for t in tests}
    return {
        "recipe": recipe,
        "method": {"score": config.set_score, "guarantee": config.set_guarantee},
        "temperature": {
            t.protocol: [round(fit_temperature(c.logits, c.y_true), 4) for c in t.cal]
            for t in tests
        },
        "coverage": {
            "nominal": config.coverage,
            "protocol": {name: entry["coverage"] for name, entry in sets.items()},
        },
        "mean_set_size": {"protocol": {name: entry["size"] for name, entry in sets.items()}},
        "sets": sets,
        "promises": {t.protocol: _promises(t) for t in tests},
        "candidates": {t.protocol: _candidates(t) for t in tests},
        "selective": {t.protocol: _selective(t) for t in tests},
    }


def _units(fold: Fold, table: PredictionTable) -> list[str]:
    return fold.units(table.image_id.tolist())


def _served(tested: FoldResults) -> list[Calibration]:
    """The calibration behind the stored probabilities (those of older runs know no vectors)."""
    records = []
    for fold, cal in zip(tested.folds, tested.cal, strict=True):
        record = fit_calibration(cal.logits, cal.y_true, _units(fold, cal))
        if not np.allclose(apply_calibration(cal.logits, record), cal.probs, rtol=0, atol=1e-6):
            record = Calibration(temperature=record.temperature, n_cal=record.n_cal)
        records.append(record)
    return records


def _apply(records: Sequence[Conformal], tables: Sequence[PredictionTable]) -> NDArray[np.bool_]:
    pairs = zip(records, tables, strict=True)
    return np.concatenate([prediction_sets(t.probs, record) for record, t in pairs])


def _sets(tested: FoldResults, partitions: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The sets that serve: coverage, size, and both by class, patient and cluster."""
    config, options = tested.config, tested.options
    sets = _apply(tested.fit(config.set_score, config.set_guarantee), tested.test)
    held, size, y = hits(sets, tested.y), sets.sum(axis=1), tested.y
    single = size == 1
    coverage = bootstrap_mean(held, y_true=y, **options).to_json()
    attained = _attained(tested, config.set_guarantee)
    if not attained["attainable"]:  # the sets hold every class: nothing was measured
        coverage = dict.fromkeys(coverage) | {"reliable": False}
    gap = {
        key: None if coverage[key] is None else coverage[key] - config.coverage
        for key in ("value", "low", "high")
    }
    everyone = np.ones(len(y), dtype=bool)
    by_image = config.set_guarantee == "marginal"
    names = tested.test[0].class_names
    return {
        "n": len(y),
        "n_cal": [len(t) for t in tested.cal],
        "group_unit": unit_of(tested.protocol),
        "coverage": coverage,
        "gap": {**gap, "reliable": coverage["reliable"]},
        "expected": _expected(tested, everyone) if by_image else None,
        "size": bootstrap_mean(size, **options).to_json(),
        "empty": float((size == 0).mean()),
        "single": float(single.mean()),
        "single_wrong": float((~held[single]).mean()) if single.any() else None,
        "by_class": [
            {"class": name, **_part(tested, y == k, held, size, class_index=k)}
            for k, name in enumerate(names)
            if (y == k).any()
        ],
        "by_unit": {
            unit: _by_unit(tested, mapping, held, size) for unit, mapping in partitions.items()
        },
        "seen": {
            unit_of(tested.protocol): _seen(tested, None),
            **{unit: _seen(tested, mapping) for unit, mapping in partitions.items()},
        },
    }


def _part(
    tested: FoldResults,
    rows: NDArray[np.bool_],
    held: NDArray[np.bool_],
    size: NDArray[np.int64],
    class_index: int | None = None,
) -> dict[str, Any]:
    """Coverage and size on some of the test images, and where the coverage should lie."""
    of_class = class_index if tested.config.set_guarantee == "class" else None
    by_group = tested.config.set_guarantee == "group"
    return {
        "n": int(rows.sum()),
        "coverage": float(held[rows].mean()),
        "expected": None if by_group else _expected(tested, rows, of_class),
        "size": float(size[rows].mean()),
    }


def _expected(
    tested: FoldResults, rows: NDArray[np.bool_], of_class: int | None = None
) -> list[float]:
    """Beta-binomial limits of the coverage of ``rows`` if they were like the calibration images."""
    fold = np.repeat(np.arange(len(tested.test)), [len(t) for t in tested.test])
    m = np.bincount(fold[rows], minlength=len(tested.test)).tolist()
    n = [len(t) if of_class is None else int((t.y_true == of_class).sum()) for t in tested.cal]
    pairs = [pair for pair in zip(n, m, strict=True) if pair[1]]
    config = tested.config
    return list(expected_coverage(pairs, config.coverage, confidence=config.confidence))


def _by_unit(
    tested: FoldResults,
    mapping: Mapping[str, str],
    held: NDArray[np.bool_],
    size: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Every patient or cluster, the worst covered first."""
    ids = [image_id for t in tested.test for image_id in t.image_id.tolist()]
    groups = np.array([mapping.get(image_id, "") for image_id in ids])
    rows = [
        {"group": name, **_part(tested, groups == name, held, size)}
        for name in sorted(set(groups.tolist()) - {""})
    ]
    return sorted(rows, key=lambda row: (row["coverage"], row["group"]))


def _seen(tested: FoldResults, mapping: Mapping[str, str] | None) -> dict[str, float]:
    """Share of the cal and of the test images whose patient, cluster … was trained on, too."""
    known: dict[str, list[bool]] = {"cal": [], "test": []}
    for fold in tested.folds:
        own = fold.groups if mapping is None else mapping
        trained = {own.get(i, i) for i in fold.ids("train")}
        for part, found in known.items():
            found += [own.get(i, i) in trained for i in fold.ids(part)]
    return {part: float(np.mean(found)) for part, found in known.items()}


def _attained(tested: FoldResults, guarantee: SetGuarantee) -> dict[str, Any]:
    """How many images or groups a guarantee rests on in its thinnest fold, and needs."""
    k = len(tested.test[0].class_names)
    counts = []
    for fold, cal in zip(tested.folds, tested.cal, strict=True):
        if guarantee == "group":
            counts.append(len(set(_units(fold, cal))))
        elif guarantee == "class":
            counts.append(int(np.bincount(cal.y_true, minlength=k).min()))
        else:
            counts.append(len(cal))
    n, needed = min(counts), fewest_for(tested.config.coverage)
    return {"n": n, "needed": needed, "attainable": n >= needed}


def _promises(tested: FoldResults) -> list[dict[str, Any]]:
    """Each guarantee: whether the calibration images suffice, and what it gives on test.

    The last one, by class for new groups, is only counted: its sets are not made.
    """
    rows: list[dict[str, Any]] = []
    for guarantee in get_args(SetGuarantee):
        row = {"guarantee": guarantee, **_attained(tested, guarantee)}
        if row["attainable"]:
            sets = _apply(tested.fit(tested.config.set_score, guarantee), tested.test)
            held, options = hits(sets, tested.y), tested.options
            row["coverage"] = bootstrap_mean(held, y_true=tested.y, **options).to_json()
            row["size"] = float(sets.sum(axis=1).mean())
            if guarantee == "class":
                row["lowest_class"] = min(
                    float(held[tested.y == k].mean()) for k in np.unique(tested.y)
                )
        rows.append(row)
    thinnest = min(
        len({u for u, y in zip(_units(f, t), t.y_true.tolist(), strict=True) if y == k})
        for f, t in zip(tested.folds, tested.cal, strict=True)
        for k in range(len(t.class_names))
    )
    needed = fewest_for(tested.config.coverage)
    both = {"n": thinnest, "needed": needed, "attainable": thinnest >= needed}
    return [*rows, {"guarantee": "class and group", **both}]


def _candidates(tested: FoldResults) -> list[dict[str, Any]]:
    """Each score and guarantee measured on ``val``, so that one can be chosen."""
    rows = []
    y = np.concatenate([t.y_true for t in tested.val])
    guarantees: tuple[SetGuarantee, ...] = ("marginal", "class")
    for score, guarantee in product(get_args(SetScore), guarantees):
        sets = _apply(tested.fit(score, guarantee), tested.val)
        size, held = sets.sum(axis=1), hits(sets, y)
        rows.append(
            {
                "score": score,
                "guarantee": guarantee,
                "n": len(y),
                "coverage": float(held.mean()),
                "lowest_class": min(float(held[y == k].mean()) for k in np.unique(y)),
                "size": float(size.mean()),
                "single": float((size == 1).mean()),
                "empty": float((size == 0).mean()),
            }
        )
    return rows


def _selective(tested: FoldResults) -> dict[str, Any]:
    """Area under the risk–coverage curve, and the risk where some images are left unanswered."""
    probs = tested.probs
    confidence, wrong = probs.max(axis=1), probs.argmax(axis=1) != tested.y
    options = tested.options
    area, excess = aurc(confidence, wrong, level=options.pop("confidence"), **options)
    share, risk = risk_coverage(confidence, wrong)
    at = np.minimum(np.searchsorted(share, np.array(ANSWERED) - 1e-9), len(share) - 1)
    return {
        "aurc": area.to_json(),
        "excess_aurc": excess.to_json(),
        "risk_at": dict(zip(map(str, ANSWERED), risk[at].tolist(), strict=True)),
    }

"""How far probabilities, prediction sets and thresholds hold, for ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import Conformal, SetGuarantee, SetScore
from leukoscope.config.guarantees import OperatingTarget, fewest_for, parse_operating_point
from leukoscope.config.metrics.results import Estimate
from leukoscope.core.labels import without_sides
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.evaluation.calibration.conformal import (
    covered,
    expected_coverage,
    fill_empty,
    prediction_sets,
)
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.hierarchy import BRANCHES
from leukoscope.evaluation.statistics.intervals import (
    Interval,
    bootstrap_mean,
    bootstrap_metrics,
    proportion_interval,
)
from leukoscope.evaluation.statistics.thresholds import (
    ChosenThreshold,
    aurc,
    choose_threshold,
    net_benefit,
    risk_coverage,
)
from leukoscope.pipeline.results.entries import FoldResults, sampling, units_of

ANSWERED = (0.5, 0.8, 0.9, 0.95, 1.0)  # shares of the images at which the risk is written down
# What images can be told apart by, whatever the protocol: a partition and its protocol.
PARTITIONS: Mapping[str, str] = {PROTOCOLS[n].unit: n for n in ("grouped", "acquisition")}


def fit_point(
    probs: NDArray[np.float64],
    y: NDArray[np.int64],
    mask: NDArray[np.bool_],
    target: OperatingTarget,
    patients: Sequence[str] | None,
    weights: NDArray[np.float64] | None = None,
) -> ChosenThreshold:
    """The threshold that calibration images support.

    Args:
        probs: (n, K) calibrated probabilities of the ``cal`` part.
        y: (n,) class indices.
        mask: (K,) malignant classes.
        target: What was asked for.
        patients: (n,) ids, needed where the target is about patients.
        weights: (n,) what each image counts for where it is about images.
    """
    ill = mask[y]
    own = None
    if target.unit == "patient" and patients is not None:
        own = np.asarray(patients)[ill]
    counts = None if weights is None else weights[ill]
    return choose_threshold(probs[ill][:, mask].sum(axis=1), target, own, counts)


def refusal(point: ChosenThreshold, target: OperatingTarget) -> str:
    """Why there is no threshold, and how many images or patients would be needed.

    >>> target = parse_operating_point("miss at most 1 % of malignant fields, with 95 % confidence")
    >>> found = ChosenThreshold(None, 275, 0, 0.0108, 299)
    >>> refusal(found, target)  # doctest: +NORMALIZE_WHITESPACE
    'Not attainable with 275 malignant calibration fields: even with none of them missed, up to
    1.08 % might be; 299 are needed.'
    """
    return (
        f"Not attainable with {point.n} malignant calibration {target.noun}: even with none of "
        f"them missed, up to {100 * point.bound:.3g} % might be; {point.needed} are needed."
    )


def operating_entry(
    tests: Sequence[FoldResults], words: str, patients: Mapping[str, str] | None
) -> dict[str, object]:
    """``decisions.operating_point`` of ``metrics.json``.

    ``words`` may be empty; ``patients``: image id → patient, None where unknown.
    """
    if not tests:
        return {"words": words, "inapplicable": "nothing was tested"}
    mask = tests[0].malignant
    if mask is None:
        roles = tests[0].config.data.roles
        return {"words": words, "inapplicable": without_sides(tests[0].class_names, roles)}
    if not words:
        counts = {t.protocol: min(int(mask[c.y_true].sum()) for c in t.cal) for t in tests}
        return {"words": "", "n": counts}
    target = parse_operating_point(words)
    if target.unit == "patient" and patients is None:
        reason = "the images have no patient ids, or the protocol `grouped` was not run"
        return {"words": words, "inapplicable": reason}
    found = {t.protocol: _under(t, mask, target, patients or {}) for t in tests}
    return {"words": words, "unit": target.unit, "miss": target.miss, "protocol": found}


def _under(
    tested: FoldResults,
    mask: NDArray[np.bool_],
    target: OperatingTarget,
    patients: Mapping[str, str],
) -> dict[str, object]:
    def of_patient(table: PredictionTable) -> list[str]:
        return [patients.get(i, i) for i in table.image_id.tolist()]

    points = [fit_point(t.probs, t.y_true, mask, target, of_patient(t)) for t in tested.cal]
    thinnest = min(points, key=lambda point: point.n)
    head = {"n_cal": [point.n for point in points], "needed": thinnest.needed}
    if any(point.threshold is None for point in points):
        return {**head, "refused": refusal(thinnest, target)}
    thresholds = [float(point.threshold or 0.0) for point in points]
    pairs = zip(tested.test, thresholds, strict=True)
    flagged = np.concatenate([t.probs[:, mask].sum(axis=1) >= limit for t, limit in pairs])
    ill, options = mask[tested.y], tested.options
    two = np.stack([~flagged, flagged], axis=1).astype(np.float64)
    names = [f"recall_{BRANCHES[1]}", f"recall_{BRANCHES[0]}"]
    rates = bootstrap_metrics(ill.astype(int), two, BRANCHES, names=names, **options)
    entry: dict[str, object] = {
        **head,
        "thresholds": [round(limit, 6) for limit in thresholds],
        "sensitivity": rates[names[0]].to_json(),
        "specificity": rates[names[1]].to_json(),
        "flagged": bootstrap_mean(flagged, **options).to_json(),
        "n_malignant": int(ill.sum()),
        "n_other": int((~ill).sum()),
    }
    if target.unit == "patient":
        ids = np.array([name for t in tested.test for name in of_patient(t)])
        caught = [bool(flagged[ill & (ids == name)].any()) for name in np.unique(ids[ill])]
        n, share = len(caught), float(np.mean(caught))
        low, high = proportion_interval(sum(caught), n, confidence=tested.config.confidence)
        entry["patients_found"] = {"value": share, "low": low, "high": high, "n": n}
    else:
        share = rates[names[0]].value
    return {**entry, "kept": bool(share >= 1 - target.miss)}


def decision_entries(
    tests: Sequence[FoldResults], recipe: str, partitions: Mapping[str, Mapping[str, str]]
) -> dict[str, object]:
    """Prediction sets, what may be promised, and what an order by confidence is worth.

    ``partitions``: ``patient``, ``acquisition cluster`` → image id → group, where known.
    """
    if not tests:
        return {"recipe": recipe}
    config = tests[0].config
    sets = {t.protocol: _sets(t, partitions) for t in tests}
    return {
        "recipe": recipe,
        "method": {"score": config.set_score, "guarantee": config.set_guarantee},
        "coverage": {
            "nominal": config.coverage,
            "protocol": {name: entry["coverage"] for name, entry in sets.items()},
        },
        "mean_set_size": {"protocol": {name: entry["size"] for name, entry in sets.items()}},
        "sets": sets,
        "promises": {t.protocol: _promises(t) for t in tests},
        "candidates": {t.protocol: _candidates(t) for t in tests},
        "selective": {t.protocol: _selective(t) for t in tests},
        "net_benefit": {t.protocol: _net_benefit(t) for t in tests},
    }


def _apply(records: Sequence[Conformal], tables: Sequence[PredictionTable]) -> NDArray[np.bool_]:
    pairs = zip(records, tables, strict=True)
    return np.concatenate([prediction_sets(t.probs, record) for record, t in pairs])


def _sets(tested: FoldResults, partitions: Mapping[str, Mapping[str, str]]) -> dict[str, object]:
    """The sets that serve: coverage, size, and both by class, patient and cluster."""
    config, options = tested.config, tested.options
    probable = _apply(tested.fit(config.set_score, config.set_guarantee), tested.test)
    sets = fill_empty(probable, tested.probs)
    held, size, y = covered(sets, tested.y), sets.sum(axis=1), tested.y
    single = probable.sum(axis=1) == 1
    coverage = _coverage(tested, held, by_group=False).estimate
    if not _attained(tested, config.set_guarantee)["attainable"]:  # sets of every class say nothing
        coverage = Estimate(value=None, low=None, high=None, reliable=False)
    value, low, high = (
        None if share is None else share - config.coverage
        for share in (coverage.value, coverage.low, coverage.high)
    )
    gap = Estimate(value=value, low=low, high=high, reliable=coverage.reliable)
    whole = _part(tested, np.ones(len(y), dtype=bool), held, size)
    names = tested.test[0].class_names
    return {
        "n": len(y),
        "n_cal": [len(t) for t in tested.cal],
        "group_unit": tested.unit,
        "coverage": coverage.model_dump(),
        "gap": gap.model_dump(),
        "expected": whole["expected"],
        "size": bootstrap_mean(size, **options).to_json(),
        "empty": float((~probable.any(axis=1)).mean()),
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
            tested.unit: _seen(tested, None),
            **{unit: _seen(tested, mapping) for unit, mapping in partitions.items()},
        },
    }


def _part(
    tested: FoldResults,
    rows: NDArray[np.bool_],
    held: NDArray[np.bool_],
    size: NDArray[np.int64],
    class_index: int | None = None,
) -> dict[str, object]:
    """Coverage and size on some test images, and where the coverage should lie if they are alike.

    The limits hold for images of any kind if the promise is over all images, and for a class if
    it is by class; for other promises there are none.
    """
    guarantee = tested.config.set_guarantee
    limits = None
    if guarantee == "marginal":
        limits = _expected(tested, rows)
    elif guarantee == "class" and class_index is not None:
        limits = _expected(tested, rows, class_index)
    return {
        "n": int(rows.sum()),
        "coverage": float(held[rows].mean()),
        "expected": limits,
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
    low, _ = expected_coverage(pairs, config.coverage, confidence=config.confidence)
    return [low, 1.0]  # the most probable class of a set that was empty can only add coverage


def _by_unit(
    tested: FoldResults,
    mapping: Mapping[str, str],
    held: NDArray[np.bool_],
    size: NDArray[np.int64],
) -> list[dict[str, object]]:
    """Every patient or cluster, the worst covered first."""
    ids = [image_id for t in tested.test for image_id in t.image_id.tolist()]
    groups = np.array([mapping.get(image_id, "") for image_id in ids])
    rows = [
        {"group": name, **_part(tested, groups == name, held, size)}
        for name in sorted(set(groups.tolist()) - {""})
    ]
    return sorted(rows, key=lambda row: (row["coverage"], row["group"]))


def _seen(tested: FoldResults, mapping: Mapping[str, str] | None) -> dict[str, float]:
    """Share of the calibration and of the test images whose patient, cluster … was trained on.

    Images that other folds tested count by the models that answered them.
    """
    known: dict[str, list[bool]] = {"cal": [], "test": []}
    for fold in tested.folds:
        own = fold.groups if mapping is None else mapping
        trained = {own.get(i, i) for i in fold.ids("train")}
        for part, found in known.items():
            found += [own.get(i, i) in trained for i in fold.ids(part)]
    known["cal"] = known["cal"] or known["test"]
    return {part: float(np.mean(found)) for part, found in known.items()}


def _attained(tested: FoldResults, guarantee: SetGuarantee) -> dict[str, object]:
    """How many images or groups a guarantee rests on in its thinnest fold, and needs."""
    k = len(tested.test[0].class_names)
    counts = []
    for fold, cal in zip(tested.folds, tested.cal, strict=True):
        if guarantee == "group":
            counts.append(len(set(units_of(fold, cal))))
        elif guarantee == "class":
            counts.append(int(np.bincount(cal.y_true, minlength=k).min()))
        else:
            counts.append(len(cal))
    n, needed = min(counts), fewest_for(tested.config.coverage)
    return {"n": n, "needed": needed, "attainable": n >= needed}


def _promises(tested: FoldResults) -> list[dict[str, object]]:
    """Each guarantee: whether the calibration images suffice, and what it gives on test."""
    rows: list[dict[str, object]] = []
    for guarantee in get_args(SetGuarantee):
        row = {"guarantee": guarantee, **_attained(tested, guarantee)}
        if row["attainable"]:
            probable = _apply(tested.fit(tested.config.set_score, guarantee), tested.test)
            sets = fill_empty(probable, tested.probs)
            held = covered(sets, tested.y)
            row["coverage"] = _coverage(tested, held, by_group=guarantee == "group").to_json()
            row["size"] = float(sets.sum(axis=1).mean())
            if guarantee == "class":
                row["lowest_class"] = min(
                    float(held[tested.y == k].mean()) for k in np.unique(tested.y)
                )
        rows.append(row)
    thinnest = min(
        len({u for u, y in zip(units_of(f, t), t.y_true.tolist(), strict=True) if y == k})
        for f, t in zip(tested.folds, tested.cal, strict=True)
        for k in range(len(t.class_names))
    )
    needed = fewest_for(tested.config.coverage)
    both = {"n": thinnest, "needed": needed, "attainable": thinnest >= needed}
    return [*rows, {"guarantee": "class and group", **both}]  # counted; no sets are made


def _coverage(tested: FoldResults, held: NDArray[np.bool_], *, by_group: bool) -> Interval:
    """Coverage over images, or over groups that all count the same, as their promise counts.

    Of groups of one row each both are the same, with the same interval.
    """
    if not by_group or len(set(tested.units)) == len(held):
        return bootstrap_mean(held, y_true=tested.y, **tested.options)
    member = np.unique(np.array(tested.units), return_inverse=True)[1]
    how = sampling(tested.config, len(tested.folds))
    return bootstrap_mean(np.bincount(member, weights=held) / np.bincount(member), **how)


def _candidates(tested: FoldResults) -> list[dict[str, object]]:
    """Each score and guarantee measured on ``val``, so that one can be chosen."""
    rows = []
    y = np.concatenate([t.y_true for t in tested.val])
    guarantees: tuple[SetGuarantee, ...] = ("marginal", "class")
    for score, guarantee in product(get_args(SetScore), guarantees):
        probable = _apply(tested.fit(score, guarantee), tested.val)
        sets = fill_empty(probable, np.concatenate([t.probs for t in tested.val]))
        size, held = sets.sum(axis=1), covered(sets, y)
        rows.append(
            {
                "score": score,
                "guarantee": guarantee,
                "n": len(y),
                "coverage": float(held.mean()),
                "lowest_class": min(float(held[y == k].mean()) for k in np.unique(y)),
                "size": float(size.mean()),
                "single": float((probable.sum(axis=1) == 1).mean()),
                "empty": float((~probable.any(axis=1)).mean()),
            }
        )
    return rows


def _selective(tested: FoldResults) -> dict[str, object]:
    """Area under the risk–coverage curve, and the risk where some images are left unanswered."""
    probs = tested.probs
    confidence, wrong = probs.max(axis=1), probs.argmax(axis=1) != tested.y
    area, excess = aurc(confidence, wrong, **tested.options)
    share, risk = risk_coverage(confidence, wrong)
    at = np.minimum(np.searchsorted(share, np.array(ANSWERED) - 1e-9), len(share) - 1)
    return {
        "aurc": area.to_json(),
        "excess_aurc": excess.to_json(),
        "risk_at": dict(zip(map(str, ANSWERED), risk[at].tolist(), strict=True)),
    }


def _net_benefit(tested: FoldResults) -> dict[str, object]:
    """What acting on P(malignant) is worth, where there are malignant and other images."""
    mask = tested.malignant
    ill = None if mask is None else mask[tested.y]
    if mask is None or ill is None or ill.all() or not ill.any():
        return {"reason": "the test images are not of malignant and of other classes"}
    found = net_benefit(ill, tested.probs[:, mask].sum(axis=1), **tested.options)
    return found.to_json()

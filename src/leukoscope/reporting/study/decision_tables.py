"""Tables on calibration, prediction sets, selective prediction and operating points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from leukoscope.config.guarantees import Promise
from leukoscope.config.metrics.decisions import (
    CalibrationResult,
    CoveredPart,
    Decisions,
    Guarantee,
    NetBenefit,
    OperatingResult,
    PromiseResult,
    Sets,
)
from leukoscope.config.metrics.results import Estimate, measured
from leukoscope.core.labels import class_title
from leukoscope.reporting.content import Table
from leukoscope.reporting.formats import (
    DASH,
    count,
    difference,
    interval,
    number,
    percent_range,
    plural,
)
from leukoscope.reporting.record_tables import (
    PROTOCOL,
    Field,
    FoundT,
    Under,
    each,
    n_rows,
    plain,
    table_if_any,
    table_of,
    text,
    value,
)
from leukoscope.reporting.result_tables import protocol_field
from leukoscope.reporting.study_files import Study

GUARANTEES: Mapping[str, str] = {
    "marginal": "over all images",
    "class": "within each class",
    "group": "for an image of a new {unit}",
    "class and group": "within each class, for a new {unit}",
}
FURTHER: Mapping[str, str] = {
    "ece_mass": "ECE, equal mass",
    "ece_class": "class-wise ECE",
    "ece_adaptive": "adaptive (ACE)",
    "brier": "Brier",
    "reliability": "= reliability",
    "resolution": "− resolution",
    "uncertainty": "+ uncertainty",
}
_EXPECTED = "Expected if alike"
_SIZE = "Classes per set"
BENEFIT_AT = (0.06, 0.1, 0.2, 0.3, 0.5)


def _promised(study: Study, guarantee: str, unit: str = "group") -> str:
    """For what a guarantee holds; in a study of patients these stand in the place of images."""
    words = GUARANTEES[guarantee].format(unit=unit)
    if study.row == "image":
        return words
    return words.replace("an image of ", "").replace("images", f"{study.row}s")


def promise_words(study: Study) -> str:
    """One or two sentences; empty for studies that were run before bundles made promises."""
    entry = study.metrics.promise
    if entry is None or not entry.unit:
        return ""
    made = Promise(
        unit=entry.unit,
        protocol=entry.protocol,
        n_groups=entry.n_groups,
        n=entry.n,
        coverage=entry.nominal,
        measured=measured(entry.coverage),
    )
    found = made.measured_words or f"coverage not measured: {entry.reason or 'unknown'}"
    return f"{made.words}. {found[0].upper()}{found[1:]}."


def decision_record(study: Study) -> Decisions:
    """``decisions`` of ``metrics.json``."""
    return study.metrics.decisions or Decisions(recipe="")


def by_protocol(study: Study, found: Mapping[str, FoundT]) -> list[Under[FoundT]]:
    """What was found under each protocol, from the mildest on."""
    order = dict.fromkeys((*study.protocols, *found))
    return [Under(name, found[name]) for name in order if name in found]


def _each(rows: Iterable[Under[tuple[FoundT, ...]]]) -> list[Under[FoundT]]:
    """A row for each of several findings under one protocol."""
    return [Under(row.protocol, one) for row in rows for one in row.found]


def calibration(study: Study) -> Table | None:
    """Proper scores, slope and intercept, the ECE beside its band, and which scaling serves."""

    def steps(title: str, metric: str) -> list[Field]:
        return [
            value(f"{title} before", lambda e: _value(e.before, metric)),
            value(f"{title} after", lambda e: _value(e.after, metric)),
            value(f"{title} change", lambda e: difference(e.change.get(metric), metric)),
        ]

    def served(e: CalibrationResult) -> str:
        methods = [f"{e.methods.count(m)} × {m}" for m in dict.fromkeys(e.methods)]
        return f"{', '.join(methods)}; {_range(e.n_cal)} {study.row}s"

    return table_if_any(
        f"Probabilities before and after calibration ({study.level} intervals)",
        study.metrics.calibration,
        protocol_field(study), *steps("Log loss", "log_loss"),
        value("Brier after", lambda e: interval(e.after.get("brier"), "brier")),
        value("Slope", lambda e: interval(e.slope, "slope")),
        value("Intercept", lambda e: signed_interval(e.intercept)),
        value("ECE after", lambda e: _value(e.after, "ece")),
        value("Calibrated model", lambda e: DASH if e.chance is None else
              f"{number(e.chance.low, 'ece')}–{number(e.chance.high, 'ece')}"),
        value("ECE beyond chance",
              lambda e: number(None if e.chance is None else e.chance.debiased, "ece")),
        text("Served in folds; calibrated on", served),
        note="Judge by log loss and Brier score. Slope (Cox 1958): 1 is right, below 1 the "
        "probabilities are too extreme. Intercept, for two classes: 0 is right, above 0 the last "
        "class is more frequent than predicted. The ECE of a perfectly calibrated model is not 0: "
        f"“calibrated model” is where it lies with {study.level} probability for as many "
        f"{study.row}s in as many groups; an ECE inside says nothing against the model. Beyond "
        "chance: √(ECE² − expected²).",
    )  # fmt: skip


def signed_interval(entry: Estimate | None) -> str:
    """A number that may be negative, with its interval.

    >>> signed_interval(Estimate(value=-0.2, low=-0.5, high=0.1))
    '−0.200 (−0.500 to +0.100)'
    """
    return DASH if entry is None else difference(entry, "intercept")


def _value(measures: Mapping[str, Estimate], metric: str) -> str:
    """One measure without its interval."""
    found = measures.get(metric)
    return number(None if found is None else found.value, metric)


def _change(entry: CalibrationResult | PromiseResult, metric: str) -> str:
    """One measure before → after; a single value where nothing changed."""
    steps = (_value(measures, metric) for measures in (entry.before, entry.after))
    return " → ".join(dict.fromkeys(steps))


def further_calibration(study: Study) -> Table | None:
    """Every other measure, before → after."""
    return table_if_any(
        "Further calibration measures", study.metrics.calibration,
        protocol_field(study),
        *each(FURTHER, lambda name: FURTHER[name], _change),
        note="Before → after. Binned errors are biased upwards: a perfect model scores above 0. "
        "Resolution includes the variation within bins, so that the three make up the Brier score.",
    )  # fmt: skip


class _SetRow(NamedTuple):
    """The sets under one protocol; ``sets`` is None where only their coverage is known."""

    protocol: str
    coverage: Estimate
    size: Estimate | None
    sets: Sets | None


def sets(study: Study) -> Table | None:
    """Coverage measured against nominal, and the size of the sets, by protocol."""
    record = decision_record(study)
    if record.coverage is None or not record.coverage.protocol:
        return None
    sizes = record.mean_set_size.protocol if record.mean_set_size else {}
    rows = [
        _SetRow(row.protocol, row.found, sizes.get(row.protocol), record.sets.get(row.protocol))
        for row in by_protocol(study, record.coverage.protocol)
    ]
    method = record.method
    score = f", {method.score.upper()}, {_promised(study, method.guarantee)}" if method else ""
    aim = number(record.coverage.nominal, "coverage")
    return table_of(
        f"Prediction sets that aim at {aim}{score.format(unit='group')}, recipe {_name(study)}",
        rows,
        PROTOCOL,
        value("Coverage", lambda e: interval(e.coverage, "coverage")),
        value("Minus nominal",
              lambda e: difference(e.sets.gap if e.sets else None, "coverage")),
        value(_EXPECTED, lambda e: percent_range(e.sets.expected if e.sets else None)),
        value(_SIZE, lambda e: interval(e.size, "set_size")),
        value("Sets of one", lambda e: number(e.sets.single if e.sets else None, "share")),
        value("… wrong", lambda e: number(e.sets.single_wrong if e.sets else None, "share")),
        value("None probable enough",
              lambda e: number(e.sets.empty if e.sets else None, "share")),
        value(f"n {study.row}s", lambda e: count(e.sets.n if e.sets else _n_of(study, e.protocol))),
        note="Expected if alike: where the coverage would lie, with the intervals’ probability, if "
        f"test {study.row}s were like calibration {study.row}s (beta-binomial; folds taken as "
        "independent). Where no class is probable enough the set holds the most probable one, "
        "which can only raise the coverage, and is not counted among the sets of one.",
    )  # fmt: skip


def promise(study: Study) -> Table | None:
    """What the bundle's sets cover on units that had no part in fitting them."""
    entry = study.metrics.promise
    if entry is None or entry.coverage is None:
        return None
    unit, made = entry.unit, sorted(set(entry.guarantees))

    def steps(e: PromiseResult, metric: str) -> str:
        return " → ".join(_value(measures, metric) for measures in (e.before, e.after))

    return table_of(
        f"What the bundle promises of a new {unit}, recipe {entry.recipe}",
        [entry],
        PROTOCOL,
        text("Promise", lambda e: f"{number(e.nominal, 'coverage')}, " + ", ".join(
            _promised(study, name, unit) for name in made)),
        value("Coverage measured", lambda e: interval(e.coverage, "coverage")),
        value(_SIZE, lambda e: interval(e.mean_set_size, "set_size")),
        plain("Sets of one", "single", "share"),
        value("Log loss", lambda e: steps(e, "log_loss")),
        value("ECE", lambda e: steps(e, "ece")),
        text("Temperature", lambda e: _range(e.temperature)),
        text("Held out", lambda e: plural(e.n_groups, unit)),
        n_rows(study.row),
        note=f"The bundle is calibrated on the test {study.row}s of all folds together. Here each "
        f"of {entry.folds} folds is left out in turn: calibration and sets come from the test "
        f"{study.row}s of the others, so that no {unit} is judged by sets that it took part in. "
        + ("" if unit == "image" else f"Coverage and size: each {unit} counts the same. ")
        + "Log loss and ECE: before → after.",
    )  # fmt: skip


def promises(study: Study) -> Table | None:
    """What the calibration images allow to be promised, and what that gives on test images."""
    record = decision_record(study)
    units = {name: found.group_unit for name, found in record.sets.items()}

    def state(row: Under[Guarantee]) -> str:
        e = row.found
        n = plural(e.n, units[row.protocol] if "group" in e.guarantee else study.row)
        n += " a class" if "class" in e.guarantee else ""
        if not e.attainable:
            return f"not attainable with {n}, needs {e.needed}"
        return f"{n}; needs {e.needed}"

    return table_if_any(
        "What may be promised", _each(by_protocol(study, record.promises)),
        PROTOCOL,
        text("Promise", lambda r: _promised(study, r.found.guarantee, units[r.protocol])),
        text("In the fold with the fewest", state),
        value("Coverage measured", lambda r: interval(r.found.coverage, "coverage")),
        value(_SIZE, lambda r: number(r.found.size, "set_size")),
        note="A promise needs ⌈(n + 1) · coverage⌉ ≤ n. By group: hierarchical conformal "
        "prediction (Lee et al. 2023); there every group counts the same. By class and group is "
        f"counted only. Every promise holds only for {study.row}s, or groups, drawn like those "
        "that calibrate.",
        grouped=True,
    )  # fmt: skip


def parts(study: Study) -> Table | None:
    """Coverage and size by class, and by patient and cluster the worst three."""
    return table_if_any(
        "Coverage by class, patient and acquisition cluster", _parts(study),
        PROTOCOL,
        text(f"Part of the test {study.row}s", "part"),
        value("Coverage", lambda r: number(r.found.coverage if r.found else None, "coverage")),
        value(_EXPECTED, lambda r: percent_range(r.found.expected if r.found else None)),
        value(_SIZE, lambda r: number(r.found.size if r.found else None, "set_size")),
        value(f"n {study.row}s", lambda r: count(r.found.n if r.found else None)),
        note="The three worst covered of each kind; all stand in `metrics.json`.",
        grouped=True,
    )  # fmt: skip


class _PartRow(NamedTuple):
    """Some test images under one protocol; without numbers, a line that sums up several."""

    protocol: str
    part: str
    found: CoveredPart | None


def _parts(study: Study) -> Iterator[_PartRow]:
    """Each class, and of each kind of unit how many are covered too rarely, and the worst."""
    for row in by_protocol(study, decision_record(study).sets):
        for of_class in row.found.by_class:
            yield _PartRow(row.protocol, class_title(of_class.name), of_class)
        for unit, groups in row.found.by_unit.items():
            below = sum(g.expected is not None and g.coverage < g.expected[0] for g in groups)
            if groups and groups[0].expected:
                title = f"{below} of {plural(len(groups), unit)} below what is expected"
                yield _PartRow(row.protocol, title, None)
            for group in groups[:3]:
                yield _PartRow(row.protocol, f"{unit} {group.group}", group)


def candidates(study: Study) -> Table | None:
    """Scores compared on ``val``."""
    return table_if_any(
        f"Other sets, on validation {study.row}s",
        _each(by_protocol(study, decision_record(study).candidates)),
        PROTOCOL,
        text("Sets", lambda r: f"{r.found.score.upper()}, {_promised(study, r.found.guarantee)}"),
        value("Coverage", lambda r: number(r.found.coverage, "coverage")),
        value("Lowest class", lambda r: number(r.found.lowest_class, "coverage")),
        value(_SIZE, lambda r: number(r.found.size, "set_size")),
        value("Sets of one", lambda r: number(r.found.single, "share")),
        value("None probable enough", lambda r: number(r.found.empty, "share")),
        value("n (over folds)", lambda r: count(r.found.n)),
        note=f"Thresholds from calibration {study.row}s, measured on `val`: what a choice may "
        f"rest on. n counts the validation {study.row}s of all folds; one may be in several.",
        grouped=True,
    )  # fmt: skip


def selective(study: Study) -> Table | None:
    """AURC, its excess, and the risk where images are left unanswered."""
    found = by_protocol(study, decision_record(study).selective)
    shares = list(found[0].found.risk_at) if found else []
    return table_if_any(
        f"Selective prediction, recipe {_name(study)}", found,
        PROTOCOL,
        value("AURC", lambda r: interval(r.found.aurc, "aurc")),
        value("Above a perfect order", lambda r: interval(r.found.excess_aurc, "aurc")),
        *each(
            shares, lambda share: f"Wrong, surest {100 * float(share):g} %",
            lambda r, share: number(r.found.risk_at[share], "share"),
        ),
    )  # fmt: skip


def net_benefit(study: Study) -> Table | None:
    """What acting on P(malignant) is worth at some thresholds."""
    rows = [
        Under(row.protocol, (row.found, i))
        for row in benefits(study)
        for i, at in enumerate(row.found.thresholds)
        if at in BENEFIT_AT
    ]

    def point(row: Under[tuple[NetBenefit, int]], line: str) -> str:
        found, i = row.found
        limits = found.model if line == "model" else found.gain
        return difference(limits.at(i, found.reliable), "benefit")

    return table_if_any(
        f"Net benefit of acting on P(malignant), recipe {_name(study)} ({study.level} intervals)",
        rows,
        PROTOCOL,
        value("Act from", lambda r: number(r.found[0].thresholds[r.found[1]], "share")),
        value("Model", lambda r: point(r, "model")),
        value("Act on all", lambda r: difference(r.found[0].treat_all[r.found[1]], "benefit")),
        value("Model over the better of all and none", lambda r: point(r, "gain")),
        value(f"Malignant {study.row}s", lambda r: number(r.found[0].prevalence, "share")),
        note=f"True positives per {study.row}, false ones taken off at the odds of the threshold "
        "(Vickers & Elkin 2006); acting on none is worth 0. It holds for the share of malignant "
        f"{study.row}s in these data, which is not that of a clinic.",
        grouped=True,
    )  # fmt: skip


def benefits(study: Study) -> list[Under[NetBenefit]]:
    """The net benefit under each protocol that it could be computed of."""
    return [
        Under(row.protocol, row.found)
        for row in by_protocol(study, decision_record(study).net_benefit)
        if isinstance(row.found, NetBenefit)
    ]


def operating_point(study: Study) -> Table | None:
    """Sensitivity, specificity and share flagged on test images; or the refusal."""
    record = decision_record(study).operating_point
    if record is None:
        return None

    def outcome(row: Under[OperatingResult]) -> str:
        e = row.found
        if e.refused:
            return e.refused
        patients, counted = e.patients_found, e.patients_found or e.sensitivity
        low = (counted.low if counted else None) or 0
        word = "kept" if e.kept else "broken"
        if e.kept and low < 1 - record.miss:
            word = "kept, but its interval reaches below"
        if patients is None:
            return word
        return f"{word}; {interval(patients, 'share')} of {plural(patients.n, 'patient')} found"

    return table_if_any(
        f"Operating point: “{record.words}”",
        [Under(name, record.protocol[name]) for name in study.protocols if name in record.protocol],
        PROTOCOL,
        text(f"On test {study.row}s", outcome),
        value(f"Malignant {study.row}s flagged", lambda r: interval(r.found.sensitivity, "recall")),
        value("Others not flagged", lambda r: interval(r.found.specificity, "specificity")),
        value(f"All {study.row}s flagged", lambda r: interval(r.found.flagged, "share")),
        value("Flagged from P(malignant)",
              lambda r: _range(r.found.thresholds) if r.found.thresholds else DASH),
    )  # fmt: skip


def _range(numbers: Sequence[float]) -> str:
    return "–".join(f"{x:.3g}" for x in dict.fromkeys((min(numbers), max(numbers))))


def _name(study: Study) -> str:
    return decision_record(study).recipe or study.recipes[0]


def _n_of(study: Study, protocol: str) -> int | None:
    return next((entry.n for entry in study.results if entry.protocol == protocol), None)

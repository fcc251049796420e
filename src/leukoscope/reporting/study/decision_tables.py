"""Tables on calibration, prediction sets, selective prediction and operating points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leukoscope.config.guarantees import Measured, Promise
from leukoscope.core.labels import class_title
from leukoscope.reporting.content import (
    N_IMAGES,
    PROTOCOL,
    Field,
    Table,
    each,
    plain,
    table_if_any,
    table_of,
    text,
    value,
)
from leukoscope.reporting.formats import DASH, difference, interval, number, percent_range, plural
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
_EXPECTED = value("Expected if alike", lambda e: percent_range(e.get("expected")))
_SIZE = plain("Classes per set", "size", "set_size")
BENEFIT_AT = (0.06, 0.1, 0.2, 0.3, 0.5)


def promise_words(study: Study) -> str:
    """One or two sentences; empty for studies that were run before bundles made promises."""
    entry = study.metrics.get("promise") or {}
    if "unit" not in entry:
        return ""
    coverage = entry.get("coverage") or {}
    measured = Measured(**coverage) if coverage.get("value") is not None else None
    made = Promise(
        unit=entry["unit"],
        protocol=entry["protocol"],
        n_groups=entry["n_groups"],
        n=entry["n"],
        coverage=entry["nominal"],
        measured=measured,
    )
    found = made.measured_words or f"coverage not measured: {entry.get('reason', 'unknown')}"
    return f"{made.words}. {found[0].upper()}{found[1:]}."


def decision_record(study: Study) -> Mapping[str, Any]:
    """``decisions`` of ``metrics.json``."""
    return study.metrics.get("decisions") or {}


def by_protocol(study: Study, key: str) -> list[tuple[str, Any]]:
    """What ``decisions`` holds of each protocol under a key, from the mildest protocol on."""
    return _ordered(study, decision_record(study).get(key) or {})


def _ordered(study: Study, found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    order = dict.fromkeys((*study.protocols, *found))
    return [(name, found[name]) for name in order if name in found]


def calibration(study: Study) -> Table | None:
    """Proper scores, slope and intercept, the ECE beside its band, and which scaling serves."""

    def steps(title: str, metric: str) -> list[Field]:
        return [
            value(f"{title} before", lambda e: _value(e, "before", metric)),
            value(f"{title} after", lambda e: _value(e, "after", metric)),
            value(f"{title} change",
                  lambda e: difference((e.get("change") or {}).get(metric), metric)),
        ]  # fmt: skip

    def served(e: Mapping[str, Any]) -> str:
        methods = [f"{e['methods'].count(m)} × {m}" for m in dict.fromkeys(e["methods"])]
        return f"{', '.join(methods)}; {_range(e['n_cal'])} images"

    return table_if_any(
        f"Probabilities before and after calibration ({study.level} intervals)",
        study.metrics.get("calibration") or (),
        protocol_field(study), *steps("Log loss", "log_loss"),
        value("Brier after", lambda e: interval((e.get("after") or {}).get("brier"), "brier")),
        value("Slope", lambda e: interval(e.get("slope"), "slope")),
        value("Intercept", lambda e: signed_interval(e.get("intercept"))),
        value("ECE after", lambda e: _value(e, "after", "ece")),
        value("Calibrated model", lambda e: _chance(e, "low", "high")),
        value("ECE beyond chance", lambda e: _chance(e, "debiased")),
        text("Served in folds; calibrated on", served),
        note="Judge by log loss and Brier score. Slope (Cox 1958): 1 is right, below 1 the "
        "probabilities are too extreme. Intercept, for two classes: 0 is right, above 0 the last "
        "class is more frequent than predicted. The ECE of a perfectly calibrated model is not 0: "
        f"“calibrated model” is where it lies with {study.level} probability for as many images in "
        "as many groups; an ECE inside says nothing against the model. Beyond chance: "
        "√(ECE² − expected²).",
    )  # fmt: skip


def signed_interval(entry: Mapping[str, Any] | None) -> str:
    """A number that may be negative, with its interval.

    >>> signed_interval({"value": -0.2, "low": -0.5, "high": 0.1, "reliable": True})
    '−0.200 (−0.500 to +0.100)'
    """
    return DASH if entry is None else difference(entry, "intercept")


def _chance(entry: Mapping[str, Any], *keys: str) -> str:
    found = entry.get("chance")
    return DASH if not found else "–".join(number(found[key], "ece") for key in keys)


def _value(entry: Mapping[str, Any], when: str, metric: str) -> str:
    return number((entry.get(when) or {}).get(metric, {}).get("value"), metric)


def further_calibration(study: Study) -> Table | None:
    """Every other measure, before → after."""

    def change(entry: Mapping[str, Any], metric: str) -> str:
        return " → ".join(dict.fromkeys(_value(entry, k, metric) for k in ("before", "after")))

    return table_if_any(
        "Further calibration measures", study.metrics.get("calibration") or (),
        protocol_field(study),
        *each(FURTHER, lambda name: FURTHER[name], change),
        note="Before → after. Binned errors are biased upwards: a perfect model scores above 0. "
        "Resolution includes the variation within bins, so that the three make up the Brier score.",
    )  # fmt: skip


def sets(study: Study) -> Table | None:
    """Coverage measured against nominal, and the size of the sets, by protocol."""
    record = decision_record(study)
    measured = (record.get("coverage") or {}).get("protocol") or {}
    if not measured:
        return None
    details, size = dict(by_protocol(study, "sets")), record.get("mean_set_size", {})
    sizes = size.get("protocol", size)
    rows = [
        {"n": _n_of(study, name), **details.get(name, {}), "protocol": name, "coverage": found,
         "size": sizes.get(name)}
        for name, found in _ordered(study, measured)
    ]  # fmt: skip
    method = record.get("method") or {}
    score = f", {method['score'].upper()}, {GUARANTEES[method['guarantee']]}" if method else ""
    aim = number(record["coverage"].get("nominal"), "coverage")
    return table_of(
        f"Prediction sets that aim at {aim}{score.format(unit='group')}, recipe {_name(study)}",
        rows,
        PROTOCOL,
        value("Coverage", lambda e: interval(e["coverage"], "coverage")),
        value("Minus nominal", lambda e: difference(e.get("gap"), "coverage")),
        _EXPECTED,
        value("Classes per set", lambda e: interval(e["size"], "set_size")),
        plain("Sets of one", "single", "share"),
        plain("… wrong", "single_wrong", "share"),
        plain("None probable enough", "empty", "share"),
        N_IMAGES,
        note="Expected if alike: where the coverage would lie, with the intervals’ probability, if "
        "test images were like calibration images (beta-binomial; folds taken as independent). "
        "Where no class is probable enough the set holds the most probable one, which can only "
        "raise the coverage, and the image is not among the sets of one.",
    )


def promise(study: Study) -> Table | None:
    """What the bundle's sets cover on units that had no part in fitting them."""
    entry = study.metrics.get("promise") or {}
    if "coverage" not in entry:
        return None
    unit = str(entry["unit"])
    made = {str(name) for name in entry["guarantees"]}

    def steps(metric: str) -> str:
        return " → ".join(_value(entry, when, metric) for when in ("before", "after"))

    return table_of(
        f"What the bundle promises of a new {unit}, recipe {entry['recipe']}",
        [entry],
        PROTOCOL,
        text("Promise", lambda e: f"{number(e['nominal'], 'coverage')}, " + ", ".join(
            GUARANTEES[name].format(unit=unit) for name in sorted(made))),
        value("Coverage measured", lambda e: interval(e["coverage"], "coverage")),
        value("Classes per set", lambda e: interval(e["mean_set_size"], "set_size")),
        plain("Sets of one", "single", "share"),
        value("Log loss", lambda e: steps("log_loss")),
        value("ECE", lambda e: steps("ece")),
        text("Temperature", lambda e: _range(e["temperature"])),
        text("Held out", lambda e: plural(e["n_groups"], unit)),
        N_IMAGES,
        note=f"The bundle is calibrated on the test images of all folds together. Here each of "
        f"{entry['folds']} folds is left out in turn: calibration and sets come from the test "
        f"images of the others, so that no {unit} is judged by sets that it took part in. "
        + ("" if unit == "image" else f"Coverage and size: each {unit} counts the same. ")
        + "Log loss and ECE: before → after.",
    )  # fmt: skip


def promises(study: Study) -> Table | None:
    """What the calibration images allow to be promised, and what that gives on test images."""
    units = {name: entry["group_unit"] for name, entry in by_protocol(study, "sets")}
    rows = [
        {**entry, "protocol": protocol, "unit": units[protocol]}
        for protocol, entries in by_protocol(study, "promises")
        for entry in entries
    ]

    def state(e: Mapping[str, Any]) -> str:
        n = plural(e["n"], e["unit"] if "group" in e["guarantee"] else "image")
        n += " a class" if "class" in e["guarantee"] else ""
        if not e["attainable"]:
            return f"not attainable with {n}, needs {e['needed']}"
        return f"{n}; needs {e['needed']}"

    return table_if_any(
        "What may be promised", rows,
        PROTOCOL,
        text("Promise", lambda e: GUARANTEES[e["guarantee"]].format(unit=e["unit"])),
        text("In the fold with the fewest", state),
        value("Coverage measured", lambda e: interval(e.get("coverage"), "coverage")),
        _SIZE,
        note="A promise needs ⌈(n + 1) · coverage⌉ ≤ n. By group: hierarchical conformal "
        "prediction (Lee et al. 2023); there every group counts the same. By class and group is "
        "counted only. Every promise holds only for images, or groups, drawn like those that "
        "calibrate.",
        grouped=True,
    )  # fmt: skip


def parts(study: Study) -> Table | None:
    """Coverage and size by class, and by patient and cluster the worst three."""
    return table_if_any(
        "Coverage by class, patient and acquisition cluster", _parts(study),
        PROTOCOL,
        text("Part of the test images", "part"),
        plain("Coverage", "coverage", "coverage"),
        _EXPECTED,
        _SIZE,
        N_IMAGES,
        note="The three worst covered of each kind; all stand in `metrics.json`.",
        grouped=True,
    )  # fmt: skip


def _parts(study: Study) -> Iterator[Mapping[str, Any]]:
    for protocol, entry in by_protocol(study, "sets"):
        for e in entry["by_class"]:
            yield {**e, "protocol": protocol, "part": class_title(e["class"])}
        for unit, groups in entry["by_unit"].items():
            below = sum(bool(g["expected"]) and g["coverage"] < g["expected"][0] for g in groups)
            if groups and groups[0]["expected"]:
                title = f"{below} of {plural(len(groups), unit)} below what is expected"
                yield {"protocol": protocol, "part": title}
            for e in groups[:3]:
                yield {**e, "protocol": protocol, "part": f"{unit} {e['group']}"}


def candidates(study: Study) -> Table | None:
    """Scores compared on ``val``."""
    rows = [
        {**entry, "protocol": protocol}
        for protocol, entries in by_protocol(study, "candidates")
        for entry in entries
    ]
    return table_if_any(
        "Other sets, on validation images", rows,
        PROTOCOL,
        text("Sets", lambda e: f"{e['score'].upper()}, {GUARANTEES[e['guarantee']]}"),
        plain("Coverage", "coverage", "coverage"),
        plain("Lowest class", "lowest_class", "coverage"),
        _SIZE,
        plain("Sets of one", "single", "share"),
        plain("None probable enough", "empty", "share"),
        N_IMAGES,
        note="Thresholds from calibration images, measured on `val`: what a choice may rest on.",
        grouped=True,
    )  # fmt: skip


def selective(study: Study) -> Table | None:
    """AURC, its excess, and the risk where images are left unanswered."""
    found = by_protocol(study, "selective")
    shares = list(found[0][1]["risk_at"]) if found else []
    return table_if_any(
        f"Selective prediction, recipe {_name(study)}",
        [{**entry, "protocol": protocol} for protocol, entry in found],
        PROTOCOL,
        value("AURC", lambda e: interval(e["aurc"], "aurc")),
        value("Above a perfect order", lambda e: interval(e["excess_aurc"], "aurc")),
        *each(
            shares, lambda share: f"Wrong, surest {100 * float(share):g} %",
            lambda e, share: number(e["risk_at"][share], "share"),
        ),
    )  # fmt: skip


def net_benefit(study: Study) -> Table | None:
    """What acting on P(malignant) is worth at some thresholds."""
    rows = [
        {"protocol": protocol, "at": at, "prevalence": found["prevalence"],
         "model": _at(found["model"], i), "gain": _at(found["gain"], i),
         "treat_all": found["treat_all"][i], "reliable": found["reliable"]}
        for protocol, found in by_protocol(study, "net_benefit")
        if "thresholds" in found
        for i, at in enumerate(found["thresholds"])
        if at in BENEFIT_AT
    ]  # fmt: skip
    return table_if_any(
        f"Net benefit of acting on P(malignant), recipe {_name(study)} ({study.level} intervals)",
        rows,
        PROTOCOL,
        value("Act from", lambda e: number(e["at"], "share")),
        value("Model", lambda e: difference({**e["model"], "reliable": e["reliable"]}, "benefit")),
        value("Act on all", lambda e: difference(e["treat_all"], "benefit")),
        value("Model over the better of all and none",
              lambda e: difference({**e["gain"], "reliable": e["reliable"]}, "benefit")),
        value("Malignant images", lambda e: number(e["prevalence"], "share")),
        note="True positives an image, false ones taken off at the odds of the threshold (Vickers "
        "& Elkin 2006); acting on none is worth 0. It holds for the share of malignant images in "
        "these data, which is not that of a clinic.",
        grouped=True,
    )  # fmt: skip


def _at(lists: Mapping[str, Sequence[Any]], i: int) -> dict[str, Any]:
    return {key: values[i] for key, values in lists.items()}


def operating_point(study: Study) -> Table | None:
    """Sensitivity, specificity and share flagged on test images; or the refusal."""
    record = decision_record(study).get("operating_point") or {}
    found = record.get("protocol") or {}

    def outcome(e: Mapping[str, Any]) -> str:
        if "refused" in e:
            return str(e["refused"])
        patients = e.get("patients_found")
        low = (patients or e["sensitivity"])["low"] or 0
        word = "kept" if e["kept"] else "broken"
        if e["kept"] and low < 1 - record["miss"]:
            word = "kept, but its interval reaches below"
        if not patients:
            return word
        return f"{word}; {interval(patients, 'share')} of {patients['n']} patients found"

    return table_if_any(
        f"Operating point: “{record.get('words')}”",
        [{**found[name], "protocol": name} for name in study.protocols if name in found],
        PROTOCOL,
        text("On test images", outcome),
        value("Malignant images flagged", lambda e: interval(e.get("sensitivity"), "recall")),
        value("Others not flagged", lambda e: interval(e.get("specificity"), "specificity")),
        value("All images flagged", lambda e: interval(e.get("flagged"), "share")),
        value("Flagged from P(malignant)",
              lambda e: _range(e["thresholds"]) if "thresholds" in e else DASH),
    )  # fmt: skip


def _range(numbers: Sequence[float]) -> str:
    return "–".join(f"{x:.3g}" for x in dict.fromkeys((min(numbers), max(numbers))))


def _name(study: Study) -> str:
    return str(decision_record(study).get("recipe") or study.recipes[0])


def _n_of(study: Study, protocol: str) -> int | None:
    entry = next((r for r in study.results if r["protocol"] == protocol), None)
    return None if entry is None else entry.get("n")

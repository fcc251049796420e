"""Tables on calibration, prediction sets, selective prediction and operating points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leukoscope.reporting.content import Column, Table
from leukoscope.reporting.formats import DASH, count, difference, interval, number, plural
from leukoscope.reporting.result_tables import marked, protocol_cell
from leukoscope.reporting.source import Study, class_title
from leukoscope.reporting.wording import protocol_title

GUARANTEES: Mapping[str, str] = {
    "marginal": "over all images",
    "class": "within each class",
    "group": "for an image of a new {unit}",
    "class and group": "within each class, for a new {unit}",
}


def decision_record(study: Study) -> Mapping[str, Any]:
    """``decisions`` of ``metrics.json``."""
    return study.metrics.get("decisions") or {}


def by_protocol(study: Study, key: str) -> list[tuple[str, Any]]:
    """What ``decisions`` holds of each protocol under a key, from the mildest protocol on."""
    found = decision_record(study).get(key) or {}
    order = [*study.protocols, *(name for name in found if name not in study.protocols)]
    return [(name, found[name]) for name in order if name in found]


def calibration(study: Study) -> Table | None:
    """Log loss and ECE before and after, and which scaling serves."""
    entries = study.metrics.get("calibration") or ()
    rows = []
    for e in entries:
        before, change = e.get("before", {}), e.get("change", {})
        served = [f"{e['methods'].count(m)} × {m}" for m in dict.fromkeys(e["methods"])]
        rows.append(
            (
                protocol_cell(study, e),
                number(before.get("log_loss", {}).get("value"), "log_loss"),
                number(e["after"]["log_loss"]["value"], "log_loss"),
                difference(change.get("log_loss"), "log_loss"),
                number(before.get("ece", {}).get("value"), "ece"),
                number(e["after"]["ece"]["value"], "ece"),
                difference(change.get("ece"), "ece"),
                f"{', '.join(served)}; {_range(e['n_cal'])} images",
            )
        )
    columns = (
        Column("Protocol"),
        *(Column(f"Log loss {word}", numeric=True) for word in ("before", "after", "change")),
        *(Column(f"ECE {word}", numeric=True) for word in ("before", "after", "change")),
        Column("Served in folds; calibrated on"),
    )
    caption = f"Probabilities before and after calibration ({100 * study.confidence:g} % intervals)"
    return marked(Table(caption, columns, tuple(rows))) if rows else None


def further_calibration(study: Study) -> Table | None:
    """Every other measure, before → after."""
    names = {
        "ece_mass": "ECE, equal mass", "ece_class": "class-wise ECE",
        "ece_adaptive": "adaptive (ACE)", "brier": "Brier", "reliability": "= reliability",
        "resolution": "− resolution", "uncertainty": "+ uncertainty",
    }  # fmt: skip
    rows = []
    for e in study.metrics.get("calibration") or ():
        cells = []
        for name in names:
            values = [number((e.get(k) or {}).get(name, {}).get("value"), name)
                      for k in ("before", "after")]  # fmt: skip
            cells.append(values[1] if values[0] == values[1] else " → ".join(values))
        rows.append((protocol_cell(study, e), *cells))
    columns = (Column("Protocol"), *(Column(title, numeric=True) for title in names.values()))
    note = (
        "Before → after. Binned errors are biased upwards: a perfect model scores above 0. "
        "Resolution includes the variation within bins, so that the three make up the Brier score."
    )
    return Table("Further calibration measures", columns, tuple(rows), note) if rows else None


def sets(study: Study) -> Table | None:
    """Coverage measured against nominal, and the size of the sets, by protocol."""
    record = decision_record(study)
    measured = (record.get("coverage") or {}).get("protocol") or {}
    if not measured:
        return None
    details, size = dict(by_protocol(study, "sets")), record.get("mean_set_size", {})
    rows = []
    for name in [*study.protocols, *(n for n in measured if n not in study.protocols)]:
        if name not in measured:
            continue
        own = details.get(name, {})
        expected = own.get("expected")
        rows.append(
            (
                protocol_title(name),
                interval(measured[name], "coverage"),
                difference(own.get("gap"), "coverage"),
                "–".join(f"{100 * limit:.1f}" for limit in expected) + " %" if expected else DASH,
                interval(size.get("protocol", size).get(name), "set_size"),
                number(own.get("single"), "share"),
                number(own.get("single_wrong"), "share"),
                number(own.get("empty"), "share"),
                count(own.get("n") or _n_of(study, name)),
            )
        )
    columns = (
        Column("Protocol"),
        Column("Coverage", numeric=True),
        Column("Minus nominal", numeric=True),
        Column("Expected if alike", numeric=True),
        Column("Classes per set", numeric=True),
        Column("Sets of one", numeric=True),
        Column("… wrong", numeric=True),
        Column("Empty sets", numeric=True),
        Column("n images", numeric=True),
    )
    method = record.get("method") or {}
    score = f", {method['score'].upper()}, {GUARANTEES[method['guarantee']]}" if method else ""
    aim = number(record["coverage"].get("nominal"), "coverage")
    caption = (
        f"Prediction sets that aim at {aim}{score.format(unit='group')}, recipe {_name(study)}"
    )
    note = (
        "Expected if alike: where the coverage would lie, with the intervals’ probability, if "
        "test images were like calibration images (beta-binomial; folds taken as independent)."
    )
    return marked(Table(caption, columns, tuple(rows), note))


def promises(study: Study) -> Table | None:
    """What the calibration images allow to be promised, and what that gives on test images."""
    rows = []
    for protocol, entries in by_protocol(study, "promises"):
        unit = dict(by_protocol(study, "sets"))[protocol]["group_unit"]
        for e in entries:
            counted = unit if "group" in e["guarantee"] else "image"
            n = plural(e["n"], counted) + (" a class" if "class" in e["guarantee"] else "")
            state = f"{n}; needs {e['needed']}"
            if not e["attainable"]:
                state = f"not attainable with {n}, needs {e['needed']}"
            rows.append(
                (
                    protocol_title(protocol),
                    GUARANTEES[e["guarantee"]].format(unit=unit),
                    state,
                    interval(e.get("coverage"), "coverage"),
                    number(e.get("size"), "set_size"),
                )
            )
    columns = (
        Column("Protocol"),
        Column("Promise"),
        Column("In the fold with the fewest"),
        Column("Coverage measured", numeric=True),
        Column("Classes per set", numeric=True),
    )
    note = (
        "A promise needs ⌈(n + 1) · coverage⌉ ≤ n. By group: hierarchical conformal prediction "
        "(Lee et al. 2023); there every group counts the same. By class and group is counted "
        "only. Every promise holds only for images, or groups, drawn like those of `cal`."
    )
    caption = "What may be promised"
    return marked(Table(caption, columns, tuple(rows), note, grouped=True)) if rows else None


def parts(study: Study) -> Table | None:
    """Coverage and size by class, and by patient and cluster the worst three."""
    rows = []
    for protocol, entry in by_protocol(study, "sets"):
        head = protocol_title(protocol)
        rows += [(head, class_title(e["class"]), *_part(e)) for e in entry["by_class"]]
        for unit, groups in entry["by_unit"].items():
            below = sum(bool(g["expected"]) and g["coverage"] < g["expected"][0] for g in groups)
            title = f"{below} of {plural(len(groups), unit)} below what is expected"
            if groups and groups[0]["expected"]:
                rows.append((head, title, DASH, DASH, DASH, DASH))
            rows += [(head, f"{unit} {e['group']}", *_part(e)) for e in groups[:3]]
    columns = (
        Column("Protocol"),
        Column("Part of the test images"),
        Column("Coverage", numeric=True),
        Column("Expected if alike", numeric=True),
        Column("Classes per set", numeric=True),
        Column("n images", numeric=True),
    )
    note = "The three worst covered of each kind; all stand in `metrics.json`."
    caption = "Coverage by class, patient and acquisition cluster"
    return Table(caption, columns, tuple(rows), note, grouped=True) if rows else None


def candidates(study: Study) -> Table | None:
    """Scores compared on ``val``."""
    rows = [
        (
            protocol_title(protocol),
            f"{e['score'].upper()}, {GUARANTEES[e['guarantee']]}",
            number(e["coverage"], "coverage"),
            number(e["lowest_class"], "coverage"),
            number(e["size"], "set_size"),
            number(e["single"], "share"),
            number(e["empty"], "share"),
            count(e["n"]),
        )
        for protocol, entries in by_protocol(study, "candidates")
        for e in entries
    ]
    columns = (
        Column("Protocol"),
        Column("Sets"),
        *(
            Column(title, numeric=True)
            for title in ("Coverage", "Lowest class", "Classes per set", "Sets of one",
                          "Empty sets", "n images")
        ),
    )  # fmt: skip
    note = "Thresholds from `cal`, measured on `val`: what a choice among them may rest on."
    caption = "Other sets, on validation images"
    return Table(caption, columns, tuple(rows), note, grouped=True) if rows else None


def selective(study: Study) -> Table | None:
    """AURC, its excess, and the risk where images are left unanswered."""
    found = by_protocol(study, "selective")
    if not found:
        return None
    shares = list(found[0][1]["risk_at"])
    rows = tuple(
        (
            protocol_title(protocol),
            interval(e["aurc"], "aurc"),
            interval(e["excess_aurc"], "aurc"),
            *(number(e["risk_at"][share], "share") for share in shares),
        )
        for protocol, e in found
    )
    columns = (
        Column("Protocol"),
        Column("AURC", numeric=True),
        Column("Above a perfect order", numeric=True),
        *(Column(f"Wrong, surest {100 * float(s):g} %", numeric=True) for s in shares),
    )
    return marked(Table(f"Selective prediction, recipe {_name(study)}", columns, rows))


def operating_point(study: Study) -> Table | None:
    """Sensitivity, specificity and share flagged on test images; or the refusal."""
    record = decision_record(study).get("operating_point") or {}
    if not record.get("protocol"):
        return None
    rows: list[Sequence[str]] = []
    for protocol in [p for p in study.protocols if p in record["protocol"]]:
        e = record["protocol"][protocol]
        title = protocol_title(protocol)
        if "refused" in e:
            rows.append((title, e["refused"], DASH, DASH, DASH, DASH))
            continue
        found = e.get("patients_found")
        judged = found or e["sensitivity"]
        word = "kept" if e["kept"] else "broken"
        if e["kept"] and (judged["low"] or 0) < 1 - record["miss"]:
            word = "kept, but its interval reaches below"
        rows.append(
            (
                title,
                word
                + (f"; {interval(found, 'share')} of {found['n']} patients found" if found else ""),
                interval(e["sensitivity"], "recall"),
                interval(e["specificity"], "specificity"),
                interval(e["flagged"], "share"),
                _range(e["thresholds"]),
            )
        )
    columns = (
        Column("Protocol"),
        Column("On test images"),
        Column("Malignant images flagged", numeric=True),
        Column("Others not flagged", numeric=True),
        Column("All images flagged", numeric=True),
        Column("Flagged from P(malignant)", numeric=True),
    )
    caption = f"Operating point: “{record['words']}”"
    return marked(Table(caption, columns, tuple(tuple(row) for row in rows)))


def _range(numbers: Sequence[float]) -> str:
    return "–".join(f"{x:.3g}" for x in dict.fromkeys((min(numbers), max(numbers))))


def _part(entry: Mapping[str, Any]) -> tuple[str, ...]:
    limits = entry["expected"]
    return (
        number(entry["coverage"], "coverage"),
        "–".join(f"{100 * limit:.1f}" for limit in limits) + " %" if limits else DASH,
        number(entry["size"], "set_size"),
        count(entry["n"]),
    )


def _name(study: Study) -> str:
    return str(decision_record(study).get("recipe") or study.recipes[0])


def _n_of(study: Study, protocol: str) -> int | None:
    entry = next((r for r in study.results if r["protocol"] == protocol), None)
    return None if entry is None else entry.get("n")

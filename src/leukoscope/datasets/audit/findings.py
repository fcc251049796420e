"""The passport's findings: what a reader must know of a data set, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from leukoscope.config.passport import Finding, FindingLevel, Passport
from leukoscope.core.labels import class_title
from leukoscope.core.patients import patient_spelling
from leukoscope.core.views import is_or_are, plural
from leukoscope.datasets.audit.associations import LEVEL
from leukoscope.datasets.audit.neighbour_search import SLOW

STRONG = 0.5
"""Cramér's V from which the acquisition or the scale bar follows the class."""

WEAK = 0.1
"""Effect below which a column is associated with the class, but does not follow it."""

OF_THE_DISEASE = frozenset({"cell_type", "diagnosis", "given_label"})
"""Columns that may follow the class because both are the disease."""

UNEVEN = 3.0
FEW_PATIENTS = 10

MOST_NAMED = 3
"""Patients whose several ids a finding names."""

FEW_BARS = 0.01
"""Share of images with a scale bar below which it may be a mistake of the search."""


def findings(passport: Passport) -> list[Finding]:
    """Sentences on a passport, errors first."""
    found = [
        *_files(passport),
        *_classes(passport),
        *_copies(passport),
        *_overlaps(passport),
        *_search(passport),
        *_parts(passport),
        *_patients(passport),
        *_bars(passport),
        *_acquisition(passport),
        *_columns(passport),
    ]
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(found, key=lambda finding: order[finding["level"]])


def _entry(level: FindingLevel, code: str, text: str) -> Finding:
    return {"level": level, "code": code, "text": text}


def _files(passport: Passport) -> Iterator[Finding]:
    broken = passport["quarantined"]
    if broken:
        first = broken[0]
        yield _entry(
            "warning",
            "quarantined",
            f"{plural(len(broken), 'file')} could not be read and "
            f"{is_or_are(len(broken))} left out, e.g. {first['path']} ({first['reason']}).",
        )
    for reason, count in passport["excluded"].items():
        yield _entry("info", "excluded", f"{plural(count, 'image')} not used: {reason}.")
    for note in passport["notes"]:
        yield _entry("warning", "layout", note[:1].upper() + note[1:] + ".")


def _classes(passport: Passport) -> Iterator[Finding]:
    classes, balance = passport["classes"], passport["class_balance"]
    chi2, p, ratio = balance["chi2"], balance["p"], balance["ratio"]
    if chi2 is None or p is None or ratio is None:
        yield _entry(
            "error",
            "one-class",
            f"Only one class ({', '.join(classes)}): nothing can be told apart.",
        )
        return
    sizes = ", ".join(f"{class_title(name)} {count:,}" for name, count in classes.items())
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    yield _entry(
        "info",
        "class-sizes",
        f"Images per class: {sizes}; against equal sizes χ² = {chi2:.1f}, {shown}.",
    )
    if ratio >= UNEVEN:
        by_size = sorted(classes, key=lambda name: classes[name])
        least, most = by_size[0], by_size[-1]
        yield _entry(
            "warning",
            "class-imbalance",
            f"{class_title(most)} has {ratio:.1f} times as many images as "
            f"{class_title(least)}: accuracy hides errors on the rare class; read balanced "
            "accuracy.",
        )
    if "benign" in classes:
        yield _entry(
            "info",
            "benign-means-hematogones",
            "Benign means hematogones (benign B-cell precursors), not healthy blood.",
        )


def _copies(passport: Passport) -> Iterator[Finding]:
    for conflict in passport["label_conflicts"]:
        names = " and ".join(class_title(name) for name in conflict["labels"])
        yield _entry(
            "error",
            "label-conflict",
            f"The same picture carries two classes ({names}): {', '.join(conflict['paths'])}.",
        )
    exact = passport["exact_duplicates"]
    if exact["pairs"]:
        yield _entry(
            "warning",
            "exact-duplicates",
            f"{plural(len(exact['groups']), 'group')} of duplicates "
            f"({plural(exact['images'], 'image')}): "
            "a random split tests on training images.",
        )
    pixels = passport["pixel_duplicates"]
    if pixels["pairs"]:
        yield _entry(
            "warning",
            "pixel-duplicates",
            f"{plural(len(pixels['groups']), 'group')} of different files with equal pixels "
            f"({plural(pixels['images'], 'image')}).",
        )
    near = passport["near_duplicates"]
    if near["pairs"]:
        turned = f", {near['turned']:,} flipped or turned" if near["turned"] else ""
        yield _entry(
            "warning",
            "near-duplicates",
            f"{plural(near['pairs'], 'pair')} of near-duplicates{turned} "
            f"({plural(near['images'], 'image')}): one cell or field, taken or saved twice.",
        )
    twins = passport["twins"]
    if twins["pairs"]:
        yield _entry(
            "warning",
            "twins",
            f"{plural(twins['images'], 'image')} are a field and its segmented twin: they must "
            "stay together in a split.",
        )


def _overlaps(passport: Passport) -> Iterator[Finding]:
    overlaps = passport["overlaps"]
    if overlaps["groups"]:
        yield _entry(
            "warning",
            "overlaps",
            f"{plural(overlaps['images'], 'image')} in {plural(overlaps['groups'], 'group')} "
            f"show the same place of a smear, shifted (largest group "
            f"{overlaps['largest']}): a random split shows the model cells of its test images.",
        )


def _search(passport: Passport) -> Iterator[Finding]:
    search = passport.get("search")
    if search is None:
        return
    text = f"More than {search['index_from']:,} images: {SLOW}."
    if search["library"]:
        text = (
            f"More than {search['index_from']:,} images: an index ({search['library']}) proposed "
            "the pairs that were compared. It can miss a few links; it invents none."
        )
    yield _entry("info", "search", text)


def _parts(passport: Passport) -> Iterator[Finding]:
    given = passport["given_parts"]
    if given["leaking_components"]:
        images = sum(len(group) for group in given["leaking_components"])
        yield _entry(
            "error",
            "given-parts-leak",
            f"The data's own parts ({', '.join(given['parts'])}) share "
            f"{plural(len(given['leaking_components']), 'group')} of equal or overlapping images "
            f"({plural(images, 'image')}).",
        )
    if given["leaking_patients"]:
        yield _entry(
            "error",
            "given-parts-share-patients",
            f"{plural(len(given['leaking_patients']), 'patient')} "
            f"{is_or_are(len(given['leaking_patients']))} in more than one of the "
            f"data's own parts, e.g. {next(iter(given['leaking_patients']))}.",
        )


def _patients(passport: Passport) -> Iterator[Finding]:
    patients = passport["patients"]
    if not patients["n"]:
        yield _entry(
            "warning",
            "no-patients",
            "No patient is named, so a score on unseen patients cannot be measured; the "
            "acquisition protocols are a proxy.",
        )
        return
    if patients["images"] < passport["n_usable"]:
        missing = passport["n_usable"] - patients["images"]
        yield _entry(
            "warning",
            "patients-missing",
            f"{plural(missing, 'image')} without a patient id: as long as one lacks it, a score on "
            "unseen patients cannot be measured.",
        )
    yield from _joined_patients(patients["merged"])
    if patients["links_across"]:
        yield _entry(
            "warning",
            "patients-overlap",
            f"{plural(patients['links_across'], 'pair')} of overlapping images or near-duplicates "
            "with different patient ids: check the ids.",
        )
    if single := of_one_patient(patients["by_class"]):
        yield _entry("warning", "class-of-one-patient", single)
    few = [
        f"{class_title(name)} {count}"
        for name, count in patients["by_class"].items()
        if count < FEW_PATIENTS
    ]
    if few:
        yield _entry(
            "warning",
            "few-patients",
            f"Few patients ({', '.join(few)}): a score on unseen patients is uncertain, however "
            "many images there are.",
        )


def of_one_patient(patients: Mapping[str, int]) -> str:
    """A warning of classes that one patient alone has; empty where each has several.

    Args:
        patients: Number of patients of each class; 0 where none is named.

    >>> of_one_patient({"aml": 1, "apl": 7})
    'AML: images of one patient alone. Whether a model learns the class or the patient is unknown.'
    >>> of_one_patient({"aml": 3, "apl": 0})
    ''
    """
    found = [class_title(name) for name, count in patients.items() if count == 1]
    if not found:
        return ""
    return (
        f"{', '.join(found)}: images of one patient alone. Whether a model learns the class or the "
        "patient is unknown."
    )


def _joined_patients(merged: list[list[str]]) -> Iterator[Finding]:
    """Which ids stand for one patient, because of their cells or of their spelling."""
    alike: list[str] = []
    for group in merged:
        spelled: dict[str, list[str]] = {}
        for name in group:
            spelled.setdefault(patient_spelling(name), []).append(name)
        alike += [_either(names) for names in spelled.values() if len(names) > 1]
        if len(spelled) > 1:
            yield _entry(
                "warning",
                "patients-merged",
                f"The patient ids {', '.join(group)} share the same cells: treated as one patient.",
            )
    if alike:
        more = len(alike) - MOST_NAMED
        rest = f" and {more:,} more" if more > 0 else ""
        yield _entry(
            "warning",
            "patients-spelled-alike",
            f"{plural(len(alike), 'patient')} {is_or_are(len(alike))} written in several ways "
            f"({'; '.join(alike[:MOST_NAMED])}{rest}): ids that differ only in case, outer spaces "
            "or separator are treated as one patient. Write them alike; if they are different "
            "people, give them ids that differ in more than that.",
        )


def _either(names: list[str]) -> str:
    """Ids as they are written; in quotes where a space at an end could not be seen."""
    return " = ".join(name if name == name.strip() else repr(name) for name in names)


def _bars(passport: Passport) -> Iterator[Finding]:
    bars = passport["scale_bars"]
    if not bars["images"]:
        return
    v = bars["cramers_v"]
    strong = v is not None and v >= STRONG
    tail = (
        f" Its style follows the class (Cramér's V {v:.2f}): a model can read the class off it."
        if strong
        else " A model may read the session off it."
    )
    number, n = bars["images"], passport["n_usable"]
    share = "less than 0.1 %" if number < 0.001 * n else f"{100 * number / n:.1f} %"
    few = number < FEW_BARS * n and not strong
    seen = "what looks like a burned-in scale bar" if few else "a burned-in scale bar"
    yield _entry(
        "info" if few else "warning",
        "scale-bar",
        f"{number:,} of {plural(n, 'image')} ({share}) {'has' if number == 1 else 'have'} "
        f"{seen}.{tail}",
    )


def _acquisition(passport: Passport) -> Iterator[Finding]:
    acquisition = passport["acquisition"]
    if not acquisition["applicable"]:
        yield _entry(
            "info",
            "acquisition-not-applicable",
            f"Acquisition clusters do not apply: {acquisition['reason']}.",
        )
        return
    v = acquisition["cramers_v"]
    if v is None:
        return
    strong = v >= STRONG
    yield _entry(
        "warning" if strong else "info",
        "acquisition-follows-class" if strong else "acquisition",
        f"{acquisition['clusters']} clusters of background appearance, found without labels, "
        + (
            f"follow the class (Cramér's V {v:.2f}): stain and light alone may suffice to guess it."
            if strong
            else f"hardly follow the class (Cramér's V {v:.2f})."
        ),
    )
    spanning = acquisition["components_spanning_clusters"]
    if spanning:
        yield _entry(
            "info",
            "clusters-cut-slides",
            f"{plural(spanning, 'group')} of overlapping fields in several clusters: clusters cut "
            f"slides in two. Joined with them, {acquisition['merged_clusters']} remain (largest "
            f"{plural(acquisition['largest_merged'], 'image')}).",
        )


def _columns(passport: Passport) -> Iterator[Finding]:
    columns = passport.get("columns", [])
    tested = sum(column["p"] is not None for column in columns)
    for column in columns:
        if column["p_holm"] is None or column["p_holm"] >= LEVEL or not column["effect"]:
            continue
        name, p = column["column"], column["p_holm"]
        shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
        family = f", corrected for {tested} columns" if tested > 1 else ""
        biology = name in OF_THE_DISEASE
        weak = column["effect"] < WEAK
        how = "is weakly associated with the class" if weak else "follows the class"
        yield _entry(
            "info" if biology else "warning",
            "column-follows-class",
            f"The column {name} ({plural(column['values'], 'value')}) {how} "
            f"({column['measure']} {column['effect']:.2f}, {shown} by permutation of "
            f"{column['unit']}s{family}): "
            + (
                "both may be the disease; it says nothing of how the images were made."
                if biology
                else "a model may read it from the images in place of the disease."
            ),
        )

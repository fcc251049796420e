"""Facts about the data: where they come from, what was left out, how they were divided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from leukoscope.core.labels import class_title
from leukoscope.core.protocols import protocol_title
from leukoscope.core.records import PARTS, Fold
from leukoscope.datasets.split_checks import count_shared
from leukoscope.reporting.formats import count, number, plural
from leukoscope.reporting.study import data
from leukoscope.reporting.study.facts import Answer, answer, listed, shown
from leukoscope.reporting.study_files import Study

_MADE_WITH = ("train", "val", "cal")


def data_source(study: Study) -> Answer | None:
    """Which files, and whether they are those of a data set that a frozen passport names."""
    from leukoscope.datasets.frozen_passports import recognise

    known = recognise(study.manifest)
    sha256 = study.passport.get("sha256") if study.passport else None
    return answer(
        [
            f"{plural(len(study.manifest.images), 'image file')} in the folder `{study.name}`, "
            f"{_megapixels(study)}.",
            f"{plural(known[1], 'file')} of them {'is' if known[1] == 1 else 'are'} byte for byte "
            f"in the frozen passport `{known[0].name}`: {known[0].title} (doi {known[0].doi})."
            if known
            else "",
            f"The audit's passport has SHA-256 `{sha256}`." if sha256 else "",
        ],
        "manifest.csv",
        "passport.json",
    )


def _megapixels(study: Study) -> str:
    sizes = Counter((r.width, r.height) for r in study.manifest.usable)
    kinds = Counter(PurePosixPath(r.path).suffix.lower() for r in study.manifest.usable)
    shown = [f"{w} × {h} px ({count(n)})" for (w, h), n in sizes.most_common(3)]
    return f"{listed(sorted(kinds))}; width × height {listed(shown)}" + (
        f" and {plural(len(sizes) - 3, 'further size')}" if len(sizes) > 3 else ""
    )


def study_design(study: Study) -> Answer | None:
    """Nothing was collected: the study reads files that exist."""
    return answer(
        ["The study collected no images and followed no one: it read image files that existed."],
        "manifest.csv",
    )


def eligibility(study: Study) -> Answer | None:
    """What was used and what was set aside, by reason."""
    images, usable = study.manifest.images, study.manifest.usable
    aside = Counter(
        f"{r.status}: {(r.reason or 'no reason given').partition(':')[0]}"
        for r in images
        if r.status != "ok"
    )
    reasons = [f"{reason} ({count(n)})" for reason, n in aside.most_common()]
    return answer(
        [
            f"Every file that could be read and that the data set gives a class was used: "
            f"{count(len(usable))} of {count(len(images))}.",
            f"Set aside: {listed(reasons)}." if reasons else "None was set aside.",
        ],
        "manifest.csv",
    )


def subsets(study: Study) -> Answer | None:
    """Whether all that is usable took part."""
    folds = [fold for _, found in _folds(study) for fold in found]
    if not folds:
        return None
    placed = {image_id for fold in folds for image_id in fold.parts}
    purged = [n for fold in folds if (n := len(fold.ids("purged")))]
    return answer(
        [
            f"{count(len(placed))} of {plural(len(study.rows.usable), f'usable {study.row}')} "
            "take part; the program draws no subset.",
            f"In {len(purged)} of {plural(len(folds), 'fold')}, {count(min(purged))} to "
            f"{count(max(purged))} {study.row}s are kept out of training because they overlap a "
            f"test {study.row}."
            if purged
            else "",
        ],
        "splits.csv",
    )


def missing_data(study: Study) -> Answer | None:
    """Unreadable files, absent patient ids; nothing is imputed."""
    usable = study.manifest.usable
    unreadable = len(study.manifest.unreadable)
    unnamed = sum(not r.patient_id for r in usable)
    return answer(
        [
            f"{plural(unreadable, 'file')} could not be read and "
            f"{'was' if unreadable == 1 else 'were'} left out; nothing was imputed."
            if unreadable
            else "Every file could be read; nothing was imputed.",
            f"{count(unnamed)} of {plural(len(usable), 'usable image')} "
            "have no patient id in the files.",
        ],
        "manifest.csv",
    )


def labels(study: Study) -> Answer | None:
    """The reference standard as far as the files know it."""
    layout, conflicts = study.config.data.layout, None
    if study.passport is not None:
        layout, conflicts = study.passport["layout"], study.passport["label_conflicts"]
    mapped, stated = study.config.data.class_map, study.config.data.roles
    return answer(
        [
            f"The class of each image is the one that the data set itself gives (layout "
            f"`{layout}`); how it was made is not in the files.",
            f"Names mapped by the user: {listed(f'{a} → {b}' for a, b in mapped.items())}."
            if mapped
            else "",
            "Roles stated by the user: "
            f"{listed(f'{class_title(a)} is {b}' for a, b in stated.items())}."
            if stated
            else "",
            ""
            if conflicts is None
            else f"Among images that the audit links, {plural(len(conflicts), 'group')} "
            f"{'carries' if len(conflicts) == 1 else 'carry'} two classes.",
        ],
        "manifest.csv",
        "passport.json",
    )


def classes(study: Study) -> Answer | None:
    """How many images of each class, and how many patients where they are known."""
    found = Counter(r.label for r in study.manifest.usable)
    return answer(
        [
            f"{plural(len(study.manifest.usable), 'usable image')}: "
            + ", ".join(f"{class_title(n)} {count(found[n])}" for n in study.manifest.class_names)
            + ".",
            _patients(study),
        ],
        "manifest.csv",
    )


def _patients(study: Study) -> str:
    named: dict[str, set[str]] = {}
    for record in study.manifest.usable:
        if record.patient_id:
            named.setdefault(record.label, set()).add(record.patient_id)
    if not named:
        return "No patient is named, so patients cannot be counted."
    each = ", ".join(f"{class_title(n)} {count(len(ids))}" for n, ids in named.items())
    return f"Patients: {each}."


def class_parts(study: Study) -> Answer | None:
    """The classes of each part: mean shares over the folds of each protocol."""
    label = {r.image_id: r.label for r in study.rows.usable}
    sentences = []
    for protocol, folds in _folds(study):
        shares = []
        for part in PARTS:
            found = Counter(label.get(i, "") for f in folds for i in f.ids(part))
            total = sum(found.values())
            if total:
                each = " / ".join(
                    number(found[n] / total, "share").removesuffix(" %") for n in study.class_names
                )
                shares.append(f"{part} {each} %")
        sentences.append(f"{protocol_title(protocol)}: {', '.join(shares)}.")
    order = " / ".join(class_title(name) for name in study.class_names)
    return answer([f"Classes ({order}).", *sentences] if sentences else [], "splits.csv")


def image_format(study: Study) -> Answer | None:
    """What the files tell of the acquisition: formats, sizes, scale bars."""
    bars = study.passport["scale_bars"]["images"] if study.passport else 0
    return answer(
        [
            f"The files: {_megapixels(study)}.",
            f"A scale bar is burned into {count(bars)} of them." if bars else "",
        ],
        "manifest.csv",
        "passport.json",
    )


def partitions(study: Study) -> Answer | None:
    """How images were assigned, and how many stand in each part under each protocol."""
    found = shown([data.parts(study)], "splits.csv", "config.toml")
    seed = study.config.seed
    text = f"Assigned by the program from the files' contents with seed {seed}, see the table:"
    return found and replace(found, text=text)


def disjointness(study: Study) -> Answer | None:
    """For each protocol: what is tested and tied to what the model was made with, counted."""
    rows, counted = study.rows.usable, study.row
    patients = {r.image_id: r.patient_id for r in rows if r.patient_id and counted == "image"}
    tied = {r.image_id: r.group_id for r in rows if r.group_id}
    overlaps = "overlap or repeat" if counted == "image" else "have images that overlap or repeat"
    sentences = []
    for protocol, folds in _folds(study):
        tested = sum(len(fold.ids("test")) for fold in folds)
        if not tested:
            continue
        counts = [
            f"{count(sum(count_shared(f, groups, ('test',), _MADE_WITH) for f in folds))} {words}"
            for groups, words in ((patients, "share a patient"), (tied, overlaps))
            if groups
        ]
        if counts:
            sentences.append(
                f"{protocol_title(protocol)}: of {count(tested)} test {counted}s "
                f"{' and '.join(counts)} an image of train, val or cal."
            )
    if sentences and not any(record.patient_id for record in rows):
        sentences.append(
            "No patient ids are in the files: that no patient stands on two sides cannot be shown."
        )
    return answer(sentences, "splits.csv", "manifest.csv")


def leakage_audit(study: Study) -> Answer | None:
    """Duplicates, overlaps and twins as the audit counted them."""
    return shown([data.ties(study)], "passport.json")


def sample_size(study: Study) -> Answer | None:
    """The size that there was; none was planned."""
    n = plural(len(study.rows.usable), f"usable {study.row}")
    text = f"The program computed no sample size: all of the data set's {n} took part."
    return answer([text], "manifest.csv")


def _folds(study: Study) -> list[tuple[str, Sequence[Fold]]]:
    """The folds of each protocol with results."""
    return [
        (protocol, folds)
        for protocol in study.protocols
        if (folds := [fold for fold in study.folds if fold.protocol == protocol])
    ]

"""The sections on the data and on how the run can be repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from leukoscope.core.labels import order_classes
from leukoscope.reporting import data_tables as tables
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Code,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Section,
    present,
)
from leukoscope.reporting.figures.data import class_balance, cluster_heat_map
from leukoscope.reporting.formats import count, finite, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.source import Study, class_title


def passport(study: Study, gallery: Gallery) -> Section:
    """What the data set is, and what is wrong with it."""
    manifest, record = study.manifest, study.passport
    files, usable = len(manifest.images), len(manifest.usable)
    blocks: list[Block] = [
        Paragraph(
            f"`{study.name}`: {plural(files, 'image file')} found, {count(usable)} usable, "
            f"{count(files - usable)} set aside"
            + (f"; layout `{record['layout']}`." if record.get("layout") else ".")
        )
    ]
    if not record:
        blocks.append(Paragraph("There is no passport: the data was not audited.", note=True))
    blocks += [tables.classes(study), _balance_chart(study, gallery)]
    blocks += present(tables.findings(study), tables.unused(study), tables.ties(study))
    blocks += _overlap_sheet(study, gallery)
    blocks += _patients(study)
    blocks += _acquisition(study, gallery)
    blocks += present(tables.scale_bars(study))
    split = tables.parts(study)
    if split is not None:
        blocks += [Heading("How it was divided"), split]
    return Section("data", "The data’s passport", blocks)


def _balance_chart(study: Study, gallery: Gallery) -> Picture:
    found = Counter(record.label for record in study.manifest.usable)
    counts = {name: found[name] for name in order_classes(found)}
    total = sum(counts.values())
    return gallery.draw(
        "class-balance",
        lambda: class_balance(counts, title=f"Images per class, n = {count(total)}"),
        caption=f"Class balance of the {plural(total, 'usable image')}.",
        alt=", ".join(f"{class_title(name)} {count(n)}" for name, n in counts.items()),
    )


def _overlap_sheet(study: Study, gallery: Gallery) -> list[Block]:
    sheets = sorted(study.run.figures.glob("overlaps*.png"))
    if not sheets:
        return []
    picture = gallery.stored(
        sheets[0],
        caption=(
            "Images that show the same place or the same cell, found by the audit, largest groups "
            "first; a random split puts them on both sides "
            f"(n = {count(len(study.manifest.usable))} images)."
        ),
        alt="Groups of overlapping or nearly equal images, side by side.",
        most_px=1440,
    )
    return present(picture)


def _patients(study: Study) -> list[Block]:
    known = {r.patient_id for r in study.manifest.usable if r.patient_id}
    if not known:
        return [Paragraph("No patient or subject is named, so patients cannot be held out.")]
    named = sum(bool(r.patient_id) for r in study.manifest.usable)
    return [
        Paragraph(
            f"{plural(len(known), 'patient')} named, over {count(named)} of "
            f"{plural(len(study.manifest.usable), 'image')}."
        )
    ]


def _acquisition(study: Study, gallery: Gallery) -> list[Block]:
    records = [r for r in study.manifest.usable if r.acquisition_id]
    if not records:
        return []
    names = order_classes(r.label for r in records)
    row = {name: k for k, name in enumerate(names)}
    clusters = sorted({r.acquisition_id for r in records})
    column = {name: c for c, name in enumerate(clusters)}
    matrix = np.zeros((len(names), len(clusters)), dtype=np.int64)
    np.add.at(
        matrix, ([row[r.label] for r in records], [column[r.acquisition_id] for r in records]), 1
    )
    order = sorted(range(len(clusters)), key=lambda c: (matrix[:, c].argmax(), -matrix[:, c].max()))
    pure = int((matrix.max(axis=0) / matrix.sum(axis=0) >= 0.9).sum())
    v = finite((study.passport.get("acquisition") or {}).get("cramers_v"))
    strength = (
        "" if v is None else f" Cramér’s V between cluster and class is {v:.2f} (1 is total)."
    )
    title = f"Classes over acquisition clusters, n = {count(len(records))} images"
    return [
        Heading("Acquisition clusters"),
        Paragraph(
            "Images were grouped by the look of their background, without their labels. "
            f"{count(pure)} of {plural(len(clusters), 'cluster')} hold one class to 90 % or more: "
            f"the more there are, the easier the class is guessed from stain and light.{strength}"
        ),
        gallery.draw(
            "clusters-by-class",
            lambda: cluster_heat_map(
                matrix[:, order], names, [clusters[c] for c in order], title=title
            ),
            caption=(
                f"How each of {plural(len(clusters), 'acquisition cluster')} divides over the "
                f"classes (n = {count(len(records))} images; numbers are images)."
            ),
            alt=f"{pure} of {len(clusters)} clusters hold one class to 90 per cent or more.",
        ),
    ]


def reproduce(study: Study) -> Section:
    """Command, environment, hashes, wall times."""
    env = study.environment
    command = str(env.get("command") or "").strip()
    blocks: list[Block] = []
    if command:
        blocks += [Paragraph("This study was made with:"), Code(command)]
    blocks.append(
        Paragraph(
            "Every option, defaults included, stands in `config.toml`; the division of the images "
            "with their hashes in `splits.csv`; every probability behind the figures in "
            "`predictions.csv`."
        )
    )
    git = env.get("git")
    if isinstance(git, Mapping) and git.get("dirty"):
        blocks.append(
            Paragraph("The source tree held uncommitted changes: the commit alone does not "
                      "reproduce this run.", note=True)
        )  # fmt: skip
    blocks.append(Folded("Every setting of each recipe", (tables.settings(study),)))
    blocks += present(tables.environment(study), tables.wall_times(study))
    if not env:
        blocks.append(Paragraph("`environment.json` is absent: versions are not known.", note=True))
    if study.absent:
        blocks.append(Bullets(tuple(f"`{n}` was not in the study’s folder." for n in study.absent)))
    return Section("reproduce", "How to reproduce", blocks)

"""The report of a study: one page that opens offline, the same as text, and the model card."""

from __future__ import annotations

from collections.abc import Callable

from leukoscope.core.files import write_text
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.content import Head, References, Section, Tab, Terms
from leukoscope.reporting.formats import count
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.markup import write_page
from leukoscope.reporting.study import (
    data,
    decisions,
    examples,
    first_screen,
    models,
    patient_results,
    results,
    study_patients,
)
from leukoscope.reporting.study.card import card_text
from leukoscope.reporting.study.checklists import write_checklists
from leukoscope.reporting.study.damaged_images import robustness
from leukoscope.reporting.study.other_data import external, rejection
from leukoscope.reporting.study.shortcuts import probe_metrics, shortcuts, why
from leukoscope.reporting.study_files import Study, load_study
from leukoscope.reporting.wording import GLOSSARY, REFERENCES


def write_report(run: RunFolder, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write figures, ``report.html``, ``report.md``, ``model_card.md``, ``checklists/*.md``.

    Reads the files of the study's folder and, for thumbnails, the images below the data's path;
    images that are gone are left out with a note.

    Args:
        run: The folder, with at least ``config.toml``, ``manifest.csv`` and ``metrics.json``.
        progress: Told (done, total) after each step.

    Raises:
        DataError: A needed file is missing or damaged.
        ConfigError: ``config.toml`` is missing or invalid.
    """
    study = load_study(run)
    gallery = Gallery(run)
    tabs: list[Tab] = []
    done, total = 0, 1 + sum(len(makers) for _, makers in PARTS)
    for title, makers in PARTS:
        sections: list[Section] = []
        for make in makers:
            sections += make(study, gallery)
            done += 1
            if progress is not None:
                progress(done, total)
        tabs.append(Tab(anchor(title), title, sections))
    write_page(run.report_html, head(study), tabs, markdown=run.report_md)
    write_text(run.model_card, card_text(study))
    if progress is not None:
        progress(total, total)


def anchor(title: str) -> str:
    """A tab's identifier.

    >>> anchor("Calibration and decisions")
    'part-calibration-and-decisions'
    """
    return f"part-{title.lower().replace(' ', '-')}"


def head(study: Study) -> Head:
    """What stands above the tabs: name, facts, verdict, what the accuracy is made of."""
    usable = study.manifest.usable
    patients = len({record.patient_id for record in usable})
    facts = (
        *([(f"{count(patients)}", "patients")] if study.row == "patient" else []),
        (f"{count(len(usable))}", "usable images"),
        (f"{len(study.class_names)}", "classes"),
        (f"{len(study.protocols)}", "protocol" if len(study.protocols) == 1 else "protocols"),
        (", ".join(study.recipes), "recipe" if len(study.recipes) == 1 else "recipes"),
    )
    return Head(
        kind="study report",
        title=f"Leukoscope study of {study.name}",
        name=study.name,
        facts=facts,
        headline=first_screen.headline(study),
        lead=first_screen.lead(study),
    )


def subjects(study: Study, gallery: Gallery) -> list[Section]:
    """The patients: the unit of the study, or its images aggregated."""
    if study.row == "patient":
        return [study_patients.tested_patients(study, gallery)]
    return [patient_results.subjects(study, gallery)]


def images(study: Study, gallery: Gallery) -> list[Section]:
    """What single images show: heat maps and examples, or the cells that decided."""
    if study.row == "patient":
        return [study_patients.deciding_cells(study, gallery)]
    return [examples.explanations(study, gallery), examples.examples(study, gallery)]


def closing(study: Study) -> list[Section]:
    """Glossary and sources."""
    # Where "Benign" is any benign cell, it is not what the glossary says of the ALL sets.
    other = {"Benign"} if "benign_cell" in study.class_names else set[str]()
    terms = tuple((name, meaning) for name, meaning in GLOSSARY if name not in other)
    return [
        Section("glossary", "Glossary", [Terms(terms)]),
        Section("sources", "Sources of the methods", [References(REFERENCES)]),
    ]


Maker = Callable[[Study, Gallery], list[Section]]
PARTS: tuple[tuple[str, tuple[Maker, ...]], ...] = (
    (
        "Evidence",
        (
            lambda study, _: [why(study)],
            lambda study, gallery: [external(study, gallery)],
            lambda study, _: [shortcuts(study), results.scope(study)],
        ),
    ),
    (
        "Performance",
        (
            lambda study, _: [results.glance(study)],
            lambda study, gallery: [results.class_results(study, gallery)],
            subjects,
            lambda study, _: [results.by_subgroup(study)],
            lambda study, gallery: [results.protocols(study, gallery), results.folds(study)],
            lambda study, gallery: [*robustness(gallery), *models.ensembles(study)],
            lambda study, _: [probe_metrics(study)],
        ),
    ),
    (
        "Calibration and decisions",
        (
            lambda study, gallery: [decisions.calibration(study, gallery)],
            lambda study, gallery: [decisions.decisions(study, gallery)],
            lambda study, gallery: [rejection(study, gallery)],
        ),
    ),
    ("Data", (lambda study, gallery: [data.passport(study, gallery)],)),
    ("Where it looks", (images,)),
    (
        "Reproduce",
        (
            lambda study, gallery: [models.training(study, gallery), data.reproduce(study)],
            lambda study, _: [write_checklists(study.run, study), *closing(study)],
        ),
    ),
)
"""The parts of the page, each with the makers of its sections, in the order of reading."""

"""The report of a study: one page that opens offline, the same as text, and the model card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leukoscope.core.files import write_text
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.content import References, Section, Terms
from leukoscope.reporting.formats import count, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.markup import write_page
from leukoscope.reporting.study import (
    data,
    decisions,
    examples,
    models,
    patient_results,
    results,
    study_patients,
)
from leukoscope.reporting.study.card import card_text
from leukoscope.reporting.study.checklists import write_checklists
from leukoscope.reporting.study.damaged_images import robustness
from leukoscope.reporting.study.dashboard import dashboard
from leukoscope.reporting.study.other_data import external, rejection
from leukoscope.reporting.study.shortcuts import shortcuts
from leukoscope.reporting.study_files import Study, load_study
from leukoscope.reporting.wording import GLOSSARY, REFERENCES, level_title


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
    steps: list[Callable[[], list[Section]]] = [
        lambda: results.overview(study),
        lambda: [external(study, gallery)],
        lambda: [shortcuts(study, gallery)],
        lambda: [data.passport(study, gallery)],
        lambda: [results.protocols(study, gallery)],
        lambda: [dashboard(study, gallery)],
        lambda: [results.folds(study)],
        lambda: [results.class_results(study, gallery)],
        lambda: [subjects(study, gallery)],
        lambda: [decisions.calibration(study, gallery)],
        lambda: [decisions.decisions(study, gallery)],
        lambda: [rejection(study, gallery)],
        lambda: robustness(gallery),
        lambda: models.ensembles(study),
        lambda: [models.training(study, gallery)],
        lambda: images(study, gallery),
        lambda: [data.reproduce(study)],
        lambda: [write_checklists(run, study), *closing(study)],
    ]
    sections: list[Section] = []
    for done, step in enumerate(steps, start=1):
        sections += step()
        if progress is not None:
            progress(done, len(steps) + 1)
    write_page(run.report_html, head(study), sections, markdown=run.report_md)
    write_text(run.model_card, card_text(study))
    if progress is not None:
        progress(len(steps) + 1, len(steps) + 1)


def head(study: Study) -> dict[str, Any]:
    """What stands above the sections: title, facts, verdict."""
    verdict = study.metrics.verdict
    level: str = verdict.level
    word, sign = level_title(level)
    usable = study.manifest.usable
    patients = len({record.patient_id for record in usable})
    facts = (
        *([(f"{count(patients)}", "patients")] if study.row == "patient" else []),
        (f"{count(len(usable))}", "usable images"),
        (f"{len(study.class_names)}", "classes"),
        (f"{len(study.protocols)}", "protocol" if len(study.protocols) == 1 else "protocols"),
        (", ".join(study.recipes), "recipe" if len(study.recipes) == 1 else "recipes"),
    )
    who = f"{plural(patients, 'patient')}, " if study.row == "patient" else ""
    return {
        "title": f"Leukoscope study of {study.name}",
        "name": study.name,
        "summary": f"{who}{plural(len(usable), 'image')}, {', '.join(study.recipes)}",
        "facts": facts,
        "headline": verdict.headline,
        "level": level.removesuffix("-by-clusters"),
        "level_word": word,
        "level_sign": sign,
    }


def subjects(study: Study, gallery: Gallery) -> Section:
    """The patients: the unit of the study, or its images aggregated."""
    if study.row == "patient":
        return study_patients.tested_patients(study, gallery)
    return patient_results.subjects(study, gallery)


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

"""The report on a model that was not made here: one page, and the same as text."""

from __future__ import annotations

from typing import Any

from leukoscope.config.study import StudyConfig
from leukoscope.core.files import read_json, write_text
from leukoscope.core.records import Manifest, load_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.reporting import data_sections
from leukoscope.reporting.class_sections import class_results
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Heading,
    Paragraph,
    References,
    Section,
    Terms,
    present,
)
from leukoscope.reporting.formats import count
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.markup import render, stylesheet
from leukoscope.reporting.result_tables import headline, inapplicable
from leukoscope.reporting.shortcut_sections import shortcuts
from leukoscope.reporting.source import Study
from leukoscope.reporting.wording import DISCLAIMER, GLOSSARY, REFERENCES, level_title

_FIXED = (
    "The model was not trained here: its predictions are the same under every protocol. A protocol "
    "says on which folds the probes beside it were fitted, and what its intervals resample."
)


def write_foreign_report(run: RunFolder, config: StudyConfig, name: str) -> None:
    """Write ``report.html``, ``report.md`` and the figures of a foreign model's audit.

    Args:
        run: The folder with the audit's other files.
        config: What was asked for.
        name: The model's, as it stands in ``metrics.json``.
    """
    study, gallery = _study(run, config, name), Gallery(run)
    metrics = study.metrics
    verdict = metrics["verdict"]
    measured: list[Block] = [Paragraph(_FIXED), headline(study)]
    why: list[Block] = [Bullets(tuple(verdict["findings"]))]
    if metrics["warnings"]:
        why += [Heading("Warnings"), Bullets(tuple(metrics["warnings"]))]
    why.append(Paragraph(f"The rule behind the verdict: {verdict['rule']}", note=True))
    sections = [
        Section("results", "Results at a glance", measured),
        shortcuts(study, gallery),
        Section("why", "Why this verdict", [*why, *present(inapplicable(study))]),
        data_sections.passport(study, gallery),
        class_results(study, gallery),
        Section("glossary", "Glossary", [Terms(GLOSSARY)]),
        Section("sources", "Sources of the methods", [References(REFERENCES)]),
    ]
    values = _head(study, name) | {"sections": [s for s in sections if s.blocks]}
    write_text(run.report_html, render("report.html.j2", css=stylesheet(), **values))
    write_text(run.report_md, render("report.md.j2", **values))


def _study(run: RunFolder, config: StudyConfig, name: str) -> Study:
    # Sections ask a study for its recipes' names only.
    stand_in = config.recipes[0].model_copy(update={"name": name})
    return Study(
        run=run,
        config=config.model_copy(update={"recipes": (stand_in,)}),
        environment={},
        manifest=Manifest.load(run.manifest, config.data.root),
        passport=read_json(run.passport),
        folds=load_folds(run.splits),
        predictions=PredictionTable.load(run.predictions),
        metrics=read_json(run.metrics),
        histories=(),
        explanations=(),
    )


def _head(study: Study, name: str) -> dict[str, Any]:
    verdict = study.metrics["verdict"]
    word, sign = level_title(verdict["level"])
    n = max((int(entry["n"]) for entry in study.results), default=0)
    facts = (
        (count(n), "images judged"),
        (f"{len(study.class_names)}", "classes"),
        (name, "the model"),
    )
    return {
        "title": f"Leukoscope audit of {name}",
        "name": name,
        "summary": f"{count(n)} images of {study.config.data.root.name}",
        "facts": facts,
        "headline": verdict["headline"],
        "level": verdict["level"],
        "level_word": word,
        "level_sign": sign,
        "disclaimer": DISCLAIMER,
    }

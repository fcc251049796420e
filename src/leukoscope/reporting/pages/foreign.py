"""The report on a model that was not made here: one page, and the same as text."""

from __future__ import annotations

from dataclasses import replace

from leukoscope.config.study import StudyConfig
from leukoscope.core.records import Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.reporting.content import Block, Paragraph, Section, Tab, present
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.markup import write_page
from leukoscope.reporting.result_tables import headline, inapplicable
from leukoscope.reporting.study import data
from leukoscope.reporting.study.report import anchor, closing, head
from leukoscope.reporting.study.results import by_subgroup, class_results
from leukoscope.reporting.study.shortcuts import probe_metrics, shortcuts, why
from leukoscope.reporting.study_files import Study

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
    measured: list[Block] = [Paragraph(_FIXED), headline(study), *present(inapplicable(study))]
    parts: dict[str, list[Section]] = {
        "Evidence": [why(study), shortcuts(study)],
        "Performance": [
            Section("results", "Results at a glance", measured),
            class_results(_once(study), gallery),
            by_subgroup(study),
            probe_metrics(study),
        ],
        "Data": [data.passport(study, gallery)],
        "Terms": closing(study),
    }
    top = replace(head(study), kind=f"audit of a model on {study.name}", name=name,
                  title=f"Leukoscope audit of {name}")  # fmt: skip
    tabs = [Tab(anchor(title), title, sections) for title, sections in parts.items()]
    write_page(run.report_html, top, tabs, markdown=run.report_md)


def _once(study: Study) -> Study:
    """With one of its results, which are all alike; no ROC curve of predicted classes alone."""
    first = study.metrics.results[:1]
    known = bool(first) and "log_loss" in first[0].metrics
    return replace(
        study,
        metrics=study.metrics.model_copy(update={"results": first}),
        predictions=study.predictions if known else None,
    )


def _study(run: RunFolder, config: StudyConfig, name: str) -> Study:
    # Sections ask a study for its recipes' names only.
    stand_in = config.recipes[0].model_copy(update={"name": name})
    files = RunFiles(run)  # there is no config.toml: nothing of it can be run again
    return Study(
        run=run,
        config=config.model_copy(update={"recipes": (stand_in,)}),
        environment=None,
        manifest=Manifest.load(run.manifest, config.data.root),
        passport=files.passport,
        folds=files.splits,
        predictions=files.predictions,
        metrics=files.metrics,
        histories=(),
        explanations=(),
    )

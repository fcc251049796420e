"""The model card: what a model is for, what it is not for, and what is known about it."""

from __future__ import annotations

import leukoscope
from leukoscope.core.labels import CLASSES
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting import data_tables, decision_tables, result_tables
from leukoscope.reporting.formats import interval
from leukoscope.reporting.markup import render
from leukoscope.reporting.scope import cannot_show
from leukoscope.reporting.source import Study, class_title, load_study
from leukoscope.reporting.wording import (
    DISCLAIMER,
    input_title,
    level_title,
    protocol_title,
)


def render_model_card(run: RunFolder) -> str:
    """The model card of a study's first recipe, as Markdown.

    Args:
        run: The study's folder; ``environment.json`` and the bundle need not be there yet.

    Raises:
        DataError: A needed file is missing or damaged.
    """
    return card_text(load_study(run))


def card_text(study: Study) -> str:
    """The model card of a study that is already in memory."""
    recipe = study.config.recipes[0]
    verdict = study.metrics["verdict"]
    return render(
        "model_card.md.j2",
        recipe=recipe,
        disclaimer=DISCLAIMER,
        name=str(study.passport.get("root_name") or study.config.data.root.name),
        headline=str(verdict.get("headline", "")),
        level=level_title(str(verdict.get("level", "inconclusive")))[0],
        classes=[
            (class_title(name), name, CLASSES[name].description if name in CLASSES else "")
            for name in study.class_names
        ],
        benign="benign" in study.class_names,
        tables=[
            table
            for table in (
                result_tables.headline(study),
                result_tables.further(study),
                result_tables.inapplicable(study),
            )
            if table is not None
        ],
        data_table=data_tables.classes(study),
        shortcuts=_shortcuts(study),
        decisions=decision_tables.sets(study),
        limits=cannot_show(study),
        findings=[str(e.get("text", "")) for e in study.passport.get("findings", ())],
        environment=data_tables.environment(study),
        version=str(
            (study.environment.get("packages") or {}).get("leukoscope", leukoscope.__version__)
        ),
        passport_sha256=str(study.passport.get("sha256", "")),
        seed=study.config.seed,
    )


def _shortcuts(study: Study) -> list[str]:
    """One sentence per probe and protocol, beside what the model reaches."""
    sentences = []
    for entry in study.metrics.get("probes", ()):
        model = study.result(study.recipes[0], entry["protocol"])
        beside = (
            f"; the whole image {interval(model['metrics'].get('accuracy'), 'accuracy')}"
            if model is not None
            else ""
        )
        sentences.append(
            f"{protocol_title(entry['protocol'])}: {input_title(entry['probe'])} "
            f"{interval(entry['metrics'].get('accuracy'), 'accuracy')}{beside} "
            f"({result_tables.sample(entry)})."
        )
    return sentences

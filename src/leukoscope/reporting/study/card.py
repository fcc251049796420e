"""The model card; its sections are those of Mitchell et al. 2019 (doi 10.1145/3287560.3287596)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from leukoscope.core.labels import class_description, class_title, malignant_mask, role_of
from leukoscope.core.program import __version__
from leukoscope.core.protocols import protocol_title
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting import result_tables
from leukoscope.reporting.content import Column, Table, present
from leukoscope.reporting.formats import count, interval, number, plural
from leukoscope.reporting.markup import render
from leukoscope.reporting.study import data, data_facts, decision_tables, model_facts, result_facts
from leukoscope.reporting.study.facts import Answer
from leukoscope.reporting.study.results import cannot_show
from leukoscope.reporting.study.shortcuts import audit_of
from leukoscope.reporting.study_files import Study, load_study
from leukoscope.reporting.wording import REPORT_DISCLAIMER, input_title, level_title


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
    verdict, promised = study.metrics.verdict, study.metrics.promise
    return render(
        "model_card.md.j2",
        recipe=recipe,
        disclaimer=REPORT_DISCLAIMER,
        name=study.name,
        headline=verdict.headline,
        level=level_title(verdict.level)[0],
        classes=[
            (
                class_title(name),
                name,
                class_description(name),
                role_of(name, study.roles) or "not stated",
            )
            for name in study.class_names
        ],
        benign="benign" in study.class_names,
        apart=malignant_mask(study.class_names, study.roles) is not None,
        tables=present(
            result_tables.headline(study),
            result_tables.further(study),
            result_tables.inapplicable(study),
        ),
        data_table=data.classes(study),
        evaluation=_texts(study, data_facts.disjointness),
        parts=data.parts(study),
        factors=_factors(study),
        measures=_texts(
            study, result_facts.metrics_used, result_facts.uncertainty, model_facts.output
        ),
        details=present(result_tables.per_class(study, recipe.name), by_patient(study)),
        subgroups=result_facts.subgroups(study),
        shortcuts=_shortcuts(study),
        decisions=decision_tables.sets(study),
        promise=decision_tables.promise_words(study),
        row=study.row,
        promised_unit=promised.unit if promised and promised.unit else study.row,
        promised=decision_tables.promise(study),
        limits=cannot_show(study),
        findings=[finding["text"] for finding in study.findings],
        environment=data.environment(study),
        version=study.environment.packages.get("leukoscope", __version__)
        if study.environment
        else __version__,
        passport_sha256=study.passport.get("sha256", "") if study.passport else "",
        seed=study.config.seed,
    )


def _texts(study: Study, *facts: Callable[[Study], Answer | None]) -> list[str]:
    """What the files say, one paragraph a fact."""
    return [found.text for fact in facts if (found := fact(study)) is not None]


def _factors(study: Study) -> list[str]:
    """What may change the result, as far as it was examined, and what the files do not hold."""
    units = dict.fromkeys(
        entry.group_unit for entry in study.results if entry.group_unit not in ("", "image")
    )
    found = study.metrics.subgroups
    examined = [column.column for column in found.columns if column.groups] if found else []
    patients = any(record.patient_id for record in study.manifest.usable)
    usual = ("age", "sex", "origin and treatment of the patients",
             *(() if patients else ("who is the patient",)),
             "laboratory", "stain", "microscope", "camera")  # fmt: skip
    unknown = [name for name in usual if name not in examined]
    probed = dict.fromkeys(input_title(entry.probe) for entry in study.metrics.probes)
    nothing = [f"{input_title(row.probe)} ({row.reason})" for row in audit_of(study).inapplicable]
    factors = [
        "Class: results by class stand below.",
        f"What is held out together: {', '.join(units)}." if units else "",
        f"Input with something taken away: {'; '.join(probed) or 'not examined'}.",
        f"Asked for, but does not apply to these images: {'; '.join(nothing)}." if nothing else "",
        f"Columns of the manifest: {', '.join(examined)}." if examined else "",
        f"Not examined, for the files do not hold it: {', '.join(unknown)}.",
    ]
    return [factor for factor in factors if factor]


def by_patient(study: Study) -> Table | None:
    """How the share of right images varies between patients whom the model has never seen.

    None where patients were not held out.
    """
    scores = study.scores(study.recipes[0], "grouped")
    patient = {r.image_id: r.patient_id for r in study.manifest.usable}
    if scores is None:
        return None
    who = np.array([patient.get(image_id, "") for image_id in scores.image_id])
    right = scores.y_pred == scores.y_true
    rows = []
    for k, name in enumerate(study.class_names):
        own = (scores.y_true == k) & (who != "")
        shares = sorted(float(right[own & (who == p)].mean()) for p in np.unique(who[own]))
        if shares:
            ends = (shares[0], float(np.median(shares)), shares[-1])
            cells = (number(share, "share") for share in ends)
            rows.append((class_title(name), count(len(shares)), count(own.sum()), *cells))
    titles = ("Patients", "n images", "Lowest", "Median", "Highest")
    columns = (Column("Class"), *(Column(title, numeric=True) for title in titles))
    patients = plural(len(set(who[who != ""].tolist())), "patient")
    caption = f"Share of a patient's images that are right, {patients} held out in turn"
    return Table(caption, columns, tuple(rows)) if rows else None


def _shortcuts(study: Study) -> list[str]:
    """One sentence per probe and protocol, beside what the model reaches."""
    sentences = []
    for entry in study.metrics.probes:
        model = study.result(study.recipes[0], entry.protocol)
        beside = (
            f"; the whole image {interval(model.metrics.get('accuracy'), 'accuracy')}"
            if model is not None
            else ""
        )
        sentences.append(
            f"{protocol_title(entry.protocol)}: {input_title(entry.probe)} "
            f"{interval(entry.metrics.get('accuracy'), 'accuracy')}{beside} "
            f"({result_tables.sample(entry)})."
        )
    return sentences

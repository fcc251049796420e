"""The model card, and reporting checklists filled in from a study's files.

The sections of the card are those of Mitchell et al. 2019 (doi 10.1145/3287560.3287596). An item of
a checklist is *answered* where the files say all that it asks, *in part* where a person must add to
it, *open* where the files say nothing. Items stand in ``checklist_items/*.toml`` in our own words,
with the published list's numbers; what answers them are the facts of :data:`FACTS`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources

import numpy as np

from leukoscope.core.files import write_text
from leukoscope.core.labels import class_description, class_title, malignant_mask, role_of
from leukoscope.core.program import __version__
from leukoscope.core.protocols import protocol_title
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting import result_tables
from leukoscope.reporting.content import Block, Column, Paragraph, Section, Table, present
from leukoscope.reporting.formats import count, interval, number, plural
from leukoscope.reporting.markup import render
from leukoscope.reporting.study import data, decision_tables, result_facts, study_facts
from leukoscope.reporting.study.results import cannot_show
from leukoscope.reporting.study.shortcuts import audit_of
from leukoscope.reporting.study.study_facts import Answer
from leukoscope.reporting.study_files import Study, load_study
from leukoscope.reporting.wording import REPORT_DISCLAIMER, input_title, level_title

CHECKLISTS = ("claim-2024", "tripod-ai", "mi-claim")
FACTS: Mapping[str, Callable[[Study], Answer | None]] = {
    fact.__name__: fact
    for fact in (
        study_facts.classes, study_facts.class_parts, study_facts.data_source,
        study_facts.disjointness, study_facts.eligibility, study_facts.image_format,
        study_facts.labels, study_facts.leakage_audit, study_facts.missing_data,
        study_facts.partitions, study_facts.sample_size, study_facts.study_design,
        study_facts.subsets,
        study_facts.architecture, study_facts.augmentation,
        study_facts.configuration, study_facts.ensembling,
        study_facts.imbalance, study_facts.initialisation, study_facts.model_kind,
        study_facts.output, study_facts.poor_input, study_facts.preprocessing,
        study_facts.selection, study_facts.software, study_facts.training, study_facts.weights,
        result_facts.calibration, result_facts.class_performance, result_facts.comparison,
        result_facts.explanations, result_facts.external_testing, result_facts.failures,
        result_facts.further, result_facts.goal, result_facts.heterogeneity,
        result_facts.intended_use, result_facts.internal_testing, result_facts.limitations,
        result_facts.metrics_used, result_facts.patients, result_facts.performance,
        result_facts.questions, result_facts.rejection, result_facts.robustness,
        result_facts.subgroups, result_facts.summary, result_facts.uncertainty,
    )
}  # fmt: skip
UNKNOWN = "The files of this run do not say it: add it."


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
        evaluation=_texts(study, study_facts.disjointness),
        parts=data.parts(study),
        factors=_factors(study),
        measures=_texts(
            study, result_facts.metrics_used, result_facts.uncertainty, study_facts.output
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


@dataclass(frozen=True)
class Item:
    """One item of a checklist.

    Attributes:
        number: As published.
        section: As published.
        asks: What is asked, in our own words.
        facts: Names in :data:`FACTS` that answer it; without the first the answer is in part.
        add: What a person must add whatever the files say; empty where they can say it all.
        add_if_open: What a person must do where the first fact has no answer; empty means
            ``add``, or :data:`UNKNOWN`.
    """

    number: str
    section: str
    asks: str
    facts: tuple[str, ...] = ()
    add: str = ""
    add_if_open: str = ""


@dataclass(frozen=True)
class Checklist:
    """A published checklist.

    Attributes:
        title: Short name.
        name: Full name.
        reference: Whose it is.
        doi: Of the publication.
        items_are: What its entries are called.
        numbers: Whose the numbers are.
        items: In the published order.
    """

    title: str
    name: str
    reference: str
    doi: str
    items_are: str
    items: tuple[Item, ...]
    numbers: str = "Numbers and order are the published ones"


@dataclass(frozen=True)
class Filled:
    """An item with what the files say.

    Attributes:
        item: The item.
        answers: From the files.
        to_add: What a person must add; empty where nothing is left.
    """

    item: Item
    answers: tuple[Answer, ...]
    to_add: str

    @property
    def state(self) -> str:
        """``answered``, ``in part`` or ``open``."""
        if not self.answers:
            return "open"
        return "in part" if self.to_add else "answered"

    @property
    def files(self) -> tuple[str, ...]:
        """Where the answers can be checked, each file once."""
        return tuple(dict.fromkeys(file for found in self.answers for file in found.files))


def load_checklist(name: str) -> Checklist:
    """A checklist of :data:`CHECKLISTS`."""
    file = resources.files("leukoscope.reporting") / "checklist_items" / f"{name}.toml"
    values = tomllib.loads(file.read_text(encoding="utf-8"))
    items = tuple(
        Item(**{**entry, "facts": tuple(entry.get("facts", ()))}) for entry in values.pop("items")
    )
    return Checklist(**values, items=items)


def fill(checklist: Checklist, study: Study) -> list[Filled]:
    """Ask the files for every item.

    Args:
        checklist: Of :func:`load_checklist`.
        study: The study's files.
    """
    known = {name: FACTS[name](study) for item in checklist.items for name in item.facts}
    filled = []
    for item in checklist.items:
        answers = tuple(found for name in item.facts if (found := known[name]) is not None)
        whole = bool(answers) and known[item.facts[0]] is not None
        left = item.add if whole else item.add_if_open or item.add or UNKNOWN
        filled.append(Filled(item, answers, left))
    return filled


def write_checklists(run: RunFolder, study: Study) -> Section:
    """Write ``checklists/*.md``.

    Returns:
        The report's section that counts the items and names the files.
    """
    rows = []
    for name in CHECKLISTS:
        checklist = load_checklist(name)
        filled = fill(checklist, study)
        states = [entry.state for entry in filled]
        path = run.checklists / f"{name}.md"
        write_text(
            path,
            render(
                "checklist.md.j2",
                checklist=checklist,
                filled=filled,
                study=study.name,
                counts={state: states.count(state) for state in ("answered", "in part", "open")},
            ),
        )
        counted = (states.count("answered"), states.count("in part"), states.count("open"))
        file = path.relative_to(run.path).as_posix()
        rows.append((checklist.title, *map(str, counted), str(len(states)), file))
    return _section(rows)


def _section(rows: list[tuple[str, ...]]) -> Section:
    columns = (
        Column("Checklist"),
        *(Column(title, numeric=True) for title in ("Answered", "In part", "Open", "Items")),
        Column("File", code=True, link=True),
    )
    note = "Funding, ethics and registration are never known to the files, so always open."
    blocks: list[Block] = [
        Paragraph(
            "Reporting checklists, filled in from this study's files; each answer names the file "
            "that shows it, and each open item says what an author must add. The items were "
            "paraphrased and checked against secondary copies: compare them with the published "
            "lists before submission."
        ),
        Table("Items that this run's files answer", columns, tuple(rows), note),
    ]
    return Section("checklists", "For a paper: checklists", blocks)

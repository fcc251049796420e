"""Reporting checklists, filled in from a study's files.

An item is *answered* where the files say all that it asks, *in part* where a person must add to it,
*open* where the files say nothing. Items stand in ``checklist_items/*.toml`` in our own words, with
the published list's numbers; what answers them are the facts of :data:`FACTS`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources

from leukoscope.core.files import write_text
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.content import Block, Column, Paragraph, Section, Table
from leukoscope.reporting.markup import render
from leukoscope.reporting.study import data_facts, model_facts, result_facts
from leukoscope.reporting.study.facts import Answer
from leukoscope.reporting.study_files import Study

CHECKLISTS = ("claim-2024", "tripod-ai", "mi-claim")
FACTS: Mapping[str, Callable[[Study], Answer | None]] = {
    fact.__name__: fact
    for fact in (
        data_facts.classes, data_facts.class_parts, data_facts.data_source,
        data_facts.disjointness, data_facts.eligibility, data_facts.image_format,
        data_facts.labels, data_facts.leakage_audit, data_facts.missing_data,
        data_facts.partitions, data_facts.sample_size, data_facts.study_design,
        data_facts.subsets,
        model_facts.architecture, model_facts.augmentation,
        model_facts.configuration, model_facts.ensembling,
        model_facts.imbalance, model_facts.initialisation, model_facts.model_kind,
        model_facts.output, model_facts.poor_input, model_facts.preprocessing,
        model_facts.selection, model_facts.software, model_facts.training, model_facts.weights,
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
        counts = {state: states.count(state) for state in ("answered", "in part", "open")}
        path = run.checklists / f"{name}.md"
        write_text(
            path,
            render(
                "checklist.md.j2",
                checklist=checklist,
                filled=filled,
                study=study.name,
                counts=counts,
            ),
        )
        file = path.relative_to(run.path).as_posix()
        rows.append((checklist.title, *map(str, counts.values()), str(len(states)), file))
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

"""The pages of a comparison: one that opens offline, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from leukoscope.core.files import write_csv
from leukoscope.core.protocols import protocol_title
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.compare import recipes, sections, tables
from leukoscope.reporting.compare.result import (
    FEWER_EPOCHS,
    ComparisonResult,
    load_comparison,
    signs_of,
)
from leukoscope.reporting.content import Section, Table
from leukoscope.reporting.formats import count, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.markup import write_page

TABLES: Mapping[str, Callable[[ComparisonResult], Table | None]] = {
    "overview": tables.overview,
    "places": tables.places,
    "paired-tests": tables.paired_tests,
    "metrics": tables.metrics,
    "cost": tables.cost,
    "deviations": recipes.deviations,
    "preprocessing": recipes.preprocessing,
    "hyper-parameters": recipes.hyper_parameters,
    "architectures": recipes.architectures,
    "data": recipes.data_sets,
    "splits": recipes.splits,
    "external": tables.external,
    "prior-work": recipes.prior_work,
    "formulas": recipes.formulas,
}
SECTIONS: tuple[Callable[[ComparisonResult, Gallery], Section], ...] = (
    sections.glance,
    sections.ranking,
    sections.further,
    sections.classes,
    sections.cost,
    sections.training,
    sections.diagrams,
    sections.data,
    sections.context,
)


def write_comparison(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write the pages, ``figures/*.png`` and ``tables/*.csv`` from ``comparison.json``.

    Args:
        folder: Where ``comparison.json`` lies.
        progress: Told (done, total) after each section.

    Raises:
        DataError: ``comparison.json`` is missing or damaged.
    """
    comparison = load_comparison(folder)
    gallery = Gallery(RunFolder(folder))
    made: list[Section] = []
    for done, make in enumerate(SECTIONS, start=1):
        made.append(make(comparison, gallery))
        if progress is not None:
            progress(done, len(SECTIONS))
    _write_tables(folder / "tables", comparison)
    write_page(
        folder / "comparison.html", _head(comparison), made, kind="comparison",
        markdown=folder / "comparison.md",
    )  # fmt: skip


def _write_tables(folder: Path, comparison: ComparisonResult) -> None:
    """Each table as the page shows it, one CSV file each."""
    found = [(name, make(comparison)) for name, make in TABLES.items()]
    found += [
        (f"per-class-{sections.file_name(entry)}", tables.per_class(comparison, entry))
        for entry in comparison.entries
    ]
    for name, table in found:
        if table is not None:
            titles = [column.title for column in table.columns]
            rows = [dict(zip(titles, row, strict=True)) for row in table.rows]
            write_csv(folder / f"{name}.csv", titles, rows)


def _head(comparison: ComparisonResult) -> dict[str, Any]:
    runs = comparison.values["runs"]
    data = ", ".join(dict.fromkeys(run["data"] for run in runs))
    facts = (
        (str(len(comparison.entries)), "recipe" if len(comparison.entries) == 1 else "recipes"),
        (str(len(runs)), "run" if len(runs) == 1 else "runs"),
        (", ".join(head["name"] for head in comparison.protocols), "protocols"),
        (count(max(head["n"] for head in comparison.protocols)), "test images"),
    )
    return {
        "title": f"Comparison of {plural(len(comparison.entries), 'recipe')} on {data}",
        "name": f"{plural(len(comparison.entries), 'recipe')} on {data}",
        "command": comparison.values["command"],
        "facts": facts,
        "about": _about(comparison, data),
        "notes": [
            *comparison.values["notes"],
            *(
                f"{protocol_title(head['name'])}: {note}"
                for head in comparison.protocols
                for note in head["notes"]
            ),
        ],
    }


def _about(comparison: ComparisonResult, data: str) -> list[tuple[str, str]]:
    """What a reader of any table must know: data, sizes, protocols, seed, epochs, runs."""
    runs = comparison.values["runs"]
    seeds = ", ".join(map(str, dict.fromkeys(run["seed"] for run in runs)))
    made = [run["command"] for run in runs if run["command"]]
    about = [
        ("Data", f"{data}: {', '.join(dict.fromkeys(plural(r['images'], 'image') for r in runs))}"),
        *(
            (f"Protocol {head['name']}", f"{protocol_title(head['name'])}; {tables.sample(head)}")
            for head in comparison.protocols
        ),
        ("Seed", seeds),
        ("Epochs", _epochs(comparison)),
        ("Runs", ", ".join(f"{r['name']}{'' if r['finished'] else ' (unfinished)'}" for r in runs)),
    ]
    return about + [("Made by", f"`{text}`") for text in made]


def _epochs(comparison: ComparisonResult) -> str:
    """How long recipes were trained, and how many of them shorter than published."""
    run = [
        number
        for entry in comparison.entries
        for record in entry["training"].values()
        for number in record["epochs"]
    ]
    if not run:
        return "no recipe was trained by epochs"
    cut = [entry for entry in comparison.entries if FEWER_EPOCHS in signs_of(entry)]
    most = f"{min(run)} to {max(run)}" if min(run) < max(run) else str(max(run))
    if not cut:
        return f"{most}, as published or until early stopping"
    of = plural(len(comparison.entries), "recipe")
    return f"{most}; {len(cut)} of {of} ({FEWER_EPOCHS}) configured for fewer than published"

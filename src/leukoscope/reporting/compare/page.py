"""The pages of a comparison: one that opens offline, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from leukoscope.config.comparison import RunFacts
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
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Code,
    Folded,
    Head,
    Headline,
    Ranges,
    Section,
    Span,
    Tab,
    Table,
    Terms,
)
from leukoscope.reporting.formats import count, interval, metric_title, metric_words, plural
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
PARTS: Mapping[str, tuple[Callable[[ComparisonResult, Gallery], Section], ...]] = {
    "Ranking": (sections.glance, sections.ranking),
    "Metrics": (sections.further, sections.classes),
    "Cost and training": (sections.cost, sections.training, sections.diagrams),
    "Data and context": (sections.data, sections.context),
}
MOST_SPANS = 10  # recipes on the first screen; tables name all


def write_comparison(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Write the pages, ``figures/*.svg`` and ``tables/*.csv`` from ``comparison.json``.

    Args:
        folder: Where ``comparison.json`` lies.
        progress: Told (done, total) after each section.

    Raises:
        DataError: ``comparison.json`` is missing or damaged.
    """
    comparison = load_comparison(folder)
    gallery = Gallery(RunFolder(folder))
    tabs: list[Tab] = []
    done, total = 0, sum(map(len, PARTS.values()))
    for title, makers in PARTS.items():
        made = []
        for make in makers:
            made.append(make(comparison, gallery))
            done += 1
            if progress is not None:
                progress(done, total)
        tabs.append(Tab(f"part-{title.lower().replace(' ', '-')}", title, made))
    _write_tables(folder / "tables", comparison)
    page, text = folder / "comparison.html", folder / "comparison.md"
    write_page(page, _head(comparison), tabs, markdown=text)


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


def _head(comparison: ComparisonResult) -> Head:
    runs = comparison.file.runs
    data = ", ".join(dict.fromkeys(run.data for run in runs))
    recipes = "recipe" if len(comparison.entries) == 1 else "recipes"
    name = f"{plural(len(comparison.entries), 'recipe')} on {data}"
    most = max(head.n for head in comparison.protocols)
    notes = [
        *comparison.file.notes,
        *(
            f"{protocol_title(head.name)}: {note}"
            for head in comparison.protocols
            for note in head.notes
        ),
    ]
    how: list[Block] = [Terms(tuple(_about(comparison, data))), Code(comparison.file.command)]
    return Head(
        kind="comparison",
        title=f"Comparison of {name}",
        name=name,
        facts=(
            (str(len(comparison.entries)), recipes),
            (str(len(runs)), "run" if len(runs) == 1 else "runs"),
            (str(len(comparison.protocols)), "protocols"),
            (count(most), f"test {comparison.row}{'' if most == 1 else 's'}"),
        ),
        headline=Headline("inconclusive", "Answer", "→", _answer(comparison)),
        lead=[
            _spans(comparison),
            *([Bullets(tuple(notes))] if notes else []),
            Folded("How this was compared", how),
        ],
    )


def _answer(comparison: ComparisonResult) -> str:
    """Which recipe is first under the decisive protocol, and which others may be as good."""
    protocol, metric = comparison.decisive.name, comparison.metric
    first, *others = comparison.under(protocol)
    score = interval(first.value(protocol, metric), metric)
    where, who = protocol_title(protocol), comparison.name(first)
    reached = f"{metric_words(metric)}, {score}"
    if not others:
        return f"{where}: {who} has {metric_words(metric)} {score}."
    what = f"{where}: of {len(others) + 1} recipes {who} has the best {reached}"
    tests = [row for row in comparison.file.tests if row.protocol == protocol]
    alike = [
        other
        for row in tests
        if row.verdict == "not distinguishable" and first.label in (row.a, row.b)
        for other in (row.a, row.b)
        if other != first.label
    ]
    if not alike:
        return f"{what}."
    names = ", ".join(comparison.short[label] for label in alike)
    return f"{what}; not distinguishable from it: {names}."


def _spans(comparison: ComparisonResult) -> Ranges:
    """Every recipe under the decisive protocol."""
    head, metric = comparison.decisive, comparison.metric
    spans = []
    for entry in comparison.under(head.name)[:MOST_SPANS]:
        found = entry.results[head.name].metrics[metric]
        text = interval(found, metric)
        spans.append(Span(comparison.name(entry), text, found.value, found.low, found.high))
    title = f"{metric_title(metric)}, {protocol_title(head.name).lower()}"
    return Ranges(f"{title} (n = {tables.sample(comparison, head)}, {comparison.level} intervals)",
                  tuple(spans))  # fmt: skip


def _about(comparison: ComparisonResult, data: str) -> list[tuple[str, str]]:
    """What a reader of any table must know: data, sizes, protocols, seed, epochs, runs."""
    runs = comparison.file.runs
    seeds = ", ".join(map(str, dict.fromkeys(run.seed for run in runs)))
    made = [run.command for run in runs if run.command]
    about = [
        ("Data", f"{data}: {', '.join(dict.fromkeys(_size(comparison, run) for run in runs))}"),
        *(
            (
                f"Protocol {head.name}",
                f"{protocol_title(head.name)}; {tables.sample(comparison, head)}",
            )
            for head in comparison.protocols
        ),
        ("Seed", seeds),
        ("Epochs", _epochs(comparison)),
        ("Runs", ", ".join(f"{r.name}{'' if r.finished else ' (unfinished)'}" for r in runs)),
    ]
    return about + [("Made by", f"`{text}`") for text in made]


def _size(comparison: ComparisonResult, run: RunFacts) -> str:
    images = plural(run.images, "image")
    return images if comparison.row == "image" else f"{images} of {plural(run.patients, 'patient')}"


def _epochs(comparison: ComparisonResult) -> str:
    """How long recipes were trained, and how many of them shorter than published."""
    run = [
        number
        for entry in comparison.entries
        for record in entry.training.values()
        for number in record.epochs
    ]
    if not run:
        return "no recipe was trained by epochs"
    cut = [entry for entry in comparison.entries if FEWER_EPOCHS in signs_of(entry)]
    most = f"{min(run)} to {max(run)}" if min(run) < max(run) else str(max(run))
    if not cut:
        return f"{most}, as published or until early stopping"
    of = plural(len(comparison.entries), "recipe")
    return f"{most}; {len(cut)} of {of} ({FEWER_EPOCHS}) configured for fewer than published"

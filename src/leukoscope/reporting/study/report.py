"""The report of a study: one page that opens offline, the same as text, and the model card.

Its first screen says the verdict, what the accuracy is made of, and what to do next.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from leukoscope.config.metrics.evidence import SourceVerdict
from leukoscope.config.metrics.results import Estimate, NextUnit, Result
from leukoscope.core.files import write_text
from leukoscope.core.protocols import PROTOCOLS, SEPARATING, protocol_title
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.statistics.intervals import MIN_GROUPS
from leukoscope.evaluation.verdict.rule import judged_protocols, protocol_scores
from leukoscope.evaluation.verdict.sentences import join
from leukoscope.reporting.content import (
    STATUS_SIGNS,
    Block,
    Head,
    Headline,
    Ranges,
    References,
    Section,
    Span,
    Steps,
    Tab,
    Terms,
)
from leukoscope.reporting.formats import (
    count,
    finite,
    interval,
    lower_first,
    number,
    plural,
    upper_first,
)
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.markup import write_page
from leukoscope.reporting.study import (
    data,
    decisions,
    examples,
    models,
    patient_results,
    results,
)
from leukoscope.reporting.study.card import card_text
from leukoscope.reporting.study.checklists import write_checklists
from leukoscope.reporting.study.other_data import external, rejection, robustness
from leukoscope.reporting.study.shortcuts import SIGNS, chance_level, probe_metrics, shortcuts, why
from leukoscope.reporting.study_files import Study, load_study
from leukoscope.reporting.wording import REFERENCES, glossary, level_title

STEPS = 3
SOURCE_LABELS: Mapping[str, str] = {
    "ground": "Ground, no cells",
    "grain": "Grain, sharpness",
    "frame": "Frame, scale bar",
    "file": "File format, size",
    "stain": "Stain colour",
}
"""Each source of shortcut where space is scarce."""
REMEDIES: Mapping[str, str] = {
    "ground": "take images of every class from the same slides and sessions",
    "grain": "use the original files of one camera and one compression for every class",
    "frame": "crop away rims and scale bars, and photograph every class with the same optics",
    "file": "store every class in one format, size and quality",
    "stain": "stain every class in the same laboratory and runs, or add such images",
}
"""What removes a source of shortcut from the data."""


def headline(study: Study) -> Headline:
    """The verdict in one sentence."""
    verdict = study.metrics.verdict
    word, sign = level_title(verdict.level)
    level = verdict.level.removesuffix("-by-clusters")
    scores, mark, conclusion = verdict.headline.partition("; ")
    if not mark:
        scores, conclusion = "", verdict.headline
    return Headline(level, f"Verdict: {word}", sign, conclusion, scores + mark.strip())


def lead(study: Study) -> list[Block]:
    """What the accuracy is made of, and what to do next."""
    blocks: list[Block] = []
    accuracy, sources = _accuracy(study), _sources(study)
    blocks += [found for found in (accuracy, sources) if found.spans]
    steps = tuple(_steps(study))[:STEPS]
    return [*blocks, *([Steps("Do next", steps)] if steps else [])]


def _first(study: Study) -> dict[str, Result]:
    """The results of the judged recipe by protocol, from the mildest on."""
    recipe = study.results[0].recipe if study.results else ""
    return {entry.protocol: entry for entry in study.results if entry.recipe == recipe}


def _judged(study: Study) -> str:
    """The strictest protocol that the verdict rests on; empty without one."""
    found = judged_protocols(protocol_scores(list(_first(study).values())))
    return found[0] if found else ""


def _accuracy(study: Study) -> Ranges:
    """From random splits to the next unit."""
    spans, chance = [], chance_level(study)
    for protocol, entry in _first(study).items():
        found = entry.metrics.get("accuracy")
        if found is not None and found.value is not None:
            label = protocol_title(protocol)
            if study.metrics.foreign:  # the same images each time, none of them held out here
                label = f"{entry.group_unit}s resampled"
            spans.append(_span(upper_first(label), found, "mean"))
    last = _first(study).get(_judged(study))
    if last is not None and isinstance(last.next_unit, NextUnit):
        spans.append(_span(f"Next {last.next_unit.unit}", last.next_unit, "next"))
    title = "The model's accuracy" if study.metrics.foreign else "What the accuracy is made of"
    return Ranges(
        f"{title} ({study.level} intervals)",
        tuple(dict.fromkeys(spans)),
        chance,
        f"always naming the largest class, {number(chance, 'accuracy')}",
    )


def _span(label: str, found: Estimate, tone: str, word: str = "") -> Span:
    said = f"{word} {interval(found, 'accuracy')}".strip()
    return Span(label, said, finite(found.value), finite(found.low), finite(found.high), tone)


def _sources(study: Study) -> Ranges:
    """What each source of shortcut explains of the model's advantage, where it is judged."""
    spans = []
    for source in study.metrics.verdict.sources:
        sign = SIGNS[source.status]
        label, tone = SOURCE_LABELS[source.source], STATUS_SIGNS[sign[0]]
        if source.share is None or source.share.value is None:
            spans.append(Span(label, sign, None, tone=tone))
        else:
            spans.append(_span(label, source.share, tone, sign[0]))
    given = [
        s.protocol for s in study.metrics.verdict.sources if s.share and s.share.value is not None
    ]
    under = dict.fromkeys(given or [study.metrics.verdict.protocol or ""])
    labels = [PROTOCOLS[name].label for name in under if name in PROTOCOLS]
    where = f", {join(labels)}" if labels else ""
    return Ranges(
        f"What each shortcut alone explains{where}",
        tuple(spans),
        0.5,
        f"half of the advantage over chance: ✗ shown above, ✓ below (from {MIN_GROUPS} "
        "groups on), ?\u00a0open",
    )


def _steps(study: Study) -> Iterator[tuple[str, str]]:
    """What to do, the most urgent first; computed from the verdict."""
    verdict = study.metrics.verdict
    if study.metrics.data_errors:
        yield "Correct the data:", study.metrics.data_errors[0]
    control = study.metrics.control
    if control is not None and control.passed is False:
        yield (
            "Find the leak:",
            "with labels dealt at random nothing may be learned; compare `splits.csv` with the "
            "duplicates and patients in `passport.json`.",
        )
    shown = [source for source in verdict.sources if source.status == "shown"]
    for source in sorted(shown, key=_size, reverse=True)[:2]:
        label = lower_first(SOURCE_LABELS[source.source])
        remedy = REMEDIES[source.source]
        if source.source == "ground" and study.row == "image":
            remedy += ", or train on cells alone (`-r morphology`)"
        yield f"Remove “{label}” as a clue:", f"{remedy}."
    yield from _what_to_quote(study)
    for need in verdict.needs:
        yield "To settle what is open:", f"{need.rstrip('.')}."
    yield from _later(study)


def _size(source: SourceVerdict) -> float:
    return (source.share.value if source.share else None) or 0.0


def _what_to_quote(study: Study) -> Iterator[tuple[str, str]]:
    """Which figure to report, where the random split flatters."""
    results, judged = _first(study), _judged(study)
    mild, hard = results.get("random"), results.get(judged)
    if mild is None or hard is None or judged not in SEPARATING:
        return
    inflated = [
        row
        for row in (study.metrics.shortcuts.inflation if study.metrics.shortcuts else ())
        if row.protocol == judged and row.verdict == "better"
    ]
    if inflated:
        accuracy = [number(e.metrics["accuracy"].value, "accuracy") for e in (hard, mild)]
        setting = PROTOCOLS[judged].label
        yield f"Quote {accuracy[0]} ({setting}),", f"not the {accuracy[1]} of a random split."


def _from_here(path: Path) -> str:
    """A folder as it is typed where the program runs; of one that lies elsewhere the name alone."""
    full = path.absolute()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else path.name


def _later(study: Study) -> Iterator[tuple[str, str]]:
    """What remains to be done in any study."""
    if study.metrics.foreign:
        yield (
            "Measure it elsewhere:",
            "`leukoscope probe` with the same options, on images of another laboratory.",
        )
        return
    name = shlex.quote(_from_here(study.run.path))
    named = study.passport is not None and study.passport["patients"]["n"]
    if not named:
        yield (
            "Name the patients:",
            "a manifest column `patient_id`, or `--layout` with `'{class}/{patient}'` for folders, "
            "`'{class}/{patient}_*.png'` for names of files.",
        )
    if not study.metrics.external and study.run.bundle.is_dir():
        yield (
            "Measure it elsewhere:",
            f"`leukoscope evaluate {name}/bundle OTHER_DATA` on {study.row}s of another "
            "laboratory.",
        )
    scores = study.harshest(study.recipes[0])[1] if study.recipes else None
    if scores is not None and study.row == "image":
        wrong = int((scores.y_pred != scores.y_true).sum())
        if wrong:
            yield (
                "Look at the mistakes:",
                f"{plural(wrong, 'image')} under “Where it looks”; `leukoscope relabel {name}` "
                "lists labels that are likely wrong.",
            )


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
        headline=headline(study),
        lead=lead(study),
    )


def subjects(study: Study, gallery: Gallery) -> list[Section]:
    """The patients: the unit of the study, or its images aggregated."""
    if study.row == "patient":
        return [patient_results.tested_patients(study, gallery)]
    return [patient_results.subjects(study, gallery)]


def images(study: Study, gallery: Gallery) -> list[Section]:
    """What single images show: heat maps and examples, or the cells that decided."""
    if study.row == "patient":
        return [patient_results.deciding_cells(study, gallery)]
    return [examples.explanations(study, gallery), examples.examples(study, gallery)]


def closing(study: Study) -> list[Section]:
    """Glossary and sources."""
    # Where "Benign" is any benign cell, it is not what the glossary says of the ALL sets.
    other = {"Benign"} if "benign_cell" in study.class_names else set[str]()
    terms = tuple((name, meaning) for name, meaning in glossary(study.row) if name not in other)
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

"""The report of a comparison of arms: a double transfer, or an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from leukoscope.config.arms import AblationResult, ArmDifference, ArmsFile, TransferResult
from leukoscope.config.metrics.results import Estimate
from leukoscope.core.program import typed
from leukoscope.core.protocols import protocol_title
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Code,
    Head,
    Heading,
    Headline,
    Paragraph,
    Picture,
    Section,
    Tab,
    Table,
    present,
)
from leukoscope.reporting.figures.comparison import arm_curves, difference_chart
from leukoscope.reporting.formats import (
    count,
    difference,
    interval,
    lower_first,
    metric_title,
    p_value,
    plural,
)
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.markup import write_page
from leukoscope.reporting.record_tables import (
    code,
    each,
    scores,
    table_if_any,
    table_of,
    text,
    value,
)
from leukoscope.reporting.study_files import History, Study, load_study

ARM_LEVELS: Mapping[str, tuple[str, str]] = {
    "helps": ("plausible", "✓"),
    "harms": ("caution", "!"),
    "depends on the protocol": ("caution", "!"),
}
QUESTIONS = {"transfer": "Does the first phase help?", "ablation": "What does each part do?"}


def draw_differences(result: ArmsFile, gallery: Gallery) -> Picture | None:
    """The paired differences with their intervals; None where there is no comparison.

    Args:
        result: The content of ``transfer.json`` or ``ablation.json``.
        gallery: Where the figure goes.
    """
    rows = []
    several = len(result.arms) > 2
    for row in result.comparisons:
        entry = row.differences["accuracy"]
        if entry.value is None:
            continue
        what = protocol_title(row.protocol)
        if several:
            what = f"{result.titles[row.second]}\n{what}"
        low, high = (None if end is None else 100 * end for end in (entry.low, entry.high))
        rows.append((what, difference(entry, "accuracy"), 100 * entry.value, low, high))
    if not rows:
        return None
    first = result.titles[result.comparisons[0].first]
    sizes = ", ".join(str(n) for n in sorted({row.n for row in result.comparisons}))
    return gallery.draw(
        "differences",
        lambda: difference_chart(
            rows, xlabel=f"difference in accuracy, points (right: {lower_first(first)} is better)"
        ),
        caption=(
            "Paired difference in accuracy on the same test images, with its interval over "
            f"resampled groups (n = {sizes} test images)."
        ),
        alt="Differences in accuracy with intervals; the numbers stand in the table below.",
    )


def draw_curves(
    name: str, studies: Mapping[str, Study], recipe: str, gallery: Gallery
) -> Picture | None:
    """Learning curves side by side; None where no arm was trained by epochs.

    Args:
        name: Stem of the file.
        studies: Title → study of each arm.
        recipe: Which recipe.
        gallery: Where the figure goes.
    """
    panels = []
    trainings = 0
    for protocol in next(iter(studies.values())).protocols:
        arms = {title: _histories(study, recipe, protocol) for title, study in studies.items()}
        if any(arms.values()):
            trainings += sum(len(folds) for folds in arms.values())
            panels.append(
                (protocol_title(protocol), {k: [h.columns for h in v] for k, v in arms.items()})
            )
    if not panels:
        return None
    return gallery.draw(
        name,
        lambda: arm_curves(panels),
        caption=(
            f"Loss and accuracy by epoch (n = {plural(trainings, 'training')}; solid: validation, "
            "dashed: training)."
        ),
        alt="Learning curves of each arm; the numbers stand in each model's history.csv.",
    )


def _histories(study: Study, recipe: str, protocol: str) -> list[History]:
    """Those of gradient training; a linear head has no epochs."""
    return [
        h
        for h in study.histories
        if (h.recipe, h.protocol) == (recipe, protocol) and "epoch" in h.columns
    ]


def taken_over(result: TransferResult) -> Section:
    """Which tensors phase 2 has of phase 1, and which are new."""
    taken = result.taken_over
    classes = ", ".join(result.phase1.class_names)
    tensors = [("new in phase 2", tensor) for tensor in taken.new]
    tensors += [("left behind", tensor) for tensor in taken.left_behind]
    words = (
        f"All {plural(taken.taken_over, 'tensor')} of the backbone ({count(taken.values)} "
        f"numbers) were taken over from phase 1 and compared one by one. Its head told {classes} "
        "apart and was left behind; phase 2 has a new one, drawn from the same seed in both arms."
    )
    table = table_of(
        "Tensors that are not of the backbone", tensors,
        text("what", lambda row: row[0]),
        code("tensor", lambda row: row[1].name, narrow=False),
        value("shape", lambda row: _shape(row[1].shape)),
        grouped=True,
    )  # fmt: skip
    return Section("taken-over", "What phase 2 took over", [Paragraph(words), table])


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "one number"


def overlap(result: TransferResult) -> Section:
    """What the two data sets share."""
    found = result.overlap
    kinds = ", ".join(f"{n} × {kind}" for kind, n in found.by_kind.items())
    words = (
        f"All {count(found.source_images)} images of the source were compared with the "
        f"{count(found.target_images)} of the target: by their bytes, their pixels, as near "
        "duplicates (also flipped or turned), as overlapping fields and as cut-out twins. "
    )
    if not found.pairs_in_all:
        return Section("overlap", "Do the two data sets overlap?", [Paragraph(words + "None.")])
    words += (
        f"Found: {kinds}. {plural(found.purged, 'source image')} were left out of phase 1, "
        "those of the same patients and groups among them."
    )
    table = table_of(
        "Shared images", found.pairs[:20],
        code("source", "source", narrow=False), code("target", "target", narrow=False),
        text("kind", "kind"),
        note=f"{min(20, len(found.pairs))} of {plural(found.pairs_in_all, 'pair')}.",
    )  # fmt: skip
    return Section("overlap", "Do the two data sets overlap?", [Paragraph(words), table])


def first_phase(result: TransferResult, study: Study, gallery: Gallery) -> Section:
    """How well phase 1 learned the source."""
    phase1 = result.phase1
    scores = "; ".join(
        f"{metric_title(name)} {interval(found, name)}" for name, found in phase1.metrics.items()
    )
    words = (
        f"Phase 1 learned {', '.join(phase1.class_names)} on "
        f"{Path(result.source).name}. On its own test images "
        f"({protocol_title(phase1.protocol).lower()}, n = {plural(phase1.n, 'image')}, "
        f"{plural(phase1.n_groups, phase1.group_unit)}): {scores}."
    )
    blocks: list[Block] = [Paragraph(words)]
    chart = draw_curves("phase1", {"Phase 1": study}, result.recipe, gallery)
    return Section("phase1", "Phase 1", [*blocks, *([chart] if chart else [])])


def write_arms_report(folder: RunFolder, result: AblationResult | TransferResult) -> None:
    """Write ``figures/*.svg``, ``report.html`` and ``transfer.md`` or ``ablation.md``.

    Args:
        folder: The comparison's folder, with the study folder of each arm in it.
        result: The content of ``transfer.json`` or ``ablation.json``.

    Raises:
        DataError: A file of an arm is missing or damaged.
    """
    studies = {arm.name: load_study(RunFolder(folder.path / arm.name)) for arm in result.arms}
    gallery = Gallery(folder)
    parts = {"Answer": [_answer(result, gallery)], "Arms": [_scores(result, studies)]}
    if isinstance(result, TransferResult):
        phase1 = load_study(RunFolder(folder.path / result.phase1.folder))
        parts["Phase 1"] = [
            taken_over(result), overlap(result), first_phase(result, phase1, gallery)
        ]  # fmt: skip
    parts["Training"] = [_curves(result, studies, gallery), _reproduce(folder, result)]
    tabs = [Tab(f"part-{name.lower().replace(' ', '-')}", name, sections)
            for name, sections in parts.items()]  # fmt: skip
    markdown = folder.path / f"{result.kind}.md"
    write_page(folder.report_html, _head(result, studies), tabs, markdown=markdown)


def _head(result: AblationResult | TransferResult, studies: Mapping[str, Study]) -> Head:
    verdict = result.verdict
    target = Path(result.target).name
    level, sign = ARM_LEVELS.get(verdict.level, ("inconclusive", "="))
    study = next(iter(studies.values()))
    if isinstance(result, TransferResult):
        name = f"Double transfer: {Path(result.source).name} → {target}"
    else:
        name = f"Ablation of {result.recipe} on {target}"
    facts = (
        (count(len(study.manifest.usable)), "usable images"),
        (result.recipe, "recipe"),
        (str(len(studies)), "arms"),
    )
    said = Headline(level, f"Verdict: {verdict.level}", sign, verdict.headline)
    return Head(result.kind, f"Leukoscope · {name}", name, facts, said)


def _answer(result: AblationResult | TransferResult, gallery: Gallery) -> Section:
    blocks: list[Block] = [Bullets(result.verdict.sentences)]
    blocks += present(draw_differences(result, gallery), _difference_table(result))
    left_out = tuple(
        f"{protocol_title(row.protocol)} does not apply: {row.reason}"
        for row in result.inapplicable
    )
    blocks += [Bullets(left_out)] if left_out else []
    blocks += [Heading("How far this goes"), Bullets(result.limits)]
    return Section("answer", QUESTIONS[result.kind], blocks)


def _difference_table(result: ArmsFile) -> Table:
    names = list(result.comparisons[0].differences) if result.comparisons else []
    several = len(result.arms) > 2
    titles = result.titles
    first, second = (arm.title for arm in result.arms[:2])
    levels = {row.confidence for row in result.comparisons}
    level = f"{100 * min(levels):.4g} %" if levels else ""

    def alone(row: ArmDifference) -> str:
        return f"{row.pairs.only_first_right} : {row.pairs.only_second_right}"

    def held_out(row: ArmDifference) -> str:
        return f"{protocol_title(row.protocol)} ({plural(row.n_groups, row.group_unit)})"

    return table_of(
        f"Paired differences on the same test images: {lower_first(first)} minus "
        f"{'each other arm' if several else lower_first(second)}",
        result.comparisons,
        *([text("minus", lambda row: titles[row.second])] if several else []),
        text("held out", held_out),
        *each(names, metric_title, lambda row, name: difference(row.differences[name], name)),
        value("p, Holm", lambda row: p_value(row.p_holm)),
        value("right alone", alone),
        value("p, McNemar", lambda row: p_value(row.pairs.mcnemar_p)),
        note=f"The verdict rests on accuracy: an arm is better where the {level} interval over the "
        "groups is reliable and leaves 0 out, and the exchange test (whole groups swap the "
        "predictions of both) is significant after Holm's correction for all rows of this table. "
        "Log loss is better where it is smaller. Right alone: images that only the first, only "
        "the second has right; McNemar's exact test of these is made only where no two images "
        "share a group.",
    )


class _ScoreRow(NamedTuple):
    """One arm under one protocol."""

    protocol: str
    title: str
    n: int
    metrics: Mapping[str, Estimate]


def _scores(result: ArmsFile, studies: Mapping[str, Study]) -> Section:
    rows = [
        _ScoreRow(protocol, arm.title, entry.n, entry.metrics)
        for protocol in next(iter(studies.values())).protocols
        for arm in result.arms
        if (entry := studies[arm.name].result(result.recipe, protocol)) is not None
    ]
    table = table_of(
        "Scores of each arm on its test images", rows,
        text("held out", lambda e: protocol_title(e.protocol)), text("arm", "title"),
        value("n", "n"), *scores(("accuracy", "macro_f1", "roc_auc", "log_loss", "ece")),
        grouped=True,
    )  # fmt: skip
    start = table_of(
        "Where each arm started", result.arms,
        text("arm", "title"),
        code("its report", lambda arm: f"{arm.name}/report.html", narrow=False),
        text("weights", "weights"),
    )  # fmt: skip
    changed = table_if_any(
        "What each arm changes",
        [
            (arm.title, key, *values)
            for arm in result.arms
            for key, values in arm.changes.items()
        ],
        text("arm", lambda row: row[0]), code("setting", lambda row: row[1], narrow=False),
        text("whole", lambda row: _setting(row[2])), text("arm ", lambda row: _setting(row[3])),
        grouped=True,
    )  # fmt: skip
    return Section("scores", "The arms", present(start, changed, table))


def _setting(found: JsonValue) -> str:
    """A value of a recipe; of a list of steps their kinds."""
    if isinstance(found, list):
        return ", ".join(map(_setting, found)) or "none"
    return str(found.get("kind", found)) if isinstance(found, Mapping) else str(found)


def _curves(result: ArmsFile, studies: Mapping[str, Study], gallery: Gallery) -> Section:
    by_title = {result.titles[name]: study for name, study in studies.items()}
    chart = draw_curves("learning_curves", by_title, result.recipe, gallery)
    return Section("curves", "Learning curves", present(chart))


def _reproduce(folder: RunFolder, result: ArmsFile) -> Section:
    names = [arm.name for arm in result.arms]
    commands = "\n".join(typed("explain", f"{folder.path.name}/{name}") for name in names)
    return Section(
        "next",
        "The arms as studies",
        [
            Paragraph(
                "Each arm is an ordinary study folder with its own configuration, splits, "
                "predictions and report; the commands below work on it."
            ),
            Code(commands),
        ],
    )

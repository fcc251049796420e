"""The report of a comparison of arms: a double transfer, or an ablation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leukoscope.core.files import write_text
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.arm_charts import (
    arm_titles,
    draw_curves,
    draw_differences,
    lower_first,
)
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Code,
    Column,
    Heading,
    Paragraph,
    Section,
    Table,
)
from leukoscope.reporting.formats import (
    DASH,
    UNRELIABLE_NOTE,
    count,
    difference,
    interval,
    metric_title,
    p_value,
    plural,
)
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.markup import render, stylesheet
from leukoscope.reporting.source import Study, load_study
from leukoscope.reporting.transfer_sections import first_phase, overlap, taken_over
from leukoscope.reporting.wording import DISCLAIMER, protocol_title

Record = Mapping[str, Any]
LEVELS: Mapping[str, tuple[str, str]] = {
    "helps": ("plausible", "✓"),
    "harms": ("caution", "!"),
    "depends on the protocol": ("caution", "!"),
}
QUESTIONS = {"transfer": "Does the first phase help?", "ablation": "What does each part do?"}


def write_arms_report(folder: RunFolder, result: Record) -> None:
    """Write ``figures/*.png``, ``report.html`` and ``transfer.md`` or ``ablation.md``.

    Args:
        folder: The comparison's folder, with the study folder of each arm in it.
        result: The content of ``transfer.json`` or ``ablation.json``.

    Raises:
        DataError: A file of an arm is missing or damaged.
    """
    studies = {
        arm["name"]: load_study(RunFolder(folder.path / arm["name"])) for arm in result["arms"]
    }
    gallery = Gallery(folder)
    sections = [_answer(result, gallery), _scores(result, studies)]
    if result["kind"] == "transfer":
        phase1 = load_study(RunFolder(folder.path / result["phase1"]["folder"]))
        sections += [taken_over(result), overlap(result), first_phase(result, phase1, gallery)]
    sections += [_curves(result, studies, gallery), _reproduce(folder, result)]
    values = _head(result, studies) | {"sections": [s for s in sections if s.blocks]}
    write_text(folder.report_html, render("report.html.j2", css=stylesheet(), **values))
    write_text(folder.path / f"{result['kind']}.md", render("report.md.j2", **values))


def _head(result: Record, studies: Mapping[str, Study]) -> dict[str, Any]:
    verdict = result["verdict"]
    target = Path(result["target"]).name
    level, sign = LEVELS.get(verdict["level"], ("inconclusive", "="))
    study = next(iter(studies.values()))
    if result["kind"] == "transfer":
        name = f"Double transfer: {Path(result['source']).name} → {target}"
    else:
        name = f"Ablation of {result['recipe']} on {target}"
    return {
        "title": f"Leukoscope · {name}",
        "name": name,
        "facts": (
            (count(len(study.manifest.usable)), "usable images"),
            (result["recipe"], "recipe"),
            (str(len(studies)), "arms"),
        ),
        "headline": verdict["headline"],
        "level": level,
        "level_word": verdict["level"],
        "level_sign": sign,
        "disclaimer": DISCLAIMER,
    }


def _answer(result: Record, gallery: Gallery) -> Section:
    blocks: list[Block] = [Bullets(tuple(result["verdict"]["sentences"]))]
    chart = draw_differences(result, gallery)
    blocks += [chart] if chart else []
    blocks.append(_difference_table(result))
    if result["inapplicable"]:
        blocks.append(
            Bullets(
                tuple(
                    f"{protocol_title(row['protocol'])} does not apply: {row['reason']}"
                    for row in result["inapplicable"]
                )
            )
        )
    blocks += [Heading("How far this goes"), Bullets(tuple(result["limits"]))]
    return Section("answer", QUESTIONS[result["kind"]], blocks)


def _difference_table(result: Record) -> Table:
    names = list(result["comparisons"][0]["differences"]) if result["comparisons"] else []
    several = len(result["arms"]) > 2
    titles = arm_titles(result)
    first, second = (titles[arm["name"]] for arm in result["arms"][:2])
    rows = []
    for row in result["comparisons"]:
        test = row["pairs"]
        rows.append(
            (
                *((titles[row["second"]],) if several else ()),
                f"{protocol_title(row['protocol'])} ({plural(row['n_groups'], row['group_unit'])})",
                *(difference(row["differences"][name], name) for name in names),
                f"{test['only_first_right']} : {test['only_second_right']}",
                DASH if test["mcnemar_p"] is None else p_value(test["mcnemar_p"]),
            )
        )
    levels = {row["confidence"] for row in result["comparisons"]}
    level = f"{100 * min(levels):.4g} %" if levels else ""
    return Table(
        caption=(
            f"Paired differences on the same test images: {lower_first(first)} minus "
            f"{'each other arm' if several else lower_first(second)}"
        ),
        columns=(
            *((Column("minus"),) if several else ()),
            Column("held out"),
            *(Column(metric_title(name), numeric=True) for name in names),
            Column("right alone", numeric=True),
            Column("p", numeric=True),
        ),
        rows=tuple(rows),
        note=(
            f"The verdict rests on accuracy. Intervals of {level} from a bootstrap over the "
            "groups; for several comparisons the level is raised so that all hold together. Log "
            "loss is better where it is smaller. Right alone: images that only the first, only "
            "the second has right; p is that of McNemar's exact test of these, made only "
            f"where no two images share a group. {UNRELIABLE_NOTE}"
        ),
    )


def _scores(result: Record, studies: Mapping[str, Study]) -> Section:
    names = ("accuracy", "macro_f1", "roc_auc", "log_loss", "ece")
    rows = [
        (
            protocol_title(entry["protocol"]),
            arm["title"],
            count(entry["n"]),
            *(interval(entry["metrics"].get(name), name) for name in names),
        )
        for protocol in next(iter(studies.values())).protocols
        for arm in result["arms"]
        if (entry := studies[arm["name"]].result(result["recipe"], protocol)) is not None
    ]
    table = Table(
        caption="Scores of each arm on its test images",
        columns=(
            Column("held out"),
            Column("arm"),
            Column("n", numeric=True),
            *(Column(metric_title(name), numeric=True) for name in names),
        ),
        rows=tuple(rows),
        note=UNRELIABLE_NOTE,
        grouped=True,
    )
    start = Table(
        caption="Where each arm started",
        columns=(Column("arm"), Column("its report", code=True), Column("weights")),
        rows=tuple(
            (arm["title"], f"{arm['name']}/report.html", arm["weights"]) for arm in result["arms"]
        ),
    )
    changes = [
        (arm["title"], key, _setting(before), _setting(after))
        for arm in result["arms"]
        for key, (before, after) in arm.get("changes", {}).items()
    ]
    changed = Table(
        caption="What each arm changes",
        columns=(Column("arm"), Column("setting", code=True), Column("whole"), Column("arm ")),
        rows=tuple(changes),
        grouped=True,
    )
    return Section("scores", "The arms", [start, *([changed] if changes else []), table])


def _setting(value: Any) -> str:
    """A value of a recipe; of a list of steps their kinds."""
    if isinstance(value, list):
        return ", ".join(map(_setting, value)) or "none"
    return str(value.get("kind", value)) if isinstance(value, Mapping) else str(value)


def _curves(result: Record, studies: Mapping[str, Study], gallery: Gallery) -> Section:
    titles = arm_titles(result)
    by_title = {titles[name]: study for name, study in studies.items()}
    chart = draw_curves("learning_curves", by_title, result["recipe"], gallery)
    return Section("curves", "Learning curves", [chart] if chart else [])


def _reproduce(folder: RunFolder, result: Record) -> Section:
    names = [arm["name"] for arm in result["arms"]]
    text = "\n".join(f"leukoscope explain {folder.path.name}/{name}" for name in names)
    return Section(
        "next",
        "The arms as studies",
        [
            Paragraph(
                "Each arm is an ordinary study folder with its own configuration, splits, "
                "predictions and report; the commands below work on it."
            ),
            Code(text),
        ],
    )

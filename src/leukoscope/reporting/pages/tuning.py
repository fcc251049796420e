"""The page of a tuning, from its ``tune.json`` alone."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from leukoscope.config.tuning_results import TuningFile
from leukoscope.config.tuning_space import Choice, Range
from leukoscope.core.protocols import protocol_title
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.content import (
    Block,
    Code,
    Folded,
    Head,
    Headline,
    Paragraph,
    Picture,
    References,
    Section,
    Steps,
    Tab,
    present,
)
from leukoscope.reporting.figures import training as draw
from leukoscope.reporting.formats import plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.markup import write_page
from leukoscope.reporting.record_tables import Field, code, table_if_any, table_of, text, value

REFERENCES = (
    ("Optuna (Akiba et al. 2019)", "https://doi.org/10.1145/3292500.3330701"),
    (
        "Correction for the choice (Tsamardinos et al. 2018)",
        "https://doi.org/10.1007/s10994-018-5714-4",
    ),
    ("fANOVA (Hutter et al. 2014)", "https://proceedings.mlr.press/v32/hutter14.html"),
)
SHOWN = 10
FEW_IMAGES = 100


def write_tuning_page(out: Path, summary: TuningFile) -> None:
    """Write ``figures/*.svg`` and ``tune.html`` of a tuning.

    Args:
        out: The tuning's folder.
        summary: The content of ``tune.json``.
    """
    gallery = Gallery(RunFolder(out))
    sections = {
        "Result": Section("result", "The best values", _result(summary)),
        "Course": Section("course", "Course of the trials", _course(summary, gallery)),
        "Values": Section("values", "What the values had to do with it", _values(summary, gallery)),
        "Sources": Section("sources", "Sources of the methods", [References(REFERENCES)]),
    }
    counts = summary.trials
    facts = (
        (f"{sum(n for state, n in counts.items() if state != 'stopped')}", "trials"),
        (protocol_title(summary.protocol), "protocol"),
        (f"{summary.n_val}", "validation images"),
        (f"{summary.sampler}, {summary.pruner}", "sampler, pruner"),
    )
    title = f"Tuning of {summary.recipe} on {summary.data}"
    head = Head(
        kind="tuning",
        title=title,
        name=title,
        facts=facts,
        headline=Headline("inconclusive", "Result", "→", optimism(summary)),
        lead=_next(summary),
    )
    tabs = [Tab(f"part-{name.lower()}", name, [section]) for name, section in sections.items()]
    write_page(out / "tune.html", head, tabs)


def optimism(summary: TuningFile) -> str:
    """In words, how far the best value can be trusted."""
    name = criterion(summary)
    best = summary.best.value
    n = summary.trials.get("complete", 0)
    sentences = [
        f"The best of {plural(n, 'complete trial')} has a validation {name} of {best:.4f}."
    ]
    corrected = summary.corrected
    if n > 1:
        worse = corrected is not None and (
            corrected.value >= best if summary.minimise else corrected.value <= best
        )
        if corrected is None or worse:
            sentences.append("This is optimistic, because it chose the configuration;")
        if corrected is None:
            sentences.append("the trials at hand do not allow to say by how much.")
        else:
            first = (
                "corrected for the choice"
                if worse
                else (
                    "It chose the configuration, which makes such a value optimistic; here chance "
                    "weighs more, and corrected for the choice"
                )
            )
            sentences.append(
                f"{first} it is {corrected.value:.4f} "
                f"({corrected.low:.4f}–{corrected.high:.4f}, bootstrap over "
                f"{plural(corrected.n_groups, 'group')})."
            )
    if summary.own is not None:
        sentences.append(f"The recipe as it is has {summary.own:.4f}.")
    elif summary.penalties is not None and summary.penalties[0] < summary.penalties[1]:
        tried, there = summary.penalties
        sentences.append(
            f"Of the recipe's {plural(there, 'penalty', 'penalties')} {tried or 'none'} "
            f"{'was' if tried < 2 else 'were'} tried, so its own value is not known."
        )
    few = summary.n_val
    if few < FEW_IMAGES:
        sentences.append(
            f"There are only {few} validation images, one is {100 / few:.1f} % of them: take more "
            "with --folds 5 or --set splits.val=0.2."
        )
    return " ".join(sentences)


def criterion(summary: TuningFile) -> str:
    """What the trials are compared by, in words, such as ``weighted F1``."""
    return summary.criterion.replace("_", " ").replace("f1", "F1")


def _result(summary: TuningFile) -> list[Block]:
    values = summary.best.values
    counts = ", ".join(f"{n} {state}" for state, n in summary.trials.items())
    blocks: list[Block] = [
        table_of(
            f"Values of the best trial ({summary.best.trial}), as in `best.toml`", values,
            code("key", str),
            code("value", lambda key: _text(values[key]), narrow=False),
            code("searched", lambda key: _range(summary.space[key]), narrow=False),
        ),
        Paragraph(
            f"Trials: {counts}. They saw {summary.n_images} images, the train and val parts of "
            f"one hold-out ({protocol_title(summary.protocol).lower()}); no trial read an image or "
            "a label of cal or test. The choice of the best epoch within each trial is not "
            "corrected for, so that even the corrected value leans to the good side.",
            note=True,
        ),
    ]  # fmt: skip
    failed = summary.in_state("failed")
    reasons = table_if_any(
        f"Failed trials ({len(failed)})", failed,
        value("trial", lambda row: str(row.trial)), text("reason", "reason"),
    )  # fmt: skip
    return [*blocks, *present(reasons)]


def _course(summary: TuningFile, gallery: Gallery) -> list[Block]:
    rows, name = summary.rows, f"validation {criterion(summary)}"
    minimise = summary.minimise
    history = partial(draw.optimisation_history, rows, minimise=minimise, criterion=name)
    n = len(summary.in_state("complete"))
    blocks: list[Block] = [
        gallery.draw(
            "history",
            history,
            caption=f"The value of each trial and the best so far ({plural(n, 'complete trial')}).",
            alt=f"Best {name} so far, {summary.best.value:.4f} at the end.",
        )
    ]
    if any(row.reported for row in rows):
        blocks.append(_intermediate(summary, gallery))
    blocks.append(_best_rows(summary, minimise))
    return blocks


def _intermediate(summary: TuningFile, gallery: Gallery) -> Picture:
    steps = "fold" if summary.recipe_method == "linear-head" else "epoch"
    unit = steps if steps == "fold" or summary.folds == 1 else "epoch, one fold after the other"
    what = {"log_loss": "loss", "weighted_f1": "weighted F1"}.get(
        summary.criterion, summary.criterion
    )
    return gallery.draw(
        "intermediate",
        partial(
            draw.intermediate_values,
            summary.rows,
            best=summary.best.trial,
            unit=unit,
            criterion=f"best validation {what} so far",
        ),
        caption=f"What each trial reported after each {steps}; the pruner compares these.",
        alt=f"One line per trial over its {steps}s.",
    )


def _best_rows(summary: TuningFile, minimise: bool) -> Folded:
    done = summary.in_state("complete")
    done.sort(key=lambda row: (row.score if minimise else -row.score, row.trial))

    def setting(key: str) -> Field:
        return code(key, lambda row: draw.short(row.labels[key]), narrow=False)

    table = table_of(
        f"The best {min(SHOWN, len(done))} of {len(done)} complete trials; all are in `trials.csv`",
        done[:SHOWN],
        value("trial", lambda row: str(row.trial)),
        value(criterion(summary), lambda row: f"{row.score:.4f}"),
        *map(setting, summary.space),
    )
    return Folded("The best trials as a table", (table,))


def _values(summary: TuningFile, gallery: Gallery) -> list[Block]:
    rows, space, name = summary.rows, summary.space, f"validation {criterion(summary)}"
    minimise = summary.minimise
    blocks: list[Block] = []
    if summary.importances:
        blocks.append(
            gallery.draw(
                "importances",
                partial(draw.parameter_importances, summary.importances),
                caption="Share of the variance between complete trials that each key explains "
                "(fANOVA); with few trials it is rough.",
                alt="Bars, the most important key on top.",
            )
        )
    blocks.append(
        gallery.draw(
            "parallel",
            partial(draw.parallel_coordinates, rows, space, minimise=minimise, criterion=name),
            caption="One line per complete trial through its values; darker is better.",
            alt="Lines over one vertical axis per key; the best trial is highlighted.",
        )
    )
    blocks.append(
        gallery.draw(
            "slices",
            partial(draw.slices, rows, space, criterion=name),
            caption="The value over each key on its own; later trials are darker.",
            alt="One scatter plot per key.",
        )
    )
    return blocks


def _next(summary: TuningFile) -> list[Block]:
    return [
        Steps(
            "Do next",
            (
                (
                    "Measure it once.",
                    "This command trains the best configuration on the same hold-out and measures "
                    "it on the test part, which no trial has seen. Once looked at, that part is "
                    "used: tuning on after it makes its score optimistic too. Folds of the whole "
                    "data set, and other protocols, test on images that chose the configuration.",
                ),
            ),
        ),
        Code(summary.next),
    ]


def _text(found: object) -> str:
    """A value as it is told apart by: numbers to six digits, of a table its kind."""
    if isinstance(found, float):
        return f"{found:.6g}"
    return draw.short(json.dumps(found)) if isinstance(found, (dict, list)) else str(found)


def _range(parameter: Range | Choice) -> str:
    if isinstance(parameter, Choice):
        return ", ".join(map(_text, parameter.values))
    return f"{parameter.kind} {parameter.low:g}..{parameter.high:g}"

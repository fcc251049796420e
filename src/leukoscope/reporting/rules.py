"""Fuzzy rule bases, and the settings that classifiers on features were given."""

from __future__ import annotations

from collections import Counter

from leukoscope.core.files import read_csv
from leukoscope.reporting.content import Block, Code, Column, Heading, Paragraph, Table
from leukoscope.reporting.formats import plural
from leukoscope.reporting.source import Study
from leukoscope.reporting.wording import protocol_title

MOST_RULES = 24
_MEASURED = ("val_loss", "val_accuracy")


def rule_base(study: Study, recipe: str) -> list[Block]:
    """The words of a recipe's first rule base and its first rules; empty where it has none."""
    files = sorted((study.run.path / "models" / recipe).glob("*/fold*/rules.txt"))
    if not files:
        return []
    path = files[0]
    lines = path.read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line.startswith("IF ")]
    words = [line for line in lines if line and not line.startswith("IF ")]
    shown = rules[:MOST_RULES]
    file = path.relative_to(study.run.path).as_posix()
    note = f"{plural(len(shown), 'rule')} of {len(rules)} in `{file}`."
    if len(files) > 1:
        note += f" Each of the {len(files)} folds has a file of its own."
    return [
        Heading(f"Fuzzy rules of {recipe}"),
        Code("\n".join([*words, "", *shown])),
        Paragraph(note, note=True),
    ]


def selected_settings(study: Study) -> Table | None:
    """The settings that won on the validation images, by recipe and protocol."""
    rows = []
    for recipe in study.recipes:
        for protocol in study.protocols:
            folder = study.run.path / "models" / recipe / protocol
            winners: Counter[str] = Counter()
            for path in sorted(folder.glob("fold*/grid.csv")):
                tried = read_csv(path, required=_MEASURED)
                best = min(tried, key=lambda row: float(row["val_loss"]))
                winners[
                    ", ".join(f"{k} {v}" for k, v in best.items() if v and k not in _MEASURED)
                ] += 1
            if winners:
                text = "; ".join(
                    f"{setting} ({plural(n, 'fold')})" for setting, n in winners.most_common()
                )
                rows.append((recipe, protocol_title(protocol), text))
    if not rows:
        return None
    columns = (Column("Recipe", code=True, narrow=True), Column("Protocol"), Column("Settings"))
    caption = "Settings selected by log loss on validation images (all tried: `grid.csv`)"
    return Table(caption, columns, tuple(rows), grouped=True)

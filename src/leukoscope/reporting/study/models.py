"""The models of a study: recipes, training, ensembles, fuzzy rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from leukoscope.config.ensemble import EnsembleFile
from leukoscope.core.files import read_csv
from leukoscope.core.protocols import protocol_title
from leukoscope.core.run_folder import GRID
from leukoscope.reporting.content import (
    Block,
    Code,
    Column,
    Heading,
    Paragraph,
    Picture,
    Section,
    Table,
)
from leukoscope.reporting.figures.training import learning_curves, regularisation_path
from leukoscope.reporting.formats import count, difference, metric_title, number, p_value, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.record_tables import (
    N_IMAGES,
    PROTOCOL,
    RECIPE,
    code,
    each,
    table_of,
    text,
    value,
)
from leukoscope.reporting.result_tables import FEW_GROUPS_NOTE, who_is_better
from leukoscope.reporting.study import data as tables
from leukoscope.reporting.study_files import History, Study

MOST_RULES = 24
_MEASURED = ("val_loss", "val_accuracy")
MOST_RECIPES = 3


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
            for path in sorted(folder.glob(f"fold*/{GRID}")):
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
    caption = f"Settings selected by log loss on validation {study.row}s (all tried: `{GRID}`)"
    return Table(caption, columns, tuple(rows), grouped=True)


def ensembles(study: Study) -> list[Section]:
    """Members, weights and paired tests; nothing for a study that is no ensemble."""
    path = study.run.ensemble
    if not path.is_file():
        return []
    record = EnsembleFile.load(path)
    blocks: list[Block] = [
        Paragraph(
            "Members were combined image by image, fold by fold, from their calibrated "
            "probabilities; all stand in the same parts of the same folds. One temperature, "
            "fitted on what the other folds answered, takes back what averaging did. Weights were "
            "fitted on the validation images. No test image took part in its own answer."
        ),
        _members(record),
    ]
    if record.weights:
        blocks.append(_weights(record))
    if record.tests:
        blocks.append(_tests(study, record))
    return [Section("ensemble", "How the models were combined", blocks)]


def _members(record: EnsembleFile) -> Table:
    members = record.members
    return table_of(
        f"The {len(members)} members", members,
        code("Member", "name"), RECIPE, code("Run", "run", narrow=False),
        code("SHA-256 of its predictions", lambda m: m.predictions_sha256[:16] + "…",
             narrow=False),
    )  # fmt: skip


def _weights(record: EnsembleFile) -> Table:
    names = [member.name for member in record.members]
    rows = [
        {"method": method, "protocol": protocol, "weights": list(zip(*folds, strict=True))}
        for method, protocols in record.weights.items()
        for protocol, folds in protocols.items()
    ]

    def weight(folds: Sequence[float]) -> str:
        mean = number(sum(folds) / len(folds), "share")
        return f"{mean} ({100 * min(folds):.1f}–{100 * max(folds):.1f})"

    return table_of(
        "Weights of the members: mean of the folds (smallest–largest)", rows,
        code("Weights", "method"), PROTOCOL,
        *each(
            range(len(names)), lambda k: names[k], lambda e, k: weight(e["weights"][k])
        ),
        grouped=True,
    )  # fmt: skip


def _tests(study: Study, record: EnsembleFile) -> Table:
    best = ", ".join(
        f"{name} ({protocol_title(protocol).lower()})"
        for protocol, name in record.best_member.items()
    )
    return table_of(
        "Ensembles against their best member and against plain averaging, paired "
        f"({study.level} intervals)",
        record.tests,
        PROTOCOL, code("A", "a"), code("B", "b"),
        text("Metric", lambda e: metric_title(e.metric)),
        value("A − B", lambda e: difference(e.difference, e.metric)),
        value("p, Holm", lambda e: p_value(e.p_holm)),
        text("A is", lambda e: who_is_better(e, study.confidence)), N_IMAGES,
        note="A is better or worse where the interval is reliable and leaves 0 out and the "
        "exchange test over groups is significant after Holm's correction for all rows of one "
        "protocol. "
        f"{FEW_GROUPS_NOTE}The best member by log loss on validation images, not on test images: "
        f"{best}.",
        grouped=True,
    )  # fmt: skip


def training(study: Study, gallery: Gallery) -> Section:
    """Recipes, and how their training went."""
    blocks: list[Block] = [tables.recipes(study)]
    charts: list[Block] = []
    for recipe in study.recipes[:MOST_RECIPES]:
        panels = _by_protocol(study, recipe)
        if panels:
            charts.append(_training_chart(study, gallery, recipe, panels))
    selected = selected_settings(study)
    if selected is not None:
        charts.append(selected)
    for recipe in study.recipes:
        charts += rule_base(study, recipe)
    if not charts:
        charts.append(Paragraph("No training history was stored.", note=True))
    return Section("training", "How the models were trained", [*blocks, *charts])


def _by_protocol(study: Study, recipe: str) -> list[tuple[str, list[History]]]:
    panels = []
    for protocol in study.protocols:
        found = [h for h in study.histories if (h.recipe, h.protocol) == (recipe, protocol)]
        if found:
            panels.append((protocol, found))
    return panels


def _training_chart(
    study: Study, gallery: Gallery, recipe: str, panels: Sequence[tuple[str, list[History]]]
) -> Picture:
    titled = [(protocol_title(name), [h.columns for h in folds]) for name, folds in panels]
    n_folds = sum(len(folds) for _, folds in panels)
    n_train = _mean_train(study, panels[0][0])
    size = f"; about {count(n_train)} training {study.row}s a fold" if n_train else ""
    path = "c" in panels[0][1][0].columns
    if path:
        title = f"Regularisation path, {plural(n_folds, 'fit')}{size}"
        return gallery.draw(
            f"training-{recipe}",
            lambda: regularisation_path(titled, title=title),
            caption=(
                f"Choice of the penalty, recipe {recipe}: mean of the folds, band from the "
                f"smallest to the largest (n = {plural(n_folds, 'fit')}{size})."
            ),
            alt=f"Validation loss and accuracy of {recipe} over the inverse penalty.",
        )
    return gallery.draw(
        f"training-{recipe}",
        lambda: learning_curves(titled),
        caption=(
            f"Learning curves, recipe {recipe}, one line a fold "
            f"(n = {plural(n_folds, 'training')}{size}; dashed: train, solid: validation)."
        ),
        alt=f"Loss and accuracy of {recipe} by epoch.",
    )


def _mean_train(study: Study, protocol: str) -> int:
    sizes = [len(fold.ids("train")) for fold in study.folds if fold.protocol == protocol]
    return round(sum(sizes) / len(sizes)) if sizes else 0

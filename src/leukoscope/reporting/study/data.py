"""What the data is and what the run depended on: tables and sections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from leukoscope.config.environment import GitState
from leukoscope.config.recipe import EnsembleTraining, GradientTraining, LinearHeadTraining, Recipe
from leukoscope.core.labels import (
    class_description,
    class_title,
    malignant_mask,
    order_classes,
    role_of,
    without_sides,
)
from leukoscope.core.protocols import protocol_rank, protocol_title
from leukoscope.core.records import PARTS
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Code,
    Column,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Section,
    Table,
    present,
)
from leukoscope.reporting.figures.data import class_balance, cluster_heat_map
from leukoscope.reporting.formats import DASH, count, number, p_value, plural, seconds
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.record_tables import (
    Entry,
    Field,
    code,
    each,
    table_if_any,
    table_of,
    text,
    value,
)
from leukoscope.reporting.study_files import Study

MOST_ROWS = 40
MOST_SETTINGS = 6  # columns that a page holds
_SAID_ELSEWHERE = {"name", "title", "reference", "notes"}


def classes(study: Study) -> Table:
    """Usable images of each class, with its role and what the class means."""
    found = Counter(record.label for record in study.manifest.usable)
    total, roles = sum(found.values()), study.roles
    apart = malignant_mask(order_classes(found), roles) is not None
    return table_of(
        f"Classes of the {plural(total, 'usable image')}", order_classes(found),
        text("Class", class_title),
        text("Role", lambda name: role_of(name, roles) or "not stated"),
        text("What it is", lambda name: class_description(name) or DASH),
        value("n images", lambda name: count(found[name])),
        value("Share", lambda name: number(found[name] / total, "share")),
        note="" if apart else f"No P(malignant): {without_sides(order_classes(found), roles)}.",
    )  # fmt: skip


def unused(study: Study) -> Table | None:
    """Files that were set aside, each with its reason."""
    records = [record for record in study.manifest.images if record.status != "ok"]
    more = len(records) - MOST_ROWS
    return table_if_any(
        f"{plural(len(records), 'file')} set aside", records[:MOST_ROWS],
        code("File", lambda r: r.path, narrow=False),
        text("Status", lambda r: r.status, narrow=True),
        text("Reason", lambda r: r.reason or DASH),
        note=f"and {count(more)} more, see `manifest.csv`" if more > 0 else "",
    )  # fmt: skip


def findings(study: Study) -> Table | None:
    """What the audit found, errors first."""
    order = ("error", "warning", "info")
    return table_if_any(
        f"Findings of the audit over {plural(len(study.manifest.images), 'file')}",
        sorted(study.findings, key=lambda e: order.index(e["level"])),
        text("Level", "level", narrow=True),
        text("Finding", "text"),
    )


def ties(study: Study) -> Table | None:
    """Duplicates, overlaps and twins."""
    passport = study.passport
    if passport is None:
        return None
    overlaps, linked = passport["overlaps"], (
        ("Exact duplicates", passport["exact_duplicates"]),
        ("Equal pixels in different files", passport["pixel_duplicates"]),
        ("Nearly equal images", passport["near_duplicates"]),
        ("Twins (one field in two versions)", passport["twins"]),
    )  # fmt: skip
    rows = [(title, tie["pairs"], len(tie["groups"]), tie["images"]) for title, tie in linked]
    fields = (len(overlaps["pairs"]), overlaps["groups"], overlaps["images"])
    rows.insert(3, ("Overlapping fields", *fields))
    return table_of(
        f"Images that belong together, among {plural(len(study.manifest.usable), 'image')}", rows,
        text("Tie", lambda row: row[0]),
        value("Pairs", lambda row: count(row[1])),
        value("Groups", lambda row: count(row[2])),
        value("Images", lambda row: count(row[3])),
    )  # fmt: skip


def scale_bars(study: Study) -> Table | None:
    """Images with a burned-in scale bar, by class."""
    if study.passport is None or not study.passport["scale_bars"]["images"]:
        return None
    found = Counter(r.label for r in study.manifest.usable)
    with_bar = study.passport["scale_bars"]["by_class"]
    return table_of(
        "Burned-in scale bars", order_classes(found),
        text("Class", class_title),
        value("With scale bar", lambda name: count(with_bar.get(name, 0))),
        value("n images", lambda name: count(found[name])),
        value("Share", lambda name: number(with_bar.get(name, 0) / found[name], "share")),
    )  # fmt: skip


def columns(study: Study) -> Table | None:
    """Further columns of the manifest, and how each goes with the class."""
    return table_if_any(
        "Further columns of the manifest, and how they go with the class",
        study.passport.get("columns", ()) if study.passport else (),
        code("Column", "column"),
        value("Values", lambda e: count(e["values"])),
        value("Images without one", lambda e: count(e["missing"])),
        value("Association", lambda e: DASH if e["effect"] is None else f"{e['effect']:.2f}"),
        text("Measure", lambda e: e["measure"] or f"not testable: {e['reason']}"),
        value("p, Holm", lambda e: p_value(e["p_holm"])),
        text("Dealt at random", lambda e: f"{e['unit']}s" if e["measure"] else DASH),
        note="0: the column tells nothing of the class; 1: it tells the class. Every patient "
        "counts once. Permutation test, corrected for all columns.",
    )


def parts(study: Study) -> Table | None:
    """Images in each part, the mean over the folds of a protocol."""
    found: dict[str, list[Counter[str]]] = {}
    for fold in study.folds:
        found.setdefault(fold.protocol, []).append(Counter(fold.parts.values()))
    return table_if_any(
        f"{study.row.capitalize()}s per part, mean of the folds",
        sorted(found.items(), key=lambda item: protocol_rank(item[0])),
        text("Protocol", lambda e: "Final model (no test part)" if e[0] == "final"
             else protocol_title(e[0])),
        value("Folds", lambda e: count(len(e[1]))),
        *part_sizes(lambda e: e[1]),
        note=f"purged: {study.row}s kept out of training because they overlap a test {study.row}.",
    )  # fmt: skip


def part_sizes(folds_of: Callable[[Entry], Sequence[Mapping[str, int]]]) -> list[Field]:
    """A column for each part of a split: its images, the mean of the folds.

    Args:
        folds_of: Finds the images in each part of each fold in a record.
    """

    def mean(folds: Sequence[Mapping[str, int]], part: str) -> str:
        return count(sum(fold[part] for fold in folds) / len(folds))

    return each((*PARTS, "purged"), str, lambda e, part: mean(folds_of(e), part))


def recipes(study: Study) -> Table:
    """How each model was made."""
    first = "; the first becomes the bundle" if study.config.bundle else ""
    return table_of(
        f"Recipes{first}", study.config.recipes,
        code("Recipe", lambda r: r.name),
        text("In one line", lambda r: r.title),
        code("Backbone", _backbone, narrow=False),
        text("Weights", _weights),
        text("Training", _training),
    )  # fmt: skip


def _backbone(recipe: Recipe) -> str:
    return DASH if isinstance(recipe.training, EnsembleTraining) else recipe.model.backbone


def _weights(recipe: Recipe) -> str:
    if isinstance(recipe.training, EnsembleTraining):
        return "those of its members"
    return "random (none)" if recipe.model.weights == "none" else recipe.model.weights


def _training(recipe: Recipe) -> str:
    if recipe.inner_folds:
        return f"mean of {recipe.inner_folds} models on inner folds, each: {_one_model(recipe)}"
    return _one_model(recipe)


def _one_model(recipe: Recipe) -> str:
    training = recipe.training
    size = f"{recipe.preprocess.size_px} px"
    if recipe.model.views > 1:
        size += f", each prediction over {recipe.model.views} views ({recipe.model.test_time})"
    if isinstance(training, GradientTraining):
        return (
            f"{training.optimizer}, learning rate {training.learning_rate:g}, batch "
            f"{training.batch_size}, at most {plural(training.epochs, 'epoch')}, {size}"
        )
    if isinstance(training, EnsembleTraining):
        return f"none: {training.rule} of {plural(len(training.members), 'model')}"
    if not isinstance(training, LinearHeadTraining):
        return f"frozen features, {training.classifier.kind}, settings selected on val, {size}"
    grid = ", ".join(f"{c:g}" for c in training.c_grid)
    return f"frozen features, linear head, C from {grid}, {size}"


def settings(study: Study) -> Table:
    """Every setting of each recipe under the key that ``--set`` changes it by."""
    shown = study.config.recipes[:MOST_SETTINGS]
    left_out = _SAID_ELSEWHERE | ({"patient"} if study.row == "image" else set())
    values = [_flat(recipe.model_dump(mode="json", exclude=left_out)) for recipe in shown]
    keys = dict.fromkeys(key for recipe in values for key in recipe)
    rows = tuple((key, *(recipe.get(key, DASH) for recipe in values)) for key in keys)
    columns = (
        Column("Setting", code=True),
        *(Column(recipe.name, narrow=True) for recipe in shown),
    )
    more = len(study.config.recipes) - len(shown)
    note = f"{plural(more, 'further recipe')}: see `config.toml`." if more else ""
    return Table("Settings of each recipe, defaults included", columns, rows, note)


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys; a list of tables counts as one value."""
    flat: dict[str, str] = {}
    for key, found in values.items():
        if isinstance(found, Mapping):
            flat |= _flat(found, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _setting(found)
    return flat


def _setting(found: object) -> str:
    if isinstance(found, Mapping):
        rest = (f"{name} {_setting(v)}" for name, v in found.items() if name != "kind")
        return f"{found.get('kind', '')} ({', '.join(rest)})".replace(" ()", "").strip()
    if isinstance(found, (list, tuple)):
        return ", ".join(map(_setting, found)) or "none"
    if isinstance(found, bool):
        return "yes" if found else "no"
    return f"{found:g}" if isinstance(found, float) else str(found)


def environment(study: Study) -> Table | None:
    """Versions, hardware, hashes."""
    env = study.environment
    if env is None:
        return None
    packages = dict(env.packages)
    rows = {
        "Leukoscope": packages.pop("leukoscope", DASH),
        "Commit": _commit(env.git),
        "Python": env.python,
        "Platform": env.platform,
        "Processor": f"{env.cpu}, {plural(env.cores, 'core')}",
        "Seed": str(env.seed),
        "Bootstrap replicates": count(study.config.bootstrap),
        **packages,
    }
    rows |= {f"SHA-256 of {name}": digest for name, digest in env.sha256.items()}
    if study.passport and "sha256" in study.passport:
        rows["SHA-256 of the passport"] = study.passport["sha256"]
    return table_of(
        "Environment", rows.items(),
        text("What", lambda row: row[0]),
        code("Value", lambda row: row[1], narrow=False),
    )  # fmt: skip


def _commit(git: GitState | None) -> str:
    if git is None:
        return "— (not run from a source tree)"
    return f"{git.commit}{' with uncommitted changes' if git.dirty else ''}"


def wall_times(study: Study) -> Table | None:
    """How long each step took."""
    env = study.environment
    if env is None or not env.seconds:
        return None
    return table_of(
        "Wall times", env.seconds.items(),
        text("Step", lambda step: step[0]),
        value("Wall time", lambda step: seconds(step[1])),
        note="Some steps are parts of others. "
        f"In all {seconds(env.seconds_in_all)}, without the report itself.",
    )  # fmt: skip


def passport(study: Study, gallery: Gallery) -> Section:
    """What the data set is, and what is wrong with it."""
    manifest, record = study.manifest, study.passport
    files, usable = len(manifest.images), len(manifest.usable)
    blocks: list[Block] = [
        Paragraph(
            f"`{study.name}`: {plural(files, 'image file')} found, {count(usable)} usable, "
            f"{count(files - usable)} set aside"
            + (f"; layout `{record['layout']}`." if record else ".")
        )
    ]
    if not record:
        blocks.append(Paragraph("There is no passport: the data was not audited.", note=True))
    blocks += [classes(study), _balance_chart(study, gallery)]
    blocks += present(findings(study), unused(study), ties(study))
    blocks += _overlap_sheet(study, gallery)
    blocks += _patients(study)
    blocks += _acquisition(study, gallery)
    blocks += present(scale_bars(study), columns(study))
    split = parts(study)
    if split is not None:
        blocks += [Heading("How it was divided"), split]
    return Section("data", "The data’s passport", blocks)


def _balance_chart(study: Study, gallery: Gallery) -> Picture:
    found = Counter(record.label for record in study.manifest.usable)
    counts = {name: found[name] for name in order_classes(found)}
    total = sum(counts.values())
    return gallery.draw(
        "class-balance",
        lambda: class_balance(counts, title=f"Images per class, n = {count(total)}"),
        caption=f"Class balance of the {plural(total, 'usable image')}.",
        alt=", ".join(f"{class_title(name)} {count(n)}" for name, n in counts.items()),
    )


def _overlap_sheet(study: Study, gallery: Gallery) -> list[Block]:
    sheets = sorted(study.run.figures.glob("overlaps*.png"))
    if not sheets:
        return []
    picture = gallery.stored(
        sheets[0],
        caption=(
            "Images that show the same place or the same cell, found by the audit, largest groups "
            "first; a random split puts them on both sides "
            f"(n = {count(len(study.manifest.usable))} images)."
        ),
        alt="Groups of overlapping or nearly equal images, side by side.",
        most_px=1440,
    )
    return present(picture)


def _patients(study: Study) -> list[Block]:
    known = {r.patient_id for r in study.manifest.usable if r.patient_id}
    if not known:
        return [Paragraph("No patient or subject is named, so patients cannot be held out.")]
    named = sum(bool(r.patient_id) for r in study.manifest.usable)
    return [
        Paragraph(
            f"{plural(len(known), 'patient')} named, over {count(named)} of "
            f"{plural(len(study.manifest.usable), 'image')}."
        )
    ]


def _acquisition(study: Study, gallery: Gallery) -> list[Block]:
    records = [r for r in study.manifest.usable if r.acquisition_id]
    if not records:
        return []
    names = order_classes(r.label for r in records)
    row = {name: k for k, name in enumerate(names)}
    clusters = sorted({r.acquisition_id for r in records})
    column = {name: c for c, name in enumerate(clusters)}
    matrix = np.zeros((len(names), len(clusters)), dtype=np.int64)
    np.add.at(
        matrix, ([row[r.label] for r in records], [column[r.acquisition_id] for r in records]), 1
    )
    order = sorted(range(len(clusters)), key=lambda c: (matrix[:, c].argmax(), -matrix[:, c].max()))
    pure = int((matrix.max(axis=0) / matrix.sum(axis=0) >= 0.9).sum())
    v = study.passport["acquisition"].get("cramers_v") if study.passport else None
    strength = (
        "" if v is None else f" Cramér’s V between cluster and class is {v:.2f} (1 is total)."
    )
    title = f"Classes over acquisition clusters, n = {count(len(records))} images"
    return [
        Heading("Acquisition clusters"),
        Paragraph(
            "Images were grouped by the look of their background, without their labels. "
            f"{count(pure)} of {plural(len(clusters), 'cluster')} hold one class to 90 % or more: "
            f"the more there are, the easier the class is guessed from stain and light.{strength}"
        ),
        gallery.draw(
            "clusters-by-class",
            lambda: cluster_heat_map(
                matrix[:, order], names, [clusters[c] for c in order], title=title
            ),
            caption=(
                f"How each of {plural(len(clusters), 'acquisition cluster')} divides over the "
                f"classes (n = {count(len(records))} images; numbers are images)."
            ),
            alt=f"{pure} of {len(clusters)} clusters hold one class to 90 per cent or more.",
        ),
    ]


def reproduce(study: Study) -> Section:
    """Command, environment, hashes, wall times."""
    env = study.environment
    blocks: list[Block] = []
    if env is not None:
        blocks += [Paragraph("This study was made with:"), Code(env.command)]
    blocks.append(
        Paragraph(
            "Every option, defaults included, stands in `config.toml`; the division of the "
            f"{study.row}s with their hashes in `splits.csv`; every probability behind the figures "
            "in `predictions.csv`."
        )
    )
    if env is not None and env.git is not None and env.git.dirty:
        blocks.append(
            Paragraph("The source tree held uncommitted changes: the commit alone does not "
                      "reproduce this run.", note=True)
        )  # fmt: skip
    blocks.append(Folded("Every setting of each recipe", (settings(study),)))
    blocks += present(environment(study), wall_times(study))
    if not env:
        blocks.append(Paragraph("`environment.json` is absent: versions are not known.", note=True))
    if study.absent:
        blocks.append(Bullets(tuple(f"`{n}` was not in the study’s folder." for n in study.absent)))
    return Section("reproduce", "How to reproduce", blocks)

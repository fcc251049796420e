"""Tables of what the data is and of what the run depended on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from leukoscope.config.recipe import EnsembleTraining, GradientTraining, LinearHeadTraining, Recipe
from leukoscope.core.labels import CLASSES, order_classes
from leukoscope.core.records import PARTS
from leukoscope.reporting.content import Column, Table
from leukoscope.reporting.formats import DASH, count, number, plural, seconds
from leukoscope.reporting.source import Study, class_title
from leukoscope.reporting.wording import protocol_rank, protocol_title

MOST_ROWS = 40
MOST_SETTINGS = 6  # columns that a page holds
_SAID_ELSEWHERE = {"name", "title", "reference", "notes"}


def classes(study: Study) -> Table:
    """Usable images of each class, with what the class means."""
    found = Counter(record.label for record in study.manifest.usable)
    total = sum(found.values())
    rows = tuple(
        (
            class_title(name),
            CLASSES[name].description if name in CLASSES else DASH,
            count(found[name]),
            number(found[name] / total, "share"),
        )
        for name in order_classes(found)
    )
    columns = (
        Column("Class"),
        Column("What it is"),
        Column("n images", numeric=True),
        Column("Share", numeric=True),
    )
    return Table(f"Classes of the {plural(total, 'usable image')}", columns, rows)


def unused(study: Study) -> Table | None:
    """Files that were set aside, each with its reason."""
    records = [record for record in study.manifest.images if record.status != "ok"]
    if not records:
        return None
    rows = tuple((r.path, r.status, r.reason or DASH) for r in records[:MOST_ROWS])
    more = len(records) - len(rows)
    note = f"and {count(more)} more, see `manifest.csv`" if more else ""
    columns = (Column("File", code=True), Column("Status", narrow=True), Column("Reason"))
    return Table(f"{plural(len(records), 'file')} set aside", columns, rows, note)


def findings(study: Study) -> Table | None:
    """What the audit found, errors first."""
    order = {"error": 0, "warning": 1, "info": 2}
    entries = sorted(
        study.passport.get("findings", ()), key=lambda e: order.get(e.get("level", ""), 3)
    )
    if not entries:
        return None
    rows = tuple((str(e.get("level", "")), str(e.get("text", ""))) for e in entries)
    caption = f"Findings of the audit over {plural(len(study.manifest.images), 'file')}"
    return Table(caption, (Column("Level", narrow=True), Column("Finding")), rows)


def ties(study: Study) -> Table | None:
    """Duplicates, overlaps and twins."""
    passport = study.passport
    rows = []
    for key, title in (
        ("exact_duplicates", "Exact duplicates (equal files)"),
        ("pixel_duplicates", "Equal pixels in different files"),
        ("near_duplicates", "Nearly equal images"),
        ("overlaps", "Overlapping fields"),
        ("twins", "Twins (one field in two versions)"),
    ):
        entry = passport.get(key)
        if isinstance(entry, Mapping):
            groups = entry.get("groups")
            n_groups = len(groups) if isinstance(groups, list) else groups
            pairs = entry.get("pairs")
            n_pairs = len(pairs) if isinstance(pairs, list) else pairs
            rows.append((title, count(n_pairs), count(n_groups), count(entry.get("images"))))
    if not rows:
        return None
    columns = (
        Column("Tie"),
        Column("Pairs", numeric=True),
        Column("Groups", numeric=True),
        Column("Images", numeric=True),
    )
    caption = f"Images that belong together, among {plural(len(study.manifest.usable), 'image')}"
    note = "— : not counted for this kind of tie." if DASH in {c for r in rows for c in r} else ""
    return Table(caption, columns, tuple(rows), note)


def scale_bars(study: Study) -> Table | None:
    """Images with a burned-in scale bar, by class."""
    record = study.passport.get("scale_bars")
    if not isinstance(record, Mapping) or not record.get("images"):
        return None
    found = Counter(r.label for r in study.manifest.usable)
    by_class = record.get("by_class") or {}
    rows = []
    for name in order_classes(found):
        with_bar = by_class.get(name, 0)
        share = number(with_bar / found[name], "share")
        rows.append((class_title(name), count(with_bar), count(found[name]), share))
    columns = (
        Column("Class"),
        Column("With scale bar", numeric=True),
        Column("n images", numeric=True),
        Column("Share", numeric=True),
    )
    return Table("Burned-in scale bars", columns, tuple(rows))


def parts(study: Study) -> Table | None:
    """Images in each part, the mean over the folds of a protocol."""
    if not study.folds:
        return None
    found: dict[str, list[Counter[str]]] = {}
    for fold in study.folds:
        found.setdefault(fold.protocol, []).append(Counter(fold.parts.values()))
    names = (*PARTS, "purged")
    rows = tuple(
        (
            protocol_title(protocol) if protocol != "final" else "Final model (no test part)",
            count(len(folds)),
            *(count(sum(fold[name] for fold in folds) / len(folds)) for name in names),
        )
        for protocol, folds in sorted(found.items(), key=lambda item: protocol_rank(item[0]))
    )
    columns = (
        Column("Protocol"),
        Column("Folds", numeric=True),
        *(Column(name, numeric=True) for name in names),
    )
    note = "purged: kept out of training because the image overlaps one of the test images."
    return Table("Images per part, mean of the folds", columns, rows, note)


def recipes(study: Study) -> Table:
    """How each model was made."""
    rows = tuple(
        (r.name, r.title, _backbone(r), _weights(r), _training(r)) for r in study.config.recipes
    )
    columns = (
        Column("Recipe", code=True, narrow=True),
        Column("In one line"),
        Column("Backbone", code=True),
        Column("Weights"),
        Column("Training"),
    )
    first = "; the first becomes the bundle" if study.config.bundle else ""
    return Table(f"Recipes{first}", columns, rows)


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
            f"{training.batch_size}, at most {training.epochs} epochs, {size}"
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
    values = [_flat(recipe.model_dump(mode="json", exclude=_SAID_ELSEWHERE)) for recipe in shown]
    keys = dict.fromkeys(key for recipe in values for key in recipe)
    rows = tuple((key, *(recipe.get(key, DASH) for recipe in values)) for key in keys)
    columns = (
        Column("Setting", code=True),
        *(Column(recipe.name, narrow=True) for recipe in shown),
    )
    more = len(study.config.recipes) - len(shown)
    note = f"{plural(more, 'further recipe')}: see `config.toml`." if more else ""
    return Table("Settings of each recipe, defaults included", columns, rows, note)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys; a list of tables counts as one value."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _setting(value)
    return flat


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        rest = (f"{name} {_setting(v)}" for name, v in value.items() if name != "kind")
        return f"{value.get('kind', '')} ({', '.join(rest)})".replace(" ()", "").strip()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_setting, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def environment(study: Study) -> Table | None:
    """Versions, hardware, hashes."""
    env = study.environment
    if not env:
        return None
    rows = [
        (
            "Leukoscope",
            str((env.get("packages") or {}).get("leukoscope", env.get("leukoscope", DASH))),
        ),
        ("Commit", _commit(env.get("git"))),
        ("Python", str(env.get("python", DASH))),
        ("Platform", str(env.get("platform", DASH))),
        ("Processor", _processor(env)),
        ("Seed", str(env.get("seed", study.config.seed))),
        ("Bootstrap replicates", count(study.config.bootstrap)),
    ]
    packages = dict(env.get("packages") or {})
    packages.pop("leukoscope", None)
    rows += _pairs(packages.items())
    hashes = env.get("sha256") or env.get("hashes") or {}
    rows += [(f"SHA-256 of {name}", str(value)) for name, value in hashes.items()]
    if study.passport.get("sha256"):
        rows.append(("SHA-256 of the passport", str(study.passport["sha256"])))
    return Table("Environment", (Column("What"), Column("Value", code=True)), tuple(rows))


def _pairs(items: Iterable[tuple[Any, Any]]) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in items]


def _commit(git: Any) -> str:
    if not isinstance(git, Mapping) or not git.get("commit"):
        return "— (not run from a source tree)"
    return f"{git['commit']}{' with uncommitted changes' if git.get('dirty') else ''}"


def _processor(env: Mapping[str, Any]) -> str:
    cores = env.get("cores")
    name = str(env.get("cpu", DASH))
    return f"{name}, {plural(int(cores), 'core')}" if cores else name


def wall_times(study: Study) -> Table | None:
    """How long each step took."""
    steps = study.environment.get("seconds") or {}
    if not steps:
        return None
    rows = tuple((str(name), seconds(value)) for name, value in steps.items())
    total = seconds(sum(float(value) for value in steps.values()))
    columns = (Column("Step"), Column("Wall time", numeric=True))
    return Table("Wall times", columns, rows, f"In all {total}; steps may contain one another.")

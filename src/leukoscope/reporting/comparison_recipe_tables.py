"""The tables of a comparison on how models were made, on what data, and what others published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leukoscope.config.recipe import GradientTraining, ModelConfig
from leukoscope.core.labels import CLASSES
from leukoscope.reporting.comparison_source import Comparison, Entry, big
from leukoscope.reporting.content import Column, Table
from leukoscope.reporting.formats import DASH, count, number
from leukoscope.reporting.prior_work import FORMULAS, PRIOR_WORK
from leukoscope.reporting.source import class_title
from leukoscope.reporting.wording import protocol_title

_SHOWN_TRAINING = frozenset(
    {
        "method", "optimizer", "learning_rate", "weight_decay", "momentum", "schedule", "loss",
        "batch_size", "epochs", "patience", "keep_best", "class_weights", "freeze", "stop_on",
    }
)  # fmt: skip
_SHOWN_MODEL = frozenset(
    {
        "backbone", "weights", "conv", "squeeze_excite", "pooling", "input_norm", "hidden", "norm",
        "activation", "residual", "hidden_dropout", "dropout",
    }
)  # fmt: skip


def _known(comparison: Comparison) -> list[Entry]:
    return [entry for entry in comparison.entries if entry.get("settings")]


def preprocessing(comparison: Comparison) -> Table:
    """Steps, size and normalisation of each recipe."""
    columns = (
        Column("Recipe", narrow=True),
        Column("Steps before resizing"),
        Column("Input", numeric=True),
        Column("Resize"),
        Column("Mean"),
        Column("Standard deviation"),
    )
    rows = []
    for entry in _known(comparison):
        spec = entry["settings"]["preprocess"]
        steps = ", ".join(_step(step) for step in spec["steps"]) or "none"
        rows.append(
            (
                comparison.name(entry),
                steps,
                f"{spec['size_px']} px",
                spec["resize"],
                _triple(spec["mean"]),
                _triple(spec["std"]),
            )
        )
    note = "Mean and standard deviation per channel (RGB), on the scale 0–1."
    return Table("Preprocessing, the same in training and prediction", columns, tuple(rows), note)


def _step(step: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key} {_plain(value)}" for key, value in step.items() if key != "kind")
    return f"{step['kind']} ({options})" if options else str(step["kind"])


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _triple(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else ", ".join(f"{v:g}" for v in values)


def architectures(comparison: Comparison) -> Table:
    """Backbone, weights and head of each recipe."""
    columns = (
        Column("Recipe", narrow=True),
        Column("In one line"),
        Column("Backbone", code=True, narrow=True),
        Column("Weights"),
        Column("Head"),
        Column("Parameters", numeric=True),
        Column("Layers in the diagram", numeric=True),
    )
    rows = tuple(
        (
            comparison.name(entry),
            entry["title"].partition("; on ")[0],
            entry["settings"]["model"]["backbone"],
            _weights(entry["settings"]["model"]["weights"]),
            head_of(entry["settings"]["model"]),
            big((entry.get("complexity") or {}).get("parameters")),
            count(len(entry["layers"])) if entry.get("layers") else DASH,
        )
        for entry in _known(comparison)
    )
    return Table("Architectures", columns, rows)


def _weights(name: str) -> str:
    return {"none": "random", "imagenet": "ImageNet"}.get(name, f"of {name}")


def head_of(model: Mapping[str, Any]) -> str:
    """The layers after the backbone, in order."""
    parts = [f"{width} convolutions 3×3" for width in model["conv"]]
    parts += [f"squeeze-excite /{model['squeeze_excite']}"] if model["squeeze_excite"] else []
    parts += ["flatten"] if model["pooling"] == "flatten" else []
    parts += [f"{model['input_norm']} norm"] if model["input_norm"] != "none" else []
    if model["hidden"]:
        kind = "residual " if model["residual"] else ""
        norm = f", {model['norm']} norm" if model["norm"] != "none" else ""
        widths = "-".join(map(str, model["hidden"]))
        parts.append(f"{kind}{widths} {model['activation']}{norm}")
    rates = [f"{rate:g}" for rate in (model["hidden_dropout"], model["dropout"]) if rate]
    parts += [f"dropout {' / '.join(rates)}"] if rates else []
    return ", ".join([*parts, "linear"])


def hyper_parameters(comparison: Comparison) -> Table:
    """How each recipe is trained."""
    columns = (
        Column("Recipe", narrow=True),
        Column("Fitted by"),
        Column("Rate", numeric=True),
        Column("Schedule"),
        Column("Loss"),
        Column("Batch", numeric=True),
        Column("Epochs, patience", numeric=True),
        Column("Best epoch by"),
        Column("Augmentation"),
        Column("Also"),
    )
    rows = tuple((comparison.name(e), *_fitting(e["settings"])) for e in _known(comparison))
    return Table("Hyper-parameters as run", columns, rows)


def _fitting(settings: Mapping[str, Any]) -> tuple[str, ...]:
    training = settings["training"]
    if training["method"] != "gradient":
        return (_other_method(training), *[DASH] * 7, also_of(settings))
    decay = f", decay {training['weight_decay']:g}" if training["weight_decay"] else ""
    momentum = f", momentum {training['momentum']:g}" if training["optimizer"] == "sgd" else ""
    loss = {key: value for key, value in training["loss"].items() if value != 0}
    weights = ", class weights" if training["class_weights"] else ""
    return (
        f"{training['optimizer']}{decay}{momentum}{_frozen(training)}",
        f"{training['learning_rate']:g}",
        _options(training["schedule"]),
        _options(loss) + weights,
        str(training["batch_size"]),
        f"{training['epochs']}, {training['patience']}",
        training["keep_best"].replace("val_", "validation "),
        augmentation_of(settings["augmentation"]),
        also_of(settings),
    )


def _other_method(training: Mapping[str, Any]) -> str:
    """What is fitted where no gradient descends, with its options."""
    if training["method"] == "linear-head":
        grid = ", ".join(f"{c:g}" for c in training["c_grid"])
        return f"L-BFGS on frozen features: log loss + L2, C of {grid}"
    options = []
    for key, value in training.items():
        if isinstance(value, Mapping):
            options.append(_options(value))
        elif key != "method" and not isinstance(value, bool):
            options.append(f"{key} {_plain(value)}")
    return f"{training['method'].replace('-', ' ')}: {', '.join(options)}"


def _frozen(training: Mapping[str, Any]) -> str:
    frozen = training["freeze"]
    if frozen == 0:
        return ""
    return ", backbone frozen" if frozen == "all" else f", first {frozen} blocks frozen"


def _options(record: Mapping[str, Any]) -> str:
    values = [f"{key} {_plain(v)}" for key, v in record.items() if key not in ("kind", "floor")]
    kind = "constant" if record["kind"] == "none" else record["kind"]
    return f"{kind} ({', '.join(values)})" if values and kind != "constant" else kind


def also_of(settings: Mapping[str, Any]) -> str:
    """Every further setting of model and training that is not its default."""
    found = []
    for section, schema, shown in (
        ("training", GradientTraining, _SHOWN_TRAINING),
        ("model", ModelConfig, _SHOWN_MODEL),
    ):
        for key, value in settings[section].items():
            field = schema.model_fields.get(key)
            if field is not None and key not in shown and value != field.default:
                found.append(f"{key.replace('_', ' ')} {_plain(value)}")
    return ", ".join(found) or DASH


def augmentation_of(record: Mapping[str, Any]) -> str:
    """What changes training images, as short text."""
    found = []
    for key, value in record.items():
        title = key.replace("_deg", "").replace("_", " ")
        if value is True:
            found.append(title)
        elif key == "crop_min_area":
            found += [f"crops of {value:g}–1 of the area"] if value != 1 else []
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and value:
            found.append(f"{title} {value:g}{'°' if key.endswith('_deg') else ''}")
    return ", ".join(found) or "none"


def deviations(comparison: Comparison) -> Table | None:
    """How recipes differ from their published form."""
    rows = tuple(
        (comparison.name(entry), entry["recipe"], entry["run"], "; ".join(entry["marks"]))
        for entry in comparison.entries
        if entry["marks"]
    )
    if not rows:
        return None
    columns = (
        Column("Recipe", narrow=True),
        Column("Name in files", code=True),
        Column("Run", code=True, narrow=True),
        Column("Not as published"),
    )
    return Table("Recipes that were not run as published", columns, rows)


def data_sets(comparison: Comparison) -> Table:
    """Classes of the data of each run."""
    columns = (
        Column("Data"),
        Column("Class"),
        Column("What it is"),
        Column("n images", numeric=True),
        Column("Share", numeric=True),
    )
    rows = []
    for run in _distinct(comparison.values["runs"], ("data", "images", "classes")):
        for name, n in run["classes"].items():
            meaning = CLASSES[name].description if name in CLASSES else DASH
            share = number(n / run["images"], "share")
            rows.append((run["data"], class_title(name), meaning, count(n), share))
    caption = "The data: usable images of each class"
    return Table(caption, columns, tuple(rows), _data_note(comparison), grouped=True)


def _distinct(runs: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[Mapping[str, Any]]:
    seen: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        seen.setdefault(repr([run[key] for key in keys]), run)
    return list(seen.values())


def _data_note(comparison: Comparison) -> str:
    parts = []
    for run in _distinct(comparison.values["runs"], ("data", "images", "classes")):
        patients = f"{count(run['patients'])} patients" if run["patients"] else "no patient ids"
        parts.append(
            f"{run['data']}: {count(run['images'])} usable images of {count(run['files'])} files, "
            f"{patients}, {count(run['groups'])} components of duplicated or overlapping images, "
            f"{count(run['clusters'])} acquisition clusters."
        )
    return " ".join(parts)


def splits(comparison: Comparison) -> Table:
    """Images in each part of each fold, the mean over the folds."""
    names = ("train", "val", "cal", "test", "purged")
    columns = (
        Column("Protocol"),
        Column("Run", code=True, narrow=True),
        Column("Folds", numeric=True),
        *(Column(name, numeric=True) for name in names),
        Column("Seed", numeric=True),
    )
    rows = tuple(
        (
            protocol_title(head["name"]),
            run["name"],
            count(len(parts)),
            *(count(sum(fold[name] for fold in parts) / len(parts)) for name in names),
            str(run["seed"]),
        )
        for head in comparison.protocols
        for run in comparison.values["runs"]
        if (parts := run["parts"].get(head["name"]))
    )
    note = (
        "val selects and stops, cal calibrates, test is used once; purged: kept out of training "
        "because the image overlaps a test image."
    )
    return Table("Images per part, mean of the folds", columns, rows, note, grouped=True)


def prior_work(comparison: Comparison) -> Table:
    """Published figures."""
    columns = (
        Column("Work"),
        Column("Data"),
        Column("Held out"),
        Column("Figure as published"),
        Column("Source"),
    )
    rows = tuple(tuple(entry) for entry in PRIOR_WORK)
    note = "As published, not measured here; splits and data differ, so no row can be ranked."
    return Table("Published figures to stand beside", columns, rows, note)


def formulas(comparison: Comparison) -> Table:
    """How each metric is computed."""
    columns = (Column("Metric"), Column("Formula", code=True), Column("Remark"))
    note = (
        "n images, K classes; TP, FP, FN, TN count images of class k against the rest; p are "
        "calibrated probabilities. What is undefined is left out, never set to 0."
    )
    return Table("How the metrics are computed", columns, FORMULAS, note)

"""Tables on how compared models were made, on what data, and on published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import BaseModel, JsonValue

from leukoscope.config.comparison import ComparedRecipe, RunFacts
from leukoscope.config.preprocess import Step
from leukoscope.config.recipe import Augmentation, GradientTraining, ModelConfig, Recipe
from leukoscope.config.training import (
    EnsembleTraining,
    FeatureClassifierTraining,
    LinearHeadTraining,
)
from leukoscope.core.labels import class_description, class_title
from leukoscope.core.protocols import protocol_title
from leukoscope.reporting.compare.result import ComparisonResult, big
from leukoscope.reporting.compare.tables import recipe_field
from leukoscope.reporting.content import Column, Table, words
from leukoscope.reporting.formats import DASH, count, number, plural
from leukoscope.reporting.record_tables import (
    Cell,
    Field,
    code,
    table_if_any,
    table_of,
    text,
    value,
)
from leukoscope.reporting.study.data import part_sizes

FORMULAS: tuple[tuple[str, str, str], ...] = (
    ("Accuracy", "Σ_k TP_k / n", "share of {row}s whose most probable class is the true one"),
    ("Precision of class k", "TP_k / (TP_k + FP_k)", "undefined where nothing is called k"),
    ("Recall (sensitivity) of class k", "TP_k / (TP_k + FN_k)", "undefined where no {row} is k"),
    ("Specificity of class k", "TN_k / (TN_k + FP_k)", ""),
    ("F1 of class k", "2 TP_k / (2 TP_k + FP_k + FN_k)", ""),
    ("Balanced accuracy", "(1/K) Σ_k recall_k", "mean over the K classes"),
    ("Macro F1", "(1/K) Σ_k F1_k", "every class counts the same"),
    ("Weighted F1", "Σ_k (n_k / n) F1_k", "every {row} counts the same"),
    (
        "ROC AUC of class k",
        "P(p_k of a k {row} > p_k of another) + ½ P(equal)",
        "averaged over classes, one against the rest; with two classes the positive one’s",
    ),
    ("PR AUC of class k", "Σ_t (R_t − R_(t−1)) P_t", "average precision, averaged likewise"),
    ("Log loss", "−(1/n) Σ_i ln p_i(true class)", ""),
    ("Brier score", "(1/n) Σ_i Σ_k (p_ik − y_ik)²", "halved for two classes (Brier 1950)"),
    (
        "ECE",
        "Σ_b (n_b / n) · |accuracy_b − confidence_b|",
        "15 equal bins of the largest probability (Guo et al. 2017)",
    ),
)
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
_FITTING = (
    (text, "Fitted by"), (value, "Rate"), (text, "Schedule"), (text, "Loss"), (value, "Batch"),
    (value, "Epochs, patience"), (text, "Best epoch by"), (text, "Augmentation"),
)  # fmt: skip


class Published(NamedTuple):
    """One published result.

    Attributes:
        work: Who and what.
        data: Which data.
        held_out: What was held out, as far as it is stated.
        figure: As published.
        source: Where.
    """

    work: str
    data: str
    held_out: str
    figure: str
    source: str


PRIOR_WORK: tuple[Published, ...] = (
    Published(
        "DenseNet-201 (Ghaderzadeh et al. 2022)",
        "4-class ALL",
        "not stated whether by patient",
        "accuracy 99.85 %",
        "doi 10.1002/int.22753",
    ),
    Published(
        "EfficientNetV2-S, transfer (study S0)",
        "4-class ALL",
        "images at random, 652 of 3,256",
        "accuracy 98.93 % (its own log: 98.62 %)",
        "Leukemia-Diagnosis-EfficientNetV2-vs-CNNs",
    ),
    Published(
        "Small CNN (study S0)",
        "4-class ALL",
        "images at random, 652 of 3,256",
        "accuracy 89.42 %",
        "Leukemia-Diagnosis-EfficientNetV2-vs-CNNs",
    ),
    Published(
        "DenseNet-121 with CLAHE (study S1)",
        "4-class ALL",
        "images at random, 10 %, also used to stop early",
        "accuracy 90–95 %",
        "study S1",
    ),
    Published(
        "Double transfer, phase 2 / evaluation (study S2)",
        "4-class ALL",
        "images; originals pooled with their segmented twins",
        "EfficientNet-B3 95.98 / 90.23 %, ResNet-50 83.76 / 95.50 %, Inception-v3 44.1 / 86.25 %",
        "study S2",
    ),
    Published(
        "Frozen features with a residual head, refined end to end (study S3)",
        "ALL images of Aria et al. 2021",
        "images, augmented before the split",
        "frozen AlexNet 82 %, VGG-16 72 %, ResNet-18 87 %; refined 94–97 %; baseline CNN 83.6 %",
        "study S3",
    ),
    Published(
        "“Stable” EfficientNet-B3 (study S4)",
        "C-NMC 2019",
        "images, 3 stratified folds",
        "F1 .955 / .948 / .953",
        "study S4",
    ),
    Published(
        "Pan et al., first place (transductive)",
        "C-NMC 2019",
        "unseen subjects, preliminary phase",
        "weighted F1 .925",
        "ISBI 2019 challenge",
    ),
    Published(
        "Prellberg & Kramer",
        "C-NMC 2019",
        "unseen subjects, preliminary phase",
        "weighted F1 .879",
        "ISBI 2019 challenge",
    ),
    Published(
        "Marzahl et al.",
        "C-NMC 2019",
        "unseen subjects, preliminary phase",
        "weighted F1 .875",
        "ISBI 2019 challenge",
    ),
    Published(
        "EfficientNet-B1",
        "C-NMC 2019",
        "subjects disjoint",
        "ROC AUC .913, ECE .024; random splits inflate the AUC by about .04",
        "arXiv 2606.24944",
    ),
    Published(
        "CytoDiffusion (2025)",
        "blood cells of several sets",
        "other domains",
        "accuracy .854 under domain shift, anomaly AUC .990, 1.8 s an image",
        "Nature Machine Intelligence 2025",
    ),
)


def _known(comparison: ComparisonResult) -> list[tuple[ComparedRecipe, Recipe]]:
    """Recipes whose settings are known, with these."""
    return [(entry, entry.made) for entry in comparison.entries if entry.made is not None]


def _name(comparison: ComparisonResult) -> Field:
    return text("Recipe", lambda row: comparison.name(row[0]), narrow=True)


def preprocessing(comparison: ComparisonResult) -> Table:
    """Steps, size and normalisation of each recipe."""
    rows = [(entry, recipe.preprocess) for entry, recipe in _known(comparison)]
    return table_of(
        "Preprocessing, the same in training and prediction", rows,
        _name(comparison),
        text("Steps before resizing", lambda row: ", ".join(map(_step, row[1].steps)) or "none"),
        value("Input", lambda row: f"{row[1].size_px} px"),
        text("Resize", lambda row: row[1].resize),
        text("Mean", lambda row: _triple(row[1].mean)),
        text("Standard deviation", lambda row: _triple(row[1].std)),
        note="Mean and standard deviation per channel (RGB), on the scale 0–1.",
    )  # fmt: skip


def _step(step: Step) -> str:
    values = step.model_dump(mode="json")
    options = ", ".join(f"{key} {_plain(found)}" for key, found in values.items() if key != "kind")
    return f"{step.kind} ({options})" if options else step.kind


def _plain(found: object) -> str:
    if isinstance(found, list):
        return "/".join(map(_plain, found))
    return f"{found:g}" if isinstance(found, float) else str(found)


def _triple(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else ", ".join(f"{v:g}" for v in values)


def architectures(comparison: ComparisonResult) -> Table:
    """Backbone, weights and head of each recipe."""
    return table_of(
        "Architectures", _known(comparison),
        _name(comparison),
        text("In one line", lambda row: row[0].title.partition("; on ")[0]),
        code("Backbone", lambda row: row[1].model.backbone),
        text("Weights", lambda row: _weights(row[1].model.weights)),
        text("Head", lambda row: head_of(row[1].model)),
        value("Parameters",
              lambda row: big(row[0].complexity and row[0].complexity.parameters)),
        value("Layers in the diagram",
              lambda row: count(len(row[0].layers)) if row[0].layers else DASH),
    )  # fmt: skip


def _weights(name: str) -> str:
    return {"none": "random", "imagenet": "ImageNet"}.get(name, f"of {name}")


def head_of(model: ModelConfig) -> str:
    """The layers after the backbone, in order."""
    parts = [f"{width} convolutions 3×3" for width in model.conv]
    parts += [f"squeeze-excite /{model.squeeze_excite}"] if model.squeeze_excite else []
    parts += ["flatten"] if model.pooling == "flatten" else []
    parts += [f"{model.input_norm} norm"] if model.input_norm != "none" else []
    if model.hidden:
        kind = "residual " if model.residual else ""
        norm = f", {model.norm} norm" if model.norm != "none" else ""
        widths = "-".join(map(str, model.hidden))
        parts.append(f"{kind}{widths} {model.activation}{norm}")
    rates = [f"{rate:g}" for rate in (model.hidden_dropout, model.dropout) if rate]
    parts += [f"dropout {' / '.join(rates)}"] if rates else []
    return ", ".join([*parts, "linear"])


def hyper_parameters(comparison: ComparisonResult) -> Table:
    """How each recipe is trained."""

    def fitting(title: str) -> Cell:
        return lambda row: _fitting(row[1]).get(title, DASH)

    return table_of(
        "Hyper-parameters as run", _known(comparison),
        _name(comparison),
        *(kind(title, fitting(title)) for kind, title in _FITTING),
        text("Also", lambda row: also_of(row[1])),
    )  # fmt: skip


def _fitting(recipe: Recipe) -> dict[str, str]:
    training = recipe.training
    if not isinstance(training, GradientTraining):
        return {"Fitted by": fitted_by(training)}
    decay = f", decay {training.weight_decay:g}" if training.weight_decay else ""
    momentum = f", momentum {training.momentum:g}" if training.optimizer == "sgd" else ""
    loss = {key: rate for key, rate in _values(training.loss).items() if rate != 0}
    weights = ", class weights" if training.class_weights else ""
    return {
        "Fitted by": f"{training.optimizer}{decay}{momentum}{_frozen(training)}",
        "Rate": f"{training.learning_rate:g}",
        "Schedule": _options(_values(training.schedule)),
        "Loss": _options(loss) + weights,
        "Batch": str(training.batch_size),
        "Epochs, patience": f"{training.epochs}, {training.patience}",
        "Best epoch by": training.keep_best.replace("val_", "validation "),
        "Augmentation": augmentation_of(recipe.augmentation),
    }


def _values(settings: BaseModel) -> dict[str, JsonValue]:
    """Settings as a file holds them."""
    return settings.model_dump(mode="json")


_COUNTED = {
    "units": "all units count the same",
    "classes": "all classes count the same",
    "worst-units": "the worst units count more",
}


def fitted_by(
    training: LinearHeadTraining | FeatureClassifierTraining | EnsembleTraining,
) -> str:
    """What is fitted where no gradient descends, with its options."""
    if isinstance(training, LinearHeadTraining):
        grid = ", ".join(f"{c:g}" for c in training.c_grid)
        more = [_COUNTED[training.balance]] if training.balance != "images" else []
        more += [f"unit penalty {training.unit_penalty:g}"] if training.unit_penalty else []
        more += [f"erased: {', '.join(training.erase)}"] if training.erase else []
        more += [f"copies {', '.join(training.degraded)}"] if training.degraded else []
        more += [f"copy penalty {training.copy_penalty:g}"] if training.copy_penalty else []
        return "; ".join([f"L-BFGS on frozen features: log loss + L2, C of {grid}", *more])
    options = []
    for key, found in _values(training).items():
        if isinstance(found, dict):
            options.append(_options(found))
        elif key != "method" and not isinstance(found, bool):
            options.append(f"{key} {_plain(found)}")
    return f"{training.method.replace('-', ' ')}: {', '.join(options)}"


def _frozen(training: GradientTraining) -> str:
    if training.freeze == 0:
        return ""
    if training.freeze == "all":
        return ", backbone frozen"
    return f", first {training.freeze} blocks frozen"


def _options(record: Mapping[str, JsonValue]) -> str:
    values = [f"{key} {_plain(v)}" for key, v in record.items() if key not in ("kind", "floor")]
    kind = "constant" if record["kind"] == "none" else str(record["kind"])
    return f"{kind} ({', '.join(values)})" if values and kind != "constant" else kind


def also_of(recipe: Recipe) -> str:
    """Every further setting of model and training that is not its default."""
    found = []
    for settings, schema, shown in (
        (_values(recipe.training), GradientTraining, _SHOWN_TRAINING),
        (_values(recipe.model), ModelConfig, _SHOWN_MODEL),
    ):
        for key, setting in settings.items():
            field = schema.model_fields.get(key)
            if field is None or key in shown:
                continue
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            if setting != default:
                found.append(f"{key.replace('_', ' ')} {_plain(setting)}")
    return ", ".join(found) or DASH


def augmentation_of(augmentation: Augmentation) -> str:
    """What changes training images, as short text."""
    found = []
    for key, setting in _values(augmentation).items():
        title = key.replace("_deg", "").replace("_", " ")
        if setting is True:
            found.append(title)
        elif not isinstance(setting, (int, float)) or isinstance(setting, bool):
            continue
        elif key == "crop_min_area":
            found += [f"crops of {setting:g}–1 of the area"] if setting != 1 else []
        elif setting:
            found.append(f"{title} {setting:g}{'°' if key.endswith('_deg') else ''}")
    return ", ".join(found) or "none"


def deviations(comparison: ComparisonResult) -> Table | None:
    """How recipes differ from their published form."""
    return table_if_any(
        "Recipes that were not run as published",
        [entry for entry in comparison.entries if entry.marks],
        recipe_field(comparison),
        code("Name in files", "recipe", narrow=False),
        code("Run", "run"),
        text("Not as published", lambda e: "; ".join(e.marks)),
    )


def data_sets(comparison: ComparisonResult) -> Table:
    """Classes of the data of each run."""
    return table_of(
        "The data: usable images of each class",
        [
            (run, name, n)
            for run in _distinct(comparison.file.runs)
            for name, n in run.classes.items()
        ],
        text("Data", lambda row: row[0].data),
        text("Class", lambda row: class_title(row[1])),
        text("What it is", lambda row: class_description(row[1]) or DASH),
        value("n images", lambda row: count(row[2])),
        value("Share", lambda row: number(row[2] / row[0].images, "share")),
        note=_data_note(comparison), grouped=True,
    )  # fmt: skip


def _distinct(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """The first run on each data set."""
    seen: dict[tuple[str, int, tuple[tuple[str, int], ...]], RunFacts] = {}
    for run in runs:
        seen.setdefault((run.data, run.images, tuple(run.classes.items())), run)
    return list(seen.values())


def _data_note(comparison: ComparisonResult) -> str:
    parts = []
    for run in _distinct(comparison.file.runs):
        patients = plural(run.patients, "patient") if run.patients else "no patient ids"
        parts.append(
            f"{run.data}: {plural(run.images, 'usable image')} of {plural(run.files, 'file')}, "
            f"{patients}, {plural(run.groups, 'component')} of duplicated or overlapping images, "
            f"{plural(run.clusters, 'acquisition cluster')}."
        )
    return " ".join(parts)


def splits(comparison: ComparisonResult) -> Table:
    """Images, or patients, in each part of each fold, the mean over the folds."""
    row = comparison.row
    return table_of(
        f"{row.capitalize()}s per part, mean of the folds",
        [
            (head.name, run, parts)
            for head in comparison.protocols
            for run in comparison.file.runs
            if (parts := run.parts.get(head.name))
        ],
        text("Protocol", lambda row: protocol_title(row[0])),
        code("Run", lambda row: row[1].name),
        value("Folds", lambda row: count(len(row[2]))),
        *part_sizes(lambda row: row[2]),
        value("Seed", lambda row: str(row[1].seed)),
        note="val selects and stops, cal calibrates a single hold-out (several folds calibrate "
        "each other), test is used once; purged: kept out of "
        f"training because the {row} overlaps a test {row}.",
        grouped=True,
    )  # fmt: skip


def prior_work(comparison: ComparisonResult) -> Table:
    """Published figures."""
    columns = words("Work", "Data", "Held out", "Figure as published", "Source")
    note = "As published, not measured here; splits and data differ, so no row can be ranked."
    return Table("Published figures to stand beside", columns, PRIOR_WORK, note)


def formulas(comparison: ComparisonResult) -> Table:
    """How each metric is computed."""
    row = comparison.row
    columns = (Column("Metric"), Column("Formula", code=True), Column("Remark"))
    rows = tuple(tuple(cell.replace("{row}", row) for cell in cells) for cells in FORMULAS)
    note = (
        f"n {row}s, K classes; TP, FP, FN, TN count {row}s of class k against the rest; p are "
        "calibrated probabilities. What is undefined is left out, never set to 0."
    )
    return Table("How the metrics are computed", columns, rows, note)

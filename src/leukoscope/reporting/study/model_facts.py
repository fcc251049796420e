"""Facts about the models: what they are, how they were trained, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from leukoscope.config.recipe import (
    EnsembleTraining,
    FeatureClassifierTraining,
    GradientTraining,
    LinearHeadTraining,
    Recipe,
)
from leukoscope.core.files import read_json
from leukoscope.core.labels import class_title
from leukoscope.reporting.formats import plural
from leukoscope.reporting.record_tables import Entry
from leukoscope.reporting.study import data
from leukoscope.reporting.study.facts import Answer, answer, listed, shown
from leukoscope.reporting.study_files import Study

_CRITERIA = {
    "val_loss": "log loss on `val`",
    "val_accuracy": "accuracy on `val`",
    "val_f1": "weighted F1 on `val`",
}


def model_kind(study: Study) -> Answer | None:
    """The technology in one line."""
    return answer(
        [
            f"Image classification into {plural(len(study.class_names), 'class', 'classes')} ("
            + ", ".join(class_title(name) for name in study.class_names)
            + ").",
            *(f"`{r.name}`: {_kind(r)}." for r in study.config.recipes),
        ],
        "config.toml",
    )


def _kind(recipe: Recipe) -> str:
    if isinstance(recipe.training, EnsembleTraining):
        return "several models combined"
    network = f"the neural network `{recipe.model.backbone}`"
    if isinstance(recipe.training, GradientTraining):
        return f"deep learning, {network}"
    if isinstance(recipe.training, FeatureClassifierTraining):
        return f"{recipe.training.classifier.kind} on features of {network}"
    return f"logistic regression on features of {network}"


def architecture(study: Study) -> Answer | None:
    """Backbone and head of each recipe."""
    return _settings(study, "model.", "preprocess.size_px")


def preprocessing(study: Study) -> Answer | None:
    """What is done to an image before the network sees it."""
    return _settings(study, "preprocess.")


def augmentation(study: Study) -> Answer | None:
    """Random changes of training images."""
    return _settings(study, "augmentation.")


def initialisation(study: Study) -> Answer | None:
    """Where the weights start."""
    found = _settings(study, "model.weights", "model.init")
    return found and replace(found, text=f"Seed {study.config.seed}, see the table:")


def _settings(study: Study, *keys: str) -> Answer | None:
    """Configured values whose keys begin so; none of an ensemble, which has no network."""
    if any(isinstance(recipe.training, EnsembleTraining) for recipe in study.config.recipes):
        return None
    table = data.settings(study)
    rows = tuple(row for row in table.rows if row[0].startswith(keys))
    caption = f"Settings of each recipe: {listed(f'`{key}`' for key in keys)}"
    return shown([replace(table, caption=caption, rows=rows)], "config.toml")


def training(study: Study) -> Answer | None:
    """How each recipe is trained, with every setting."""
    found = _settings(study, "training.", "refine.", "inner_folds")
    first = data.recipes(study)
    return shown([first, *(found.tables if found else ())], "config.toml")


def selection(study: Study) -> Answer | None:
    """What chose the epoch or the settings."""
    sentences = []
    for recipe in study.config.recipes:
        t = recipe.training
        if isinstance(t, GradientTraining):
            text = f"the epoch with the best {_CRITERIA[t.keep_best]}"
        elif isinstance(t, LinearHeadTraining):
            text = "the penalty with the best log loss on `val`"
        elif isinstance(t, FeatureClassifierTraining):
            text = "the settings with the best log loss on `val`"
        else:
            continue
        sentences.append(f"`{recipe.name}`: {text}.")
    last = f"The first recipe, `{study.recipes[0]}`, is the one whose verdict is given."
    return answer([*sentences, last] if sentences else [], "config.toml")


def ensembling(study: Study) -> Answer | None:
    """Whether several models or views are averaged."""
    sentences = []
    for recipe in study.config.recipes:
        t, views = recipe.training, recipe.model.views
        if isinstance(t, EnsembleTraining):
            text = f"{t.rule} of {listed(t.members)}"
        elif recipe.inner_folds:
            text = f"mean of {recipe.inner_folds} models trained on inner folds"
        else:
            text = "one model a fold, no ensemble"
        if views > 1:
            text += f"; each prediction is the mean over {views} views ({recipe.model.test_time})"
        sentences.append(f"`{recipe.name}`: {text}.")
    return answer(sentences, "config.toml")


def imbalance(study: Study) -> Answer | None:
    """What was done about unequal classes."""
    sentences = []
    for recipe in study.config.recipes:
        t = recipe.training
        used = []
        if isinstance(t, GradientTraining):
            used += ["class weights in the loss"] if t.class_weights else []
            used += [f"sampling `{t.sampling}`"] if t.sampling != "shuffle" else []
        elif isinstance(t, LinearHeadTraining) and t.balance == "classes":
            used += ["class weights in the loss"]
        text = " and ".join(used) or "no method against class imbalance"
        sentences.append(f"`{recipe.name}`: {text}.")
    return answer(sentences, "config.toml")


def output(study: Study) -> Answer | None:
    """What the model gives, and how a class is chosen."""
    return answer(
        [
            "A recalibrated probability for each class; the most probable class is the prediction.",
            f"Prediction sets aim at a coverage of {100 * study.config.coverage:g} %, their "
            f"threshold fitted on the {study.row}s that the other folds tested (in a hold-out on "
            "`cal`).",
        ],
        "predictions.csv",
        "metrics.json",
    )


def software(study: Study) -> Answer | None:
    """Versions, commit and hardware, as recorded when the study ran, and the command."""
    found = shown([data.environment(study)], "environment.json")
    command = study.environment.command if study.environment else ""
    return (
        replace(found, text=f"Made with `{command}`, see the table:")
        if found and command
        else found
    )


def configuration(study: Study) -> Answer | None:
    """Everything that is needed to run it again."""
    text = (
        f"Every option, defaults included, and the seed ({study.config.seed}); the division of "
        f"the {study.row}s with their SHA-256; every predicted probability."
    )
    return answer([text], "config.toml", "splits.csv", "predictions.csv")


def weights(study: Study) -> Answer | None:
    """The model itself, where it was packed."""
    record = _bundle(study)
    if not record:
        return None
    return answer(
        [
            f"The fitted model of `{record.get('recipe')}` is packed to predict with "
            f"({record.get('trained_on')}); licence of the weights: {record.get('licence')}."
        ],
        "bundle/",
    )


def poor_input(study: Study) -> Answer | None:
    """What the packed model does with images it should not judge."""
    record = _bundle(study)
    if not record:
        return None
    ood = record.get("ood")
    return answer(
        [
            "A file that cannot be read is named and gets no prediction.",
            "Image statistics outside the range of the training images are noted with the "
            "prediction."
            if record.get("quality")
            else "",
            f"An image stranger than {100 * ood['accept']:g} % of the "
            f"{'unseen test' if ood.get('n_unseen') else 'validation'} images is rejected."
            if ood
            else "",
        ],
        "bundle/bundle.json",
    )


def _bundle(study: Study) -> Mapping[str, Entry]:
    path = study.run.bundle / "bundle.json"
    record = read_json(path) if path.is_file() else {}
    return record if isinstance(record, dict) else {}

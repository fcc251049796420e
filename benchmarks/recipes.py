"""Writes docs/recipes.md from the recipe files: ``python benchmarks/recipes.py``."""

from __future__ import annotations

from pathlib import Path

from leukoscope.config.loading import list_recipes, load_recipe
from leukoscope.config.recipe import ModelConfig, Recipe
from leukoscope.config.training import (
    FeatureClassifierTraining,
    GradientTraining,
    LinearHeadTraining,
)

HEADINGS = (
    "recipe", "study", "backbone", "px", "head", "loss", "optimiser", "schedule", "epochs",
    "frozen", "also",
)  # fmt: skip
INTRODUCTION = """# Recipes

Made from the recipe files by `python benchmarks/recipes.py`; `leukoscope recipes show NAME` prints
one in full, and `--set KEY=VALUE` changes any value of it, e.g. `--set training.epochs=3`. The
studies S0–S4 are named in each recipe's `reference`. Their published values are the defaults; what
was not published is called ours. The tests train each recipe for one epoch on a small backbone of
its kind; the accuracies that the studies report were not reproduced here.
"""


def main() -> None:
    page = Path(__file__).parents[1] / "docs" / "recipes.md"
    page.write_text(render(), encoding="utf-8")


def render() -> str:
    recipes = [load_recipe(name) for name in list_recipes()]
    lines = [INTRODUCTION, f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    lines += [f"| {' | '.join(_row(recipe))} |" for recipe in recipes]
    lines += ["", "## What was corrected", ""]
    for recipe in recipes:
        lines += [f"### {recipe.name}", "", f"{recipe.title}. *{recipe.reference}.*", ""]
        lines += [recipe.notes.strip(), ""]
    return "\n".join(lines)


def _row(recipe: Recipe) -> tuple[str, ...]:
    model, training = recipe.model, recipe.training
    study = recipe.reference.partition(":")[0]
    backbone = model.backbone + (f", {model.stages} levels" if model.stages else "")
    if model.levels:
        backbone += f", levels {', '.join(map(str, model.levels))}"
    common = (f"`{recipe.name}`", study, backbone, str(recipe.preprocess.size_px))
    if isinstance(training, LinearHeadTraining):
        pooled = f"patients: {recipe.patient.kind}" if recipe.name.startswith("patient") else "—"
        also = f"copies: {', '.join(training.degraded)}" if training.degraded else pooled
        return (*common, "linear", "log loss + L2", "L-BFGS", "—", "—", "all", also)
    if isinstance(training, FeatureClassifierTraining):
        return (*common, training.classifier.kind, "—", "—", "—", "—", "all", "—")
    loss = training.loss.kind + (", class weights" if training.class_weights else "")
    rate = f"{training.optimizer} {training.learning_rate:g}, batch {training.batch_size}"
    first = recipe.first_phase().training
    if recipe.phase1 and isinstance(first, GradientTraining):
        rate += f"; phase 1: {first.learning_rate:g}, batch {first.batch_size}"
    epochs = str(training.epochs)
    if training.patience < training.epochs:
        epochs += f", patience {training.patience}"
    return (
        *common,
        _head(recipe),
        loss,
        rate,
        _schedule(training),
        epochs,
        "none" if training.freeze == 0 else str(training.freeze),
        _also(recipe, training),
    )


def _head(recipe: Recipe) -> str:
    model = recipe.model
    parts = [f"squeeze-excite {model.squeeze_excite}"] if model.squeeze_excite else []
    parts += [f"{model.input_norm} norm"] if model.input_norm != "none" else []
    if model.hidden:
        kind = "residual " if model.residual else ""
        parts.append(f"{kind}{'-'.join(map(str, model.hidden))} {model.activation}")
    rates = [f"{rate:g}" for rate in (model.hidden_dropout, model.dropout) if rate]
    parts += [f"dropout {' / '.join(rates)}"] if rates else []
    return ", ".join([*parts, "linear"])


def _also(recipe: Recipe, training: GradientTraining) -> str:
    """What the recipe switches on beyond the columns before, by the names of its settings."""
    plain_model, plain_training = ModelConfig(), GradientTraining()
    parts = []
    for name in ("init", "test_time", "clamp_input", "clamp_logits"):
        value = getattr(recipe.model, name)
        if value != getattr(plain_model, name):
            parts.append(f"{name} {value}")
    for name in ("sampling", "mixup", "cutmix", "stage_decay", "ema", "clip_norm", "not_finite"):
        value = getattr(training, name)
        if value != getattr(plain_training, name):
            parts.append(f"{name} {value}")
    return ", ".join(parts) or "—"


def _schedule(training: GradientTraining) -> str:
    values = training.schedule.model_dump()
    kind = values.pop("kind")
    shown = ", ".join(f"{key} {value}" for key, value in values.items() if key != "floor")
    return kind if kind == "none" else f"{kind} ({shown})"


if __name__ == "__main__":
    main()

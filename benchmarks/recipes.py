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

HEADINGS = ("recipe", "study", "backbone", "px", "head", "training", "also")
INTRODUCTION = """# Recipes

A recipe is a TOML file in `src/leukoscope/config/recipes/`, or one of your own: `-r mine.toml`.
`leukoscope recipes show NAME` prints one in full, and `--set KEY=VALUE` changes any value of it.
The published values of the studies [S0–S4](coming-from/README.md) are the defaults; what was not
published is called ours. The table is written by `python benchmarks/recipes.py`.
"""
NOTES = """## What was published, and what was corrected

`leukoscope recipes show NAME` says it at its `notes`; the site shows the notes of all recipes here.

<!-- notes of recipes -->
"""


def main() -> None:
    page = Path(__file__).parents[1] / "docs" / "recipes.md"
    page.write_text(render(), encoding="utf-8")


def render() -> str:
    recipes = [load_recipe(name) for name in list_recipes()]
    lines = [INTRODUCTION, f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    lines += [f"| {' | '.join(_row(recipe))} |" for recipe in recipes]
    return "\n".join([*lines, "", NOTES])


def _row(recipe: Recipe) -> tuple[str, ...]:
    model, training = recipe.model, recipe.training
    study = recipe.reference.partition(":")[0]
    backbone = model.backbone + (f", {model.stages} levels" if model.stages else "")
    if model.levels:
        backbone += f", levels {', '.join(map(str, model.levels))}"
    common = (f"`{recipe.name}`", study, backbone, str(recipe.preprocess.size_px))
    if isinstance(training, LinearHeadTraining):
        pooled = recipe.patient.kind if recipe.name.startswith("patient") else "—"
        also = f"copies: {', '.join(training.degraded)}" if training.degraded else pooled
        return (*common, "linear", "frozen; L2", also)
    if isinstance(training, FeatureClassifierTraining):
        return (*common, training.classifier.kind, "frozen", "—")
    parts = [training.loss.kind + (", class weights" if training.class_weights else "")]
    parts.append(f"{training.optimizer} {training.learning_rate:g}, batch {training.batch_size}")
    first = recipe.first_phase().training
    if recipe.phase1 and isinstance(first, GradientTraining):
        parts.append(f"phase 1: {first.learning_rate:g}, batch {first.batch_size}")
    if training.schedule.kind != "none":
        parts.append(training.schedule.kind)
    stop = f", patience {training.patience}" if training.patience < training.epochs else ""
    parts.append(f"{training.epochs} epochs{stop}")
    if training.freeze != 0:
        parts.append(f"{training.freeze} blocks frozen")
    return (*common, _head(recipe), "; ".join(parts), _also(recipe, training))


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


if __name__ == "__main__":
    main()

"""What a process does that takes part in the gradient trainings of another one's study."""

from __future__ import annotations

from pathlib import Path

from leukoscope.config.recipe import GradientTraining, Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.learning.backbones import build_network
from leukoscope.learning.distributed import measures_shares
from leukoscope.study.fits import open_fits
from leukoscope.study.fitting import RecipeFits
from leukoscope.study.jobs import SharedTraining


def take_part(order: SharedTraining) -> None:
    """Do this process's share of one training; it writes nothing.

    Raises:
        DataError: This machine does not see the run, or not the same cache.
        TrainingError: It broke down.
    """
    fits = open_fits(order.run, "recipe", order.recipe)
    assert isinstance(fits, RecipeFits)
    job = fits.gradient_job(Path(order.folder), order.seed)
    if (job.views is not None) != order.cached:
        raise DataError(
            f"{order.recipe}: only some machines train on cached activations",
            hint="train without training.cached_views, or on machines that are alike",
        )
    job.train(order.rows)


def team_notes(config: StudyConfig) -> list[str]:
    """What a reader must know of models that several processes trained together."""
    names = [recipe.name for recipe in config.recipes if _measures_shares(recipe)]
    if not names:
        return []
    return [
        f"{', '.join(names)}: several processes trained together on CPUs, and each batch norm "
        "measured one process's share of the batch; one process would have trained another model."
    ]


def _measures_shares(recipe: Recipe) -> bool:
    stages = [stage.training for stage in (recipe, recipe.refined()) if stage is not None]
    network = build_network(recipe.model, num_classes=2, size_px=recipe.preprocess.size_px)
    return any(
        isinstance(stage, GradientTraining) and measures_shares(network, stage) for stage in stages
    )

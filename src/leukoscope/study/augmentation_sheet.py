"""A sheet of random changes: each kind in its own row, then what a recipe makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import Augmentation, GradientTraining, Recipe
from leukoscope.reporting.sheet import draw_sheet

# What a kind is shown with where the recipe leaves it off: strong enough to be seen.
EXAMPLES: Mapping[str, float | bool] = {
    "rotation_deg": 30.0,
    "shift": 0.1,
    "shear_deg": 15.0,
    "zoom": 0.2,
    "crop_min_area": 0.6,
    "quarter_turns": True,
    "horizontal_flip": True,
    "vertical_flip": True,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
    "hue": 0.05,
    "stain": 0.05,
    "blur_px": 2.0,
    "invert": 0.5,
}
BLENDS: Mapping[str, float] = {"mixup": 0.4, "cutmix": 1.0}
MIXES = 3
Images = NDArray[np.uint8]


def draw_augmentations(
    path: Path, images: Images, titles: Sequence[str], recipe: Recipe, seed: int
) -> Path:
    """Draw what each kind of change does to some images, and batches of a recipe.

    Args:
        path: PNG file to write.
        images: (N, S, S, 3) uint8 RGB, preprocessed; one column each.
        titles: Above the columns.
        recipe: Its values are shown; a kind that it leaves off is shown with an example's.
        seed: Decides every change, as the seed of a training does.

    Returns:
        The path.
    """
    rows = [list(images)]
    captions = ["as read"]
    for caption, changed in (*_kinds(images, recipe, seed), *_mixes(images, recipe, seed)):
        captions.append(caption)
        rows.append(list(changed))
    titles = [title.replace(" (", "\n(") for title in titles]
    return draw_sheet(path, rows, captions, titles, side_in=1.2)


def _kinds(images: Images, recipe: Recipe, seed: int) -> Iterator[tuple[str, Images]]:
    """Each kind of change alone."""
    off, used = Augmentation(), _used(recipe)
    for number, (name, example) in enumerate(EXAMPLES.items()):
        own = getattr(used, name)
        is_on = own != getattr(off, name)
        alone = off.model_copy(update={name: own if is_on else example})
        caption = _caption(name, own if is_on else example, is_on=is_on)
        yield caption, _augmented(images, alone, seed, number)
    plain = GradientTraining()
    for number, (name, alpha) in enumerate(BLENDS.items()):
        own = getattr(recipe.training, name, 0.0)
        training = plain.model_copy(update={name: own or alpha})
        # Each column from a batch of its own: all images of a batch are blended in one share.
        columns = range(len(images))
        batches = [_blended(images, training, seed, 100 * number + column) for column in columns]
        blended = np.stack([batches[column][column] for column in columns])
        yield _caption(name, own or alpha, is_on=bool(own)), blended


def _mixes(images: Images, recipe: Recipe, seed: int) -> Iterator[tuple[str, Images]]:
    """Batches as the recipe trains on them."""
    if not isinstance(recipe.training, GradientTraining):
        yield f"{recipe.name} as trained:\nfrozen features,\nnothing changes", images
        return
    for number in range(MIXES):
        changed = _augmented(images, recipe.augmentation, seed, len(EXAMPLES) + number)
        yield (
            f"{recipe.name}\nas trained, {number + 1}",
            _blended(changed, recipe.training, seed, 100 * len(BLENDS) + number),
        )


def _used(recipe: Recipe) -> Augmentation:
    """What has an effect: a linear head is fitted on features of unchanged images."""
    return recipe.augmentation if isinstance(recipe.training, GradientTraining) else Augmentation()


def _augmented(images: Images, config: Augmentation, seed: int, number: int) -> Images:
    import torch

    from leukoscope.learning.augment import augment_batch, build_augmentation
    from leukoscope.learning.batches import batch_seed

    transform = build_augmentation(config)
    batch = torch.from_numpy(images)
    return np.asarray(augment_batch(batch, transform, batch_seed(seed, 0, number)).numpy())


def _blended(images: Images, training: GradientTraining, seed: int, number: int) -> Images:
    import torch

    from leukoscope.learning.blending import build_blend

    blend = build_blend(training, (seed, 0, number, 1))
    if blend is None:
        return images
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    mixed = blend.images(batch).round().byte().permute(0, 2, 3, 1)
    return np.asarray(mixed.numpy())


def _caption(name: str, value: float | bool, *, is_on: bool) -> str:
    shown = name if value is True else f"{name} = {value:g}"
    return shown if is_on else f"{shown}\n(off in this recipe)"

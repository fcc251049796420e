"""A head on cached features of a frozen backbone, some augmented copies of each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import Recipe
from leukoscope.learning.augment import augment_batch, build_augmentation
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.batches import batch_seed
from leukoscope.learning.features import extract_features

BATCH = 32


class OneView(nn.Module):
    """(N, V, …) of V copies to (N, …): a random copy in training, else the first."""

    def forward(self, views: Tensor) -> Tensor:
        """Choose one copy of each image; draws from torch's global random state."""
        if not self.training or views.shape[1] == 1:
            return views[:, 0].float()
        chosen = torch.randint(views.shape[1], (len(views),), device=views.device)
        return views[torch.arange(len(views), device=views.device), chosen].float()


class HeadOnly(nn.Module):
    """What of a network is trained when its backbone is frozen: the same layers, not copies.

    Attributes:
        config: That of the network.
        backbone: Empty: there is nothing left to freeze.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.config = network.config
        self.backbone = nn.Identity()
        self.hidden, self.dropout, self.head = network.hidden, network.dropout, network.head

    def to_input(self, spec: PreprocessSpec) -> nn.Module:
        """Features need no normalisation, a copy has to be chosen."""
        return OneView()

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) pooled features to logits (N, K)."""
        return cast(Tensor, self.head(self.dropout(self.hidden(x))))

    def predict(self, x: Tensor) -> Tensor:
        """The same; a network may average views here."""
        return self.forward(x)


def pooled_views(
    recipe: Recipe,
    images: NDArray[np.uint8],
    views: int,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float16]:
    """What the head of a recipe reads, of each image and of augmented copies of it.

    Args:
        recipe: Gives backbone, weights, pooling, augmentation.
        images: (n, S, S, 3) uint8 RGB, preprocessed.
        views: V, copies of each image; the first is the image itself.
        seed: Of the augmentation.
        progress: Called with (done, total) images.

    Returns:
        (n, V, D) float16; half the memory, and finer than what augmentation changes.
    """
    plain = {"hidden": (), "input_norm": "none", "norm": "none", "residual": False,
             "hidden_dropout": 0.0, "test_time": "none"}  # fmt: skip
    stem = build_network(
        recipe.model.model_copy(update=plain), num_classes=2, size_px=recipe.preprocess.size_px
    )
    out = np.empty((len(images), views, stem.num_features), dtype=np.float16)
    total = views * len(images)
    for view in range(views):

        def tell(done: int, _: int, before: int = view * len(images)) -> None:
            if progress:
                progress(before + done, total)

        stream = (
            image for batch in augmented_copies(recipe, images, view, seed) for image in batch
        )
        out[:, view] = extract_features(
            stem, stream, recipe.preprocess, total=len(images), progress=tell
        )
    return out


def augmented_copies(
    recipe: Recipe, images: NDArray[np.uint8], view: int, seed: int
) -> Iterator[NDArray[np.uint8]]:
    """One copy of every image, in batches (≤ 32, S, S, 3) uint8; copy 0 is the image itself."""
    transform = build_augmentation(recipe.augmentation)
    for number, start in enumerate(range(0, len(images), BATCH)):
        batch = images[start : start + BATCH]
        if view:
            drawn = batch_seed(seed, view, number)
            batch = augment_batch(torch.from_numpy(batch), transform, drawn).numpy()
        yield batch

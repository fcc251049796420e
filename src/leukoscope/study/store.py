"""Features and pixels of every image, computed once per recipe and input and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import GradientTraining, Recipe
from leukoscope.core.files import atomic_path, sha256_json
from leukoscope.core.records import Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.features import extract_features
from leukoscope.learning.frozen import pooled_views
from leukoscope.study.events import Progress
from leukoscope.study.inputs import load_input, stream
from leukoscope.study.jobs import Labelled


@dataclass
class InputStore:
    """What classifiers are fitted on.

    Attributes:
        run: The study's folder; features go below its cache.
        manifest: Where the images lie.
        data: The usable images, the order of every row.
        progress: Told as images pass.
    """

    run: RunFolder
    manifest: Manifest
    data: Labelled
    progress: Progress
    _networks: dict[str, Network] = field(default_factory=dict)

    def network(self, recipe: Recipe, seed: int) -> Network:
        """A fresh or shared network of the recipe; callers that train it must copy it first."""
        key = sha256_json([recipe.model.model_dump(), recipe.preprocess.size_px, seed])
        if key not in self._networks:
            self._networks[key] = build_network(
                recipe.model,
                num_classes=len(self.data.class_names),
                size_px=recipe.preprocess.size_px,
                seed=seed,
            )
        return self._networks[key]

    def features(self, recipe: Recipe, variant: str, seed: int) -> NDArray[np.float32]:
        """(n, D) float32 pooled features of the frozen backbone, from the cache or computed."""
        network = self.network(recipe, seed)

        def compute(tell: Callable[[int, int], None]) -> NDArray[Any]:
            images = self._stream(recipe, variant)
            total = len(self.data.records)
            return extract_features(
                network, images, recipe.preprocess, total=total, progress=tell
            )  # fmt: skip

        path = self.features_path(recipe, variant, seed)
        return self._cached(path, f"features of {variant}", compute)

    def features_path(self, recipe: Recipe, variant: str, seed: int) -> Path:
        """Where :meth:`features` keeps its array; the file need not be there."""
        network = self.network(recipe, seed)
        key = sha256_json(
            {
                "preprocess": recipe.preprocess.model_dump(mode="json"),
                "model": recipe.model.model_dump(mode="json"),
                "weights": network.weights_record.sha256,
                "variant": variant,
                "images": [record.sha256 for record in self.data.records],
            }
        )
        return self.run.cache / "features" / f"{variant}-{key[:16]}.npy"

    def pixels(self, recipe: Recipe, variant: str = "image") -> NDArray[np.uint8]:
        """(n, S, S, 3) uint8 preprocessed images, held in memory."""
        n, size = len(self.data.records), recipe.preprocess.size_px
        out = np.empty((n, size, size, 3), dtype=np.uint8)
        with self.progress.step(f"reading {variant}") as tell:
            for row, image in enumerate(self._stream(recipe, variant)):
                out[row] = image
                tell(row + 1, n)
        return out

    def views(
        self, recipe: Recipe, pixels: NDArray[np.uint8], seed: int
    ) -> NDArray[np.float16] | None:
        """(n, V, D) cached features of ``pixels`` for a frozen backbone, where it asks for them."""
        training = recipe.training
        if not isinstance(training, GradientTraining) or not training.cached_views:
            return None
        key = sha256_json(
            {
                "recipe": recipe.model_dump(
                    mode="json", include={"preprocess", "model", "augmentation"}
                ),
                "weights": self.network(recipe, seed).weights_record.sha256,
                "views": training.cached_views,
                "seed": seed,
                "images": [record.sha256 for record in self.data.records],
            }
        )
        path = self.run.cache / "features" / f"views-{key[:16]}.npy"

        def compute(tell: Callable[[int, int], None]) -> NDArray[Any]:
            return pooled_views(recipe, pixels, training.cached_views, seed=seed, progress=tell)

        return self._cached(path, f"features of {recipe.name}", compute)

    def paths(self) -> list[Path]:
        """Files of the usable images."""
        return [self.manifest.path_of(record) for record in self.data.records]

    def table(
        self, name: str, function: Callable[[Path], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """(n, d) float64 statistics of each image, from the cache or computed."""

        def compute(tell: Callable[[int, int], None]) -> NDArray[Any]:
            rows = []
            for row in stream(function, self.paths()):
                rows.append(row)
                tell(len(rows), len(self.data.records))
            return np.stack(rows)

        key = sha256_json([record.sha256 for record in self.data.records])
        return self._cached(self.run.cache / "features" / f"{name}-{key[:16]}.npy", name, compute)

    def _stream(self, recipe: Recipe, variant: str) -> Iterator[NDArray[np.uint8]]:
        return stream(partial(load_input, variant=variant, spec=recipe.preprocess), self.paths())

    def _cached(
        self,
        path: Path,
        step: str,
        compute: Callable[[Callable[[int, int], None]], NDArray[Any]],
    ) -> NDArray[Any]:  # fmt: skip
        if path.is_file():
            try:
                stored: NDArray[Any] = np.load(path, allow_pickle=False)
                return stored
            except (ValueError, OSError, EOFError):
                path.unlink()  # damaged: compute it again
        with self.progress.step(step) as tell:
            values = compute(tell)
        with atomic_path(path) as temporary:
            np.save(temporary, values, allow_pickle=False)
        return values

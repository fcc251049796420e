"""Do a bundle's heat maps, computed without torch, agree with captum's Grad-CAM of the network?

The network of a study's final fit is exported, and so is a copy of it with a head of two hidden
layers (batch norm, ReLU) fitted for a few steps on its own features; both are looked at on the
same images, for the class that the network predicts.

python benchmarks/heatmaps.py RUN DATA [--images 100]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from leukoscope.config.loading import load_study_config
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.records import Manifest
from leukoscope.core.run_folder import RunFolder
from leukoscope.learning.attribution import grad_cam
from leukoscope.learning.backbones import Network, ToInput, build_network
from leukoscope.learning.checkpoint import load_checkpoint
from leukoscope.learning.graphs.export import onnx_bytes
from leukoscope.pipeline.features.inputs import load_input
from leukoscope.pipeline.folds import FINAL
from leukoscope.runtime.engines import open_engine
from leukoscope.runtime.heatmap import class_activation

BATCH = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    run = RunFolder(options.run)
    recipe = load_study_config(run.config).recipes[0].name
    network, meta = load_checkpoint(run.model(recipe, FINAL, 0))
    spec = meta.recipe.preprocess
    manifest = Manifest.load(run.manifest, options.data)
    rows = np.linspace(0, len(manifest.usable) - 1, options.images).astype(int)
    paths = [manifest.path_of(manifest.usable[row]) for row in rows]
    images = np.stack([load_input(path, variant="image", spec=spec) for path in paths])
    print("| head | images | correlation: median | smallest | of all values |")
    print("|---|---|---|---|---|")
    heads = {"linear": network, "two hidden layers": with_hidden(network, spec, images)}
    for name, one in heads.items():
        cells = " | ".join(f"{value:.6f}" for value in agree(one, spec, images))
        print(f"| {name} | {len(images)} | {cells} |")


def with_hidden(network: Network, spec: PreprocessSpec, images: NDArray[np.uint8]) -> Network:
    """The same backbone with a head that learns what the linear one says."""
    config = network.config.model_copy(
        update={"hidden": (128, 32), "norm": "batch", "activation": "relu", "weights": "none"}
    )
    classes = network.head.out_features
    made = build_network(config, num_classes=classes, size_px=spec.size_px, seed=0)
    made.backbone.load_state_dict(network.backbone.state_dict())
    with torch.no_grad():
        parts = torch.from_numpy(images).split(BATCH)
        pooled = torch.cat([network.features(ToInput(spec)(part)) for part in parts])
        target = network.logits_of(pooled).argmax(1)
    made.hidden.train()
    parameters = [*made.hidden.parameters(), *made.head.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(made.head(made.hidden(pooled)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return made.eval()


def agree(
    network: Network, spec: PreprocessSpec, images: NDArray[np.uint8]
) -> tuple[float, float, float]:
    """Correlation of the maps of each image (median, smallest), and of all values together."""
    engine = open_engine(onnx_bytes(network, spec))
    ours, theirs = [], []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        found = engine.run(batch)
        chosen = found["logits"].argmax(1)
        pairs = zip(found["maps"], chosen, strict=True)
        ours += [class_activation(maps, int(best)) for maps, best in pairs]
        theirs += list(grad_cam(network, ToInput(spec)(torch.from_numpy(batch)), chosen.tolist()))
    each = [
        float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
        for one, other in zip(ours, theirs, strict=True)
        if one.std() > 0 and other.std() > 0
    ]
    assert len(each) == len(images), "a map is empty"
    whole = np.corrcoef(np.ravel(ours), np.ravel(theirs))[0, 1]
    return float(np.median(each)), min(each), float(whole)


if __name__ == "__main__":
    main()

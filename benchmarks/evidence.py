"""Ways to take the stain away, compared on phantoms.

How well a forest on colour statistics still names the session, and how well a linear head on
features still tells the class.

    python benchmarks/evidence.py stain --seed 12

Whether the verdict notices what is planted: ``adversaries.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.loading import load_recipe
from leukoscope.config.preprocess import Macenko, Reinhard
from leukoscope.imaging.background import colour_statistics
from leukoscope.imaging.stain import grey_density, macenko, reinhard
from leukoscope.learning.backbones import build_network
from leukoscope.learning.features import extract_features
from leukoscope.phantom.render import render_phantom
from leukoscope.phantom.spec import PhantomSpec


def stain_table(seed: int) -> Iterator[str]:
    """Session from colours, class from features, after each way to take the stain away."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    spec = PhantomSpec(images=240, sessions=12, size_px=112, seed=seed)
    fields = [render_phantom(spec, index) for index in range(spec.images)]
    label, patient, session = (
        np.array([getattr(field.case, name) for field in fields])
        for name in ("label", "patient", "session")
    )
    recipe = load_recipe("quick", ["preprocess.size_px=112"])
    network = build_network(recipe.model, num_classes=4, size_px=112, seed=0)
    forest = ExtraTreesClassifier(200, min_samples_leaf=2, random_state=0)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=500))
    yield "| images | session from colour statistics | class from features, patients held out |"
    yield "|---|---:|---:|"
    for name, change in WAYS.items():
        images = [change(field.image) for field in fields]
        colours = np.stack([colour_statistics(image) for image in images])
        features = extract_features(network, images, recipe.preprocess)
        found = cross_val_score(forest, colours, session, cv=4).mean()
        told = cross_val_score(
            linear, features, label, cv=StratifiedGroupKFold(4), groups=patient
        ).mean()
        yield f"| {name} | {found:.2f} | {told:.2f} |"


WAYS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "as they are": lambda image: image,
    "Macenko": lambda image: macenko(image, Macenko()),
    "Reinhard": lambda image: reinhard(image, Reinhard().mean, Reinhard().std),
    "Macenko, then Reinhard": lambda image: reinhard(
        macenko(image, Macenko()), Reinhard().mean, Reinhard().std
    ),
    "grey density (`stain-neutral`)": grey_density,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("stain").add_argument("--seed", type=int, default=12)
    print("\n".join(stain_table(parser.parse_args().seed)))


if __name__ == "__main__":
    main()

"""Images per second of one training step of `finetune`, and of what its cache is made with.

python benchmarks/steps.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from leukoscope.config.loading import load_recipe
from leukoscope.learning.activations import LowerPart, UpperPart, upper_part
from leukoscope.learning.backbones import ToInput, build_network
from leukoscope.learning.features import stream_outputs
from leukoscope.learning.graphs.export import open_session, part_bytes
from leukoscope.learning.optimisers import build_optimizer, fast_depthwise, freeze

BATCH, ROUNDS = 32, 5


def main() -> None:
    recipe = load_recipe("finetune")
    spec, training = recipe.preprocess, recipe.training
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (BATCH, spec.size_px, spec.size_px, 3), dtype=np.uint8)
    network = build_network(recipe.model, num_classes=4, size_px=spec.size_px)
    upper = upper_part(network, training.freeze)
    assert upper is not None
    lower = LowerPart(upper).eval()
    normalised = ToInput(spec)(torch.from_numpy(images))
    with torch.no_grad():
        cached = lower(normalised)
    whole = training.model_copy(
        update={"freeze": 0, "freeze_norm": False, "freeze_depthwise": False}
    )
    trained = training.model_copy(update={"freeze_depthwise": False})
    session = open_session(part_bytes(lower, spec, "activations", recipe.model.backbone))

    def forward(half: bool) -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            lower(normalised.contiguous(memory_format=torch.channels_last))

    work: dict[str, Callable[[], Any]] = {
        "step, every weight, float32": lambda: step(network, normalised, whole, half=False),
        "step, every weight, bfloat16": lambda: step(network, normalised, whole),
        "step above the cut, depthwise kernels trained": lambda: step(upper, cached, trained),
        "step above the cut, depthwise kernels frozen": lambda: step(upper, cached, training),
        "the same with their own backward pass (`finetune`)": lambda: step(
            upper, cached, training, fast=True
        ),
        "below the cut, torch, float32": lambda: forward(False),
        "below the cut, torch, bfloat16": lambda: forward(True),
        "below the cut, inference engine, float32": lambda: list(
            stream_outputs(session, ["activations"], images, spec)
        ),
    }
    fastest = dict.fromkeys(work, float("inf"))
    for _ in range(ROUNDS):  # in turns, so that a busy moment does not hit one of them alone
        for name, run in work.items():
            seconds = run()
            if not isinstance(seconds, float):
                start = time.perf_counter()
                run()
                seconds = time.perf_counter() - start
            fastest[name] = min(fastest[name], seconds)
    print(
        f"{recipe.model.backbone}, {spec.size_px} px, batches of {BATCH}, "
        f"{torch.get_num_threads()} of {os.cpu_count()} threads; the fastest of {ROUNDS} rounds in "
        "turns.\n\n| | images/s |\n|---|---|"
    )
    for name, seconds in fastest.items():
        print(f"| {name} | {BATCH / seconds:.0f} |")


def step(
    network: Any, x: torch.Tensor, training: Any, *, half: bool = True, fast: bool = False
) -> float:
    """Seconds of one step, the second of two."""
    module: torch.nn.Module = network.to(memory_format=torch.channels_last)
    still = freeze(network, training)
    module.train()
    for part in still:
        part.eval()
    optimizer = build_optimizer(network, training)
    seconds = 0.0
    with fast_depthwise(module) if fast and isinstance(network, UpperPart) else nullcontext():
        for _ in range(2):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = module(x)
            optimizer.zero_grad()
            logits.float().logsumexp(1).mean().backward()
            optimizer.step()
            seconds = time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    main()

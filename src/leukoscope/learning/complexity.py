"""What a network costs, and its layers as one image passes through them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leukoscope.config.recipe import Recipe
from leukoscope.learning.backbones import Network, build_network, evaluating, pass_black_image
from leukoscope.learning.graphs.export import onnx_bytes, open_session
from leukoscope.learning.heads import FullyConnected, SqueezeExcite
from leukoscope.learning.lean import without_triton

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

WARM_UP = 3
FEWEST_RUNS = 3
MOST_RUNS = 50
MOST_SECONDS = 4.0  # for one batch size
BATCHES = (1, 32)
Shape = tuple[int, ...]
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardswish)
_MERGED = ("norm", "activation", "dropout")


@dataclass(frozen=True)
class Latency:
    """Wall time of one call, measured."""

    batch: int  # images in the call
    median_ms: float  # median over the runs
    p95_ms: float  # 95th percentile
    runs: int  # number of timed runs, after the warm-up
    threads: int  # threads of ONNX Runtime inside one call


@dataclass(frozen=True)
class Complexity:
    """What a network costs.

    Attributes:
        parameters: Number of parameters, the head included.
        macs: Multiply-accumulate operations of one image, convolutions and matrix products.
        size_mb: Size of the ONNX file with float32 weights, 10⁶ bytes; None where none was written.
        latency: One entry a batch size; empty where none was measured.
    """

    parameters: int
    macs: int
    size_mb: float | None
    latency: tuple[Latency, ...]


def untrained_network(recipe: Recipe, num_classes: int) -> Network:
    """The network of a recipe with random weights: cost and shape do not depend on their values.

    Raises:
        UnknownNameError: No such backbone.
        ConfigError: The backbone cannot work at this size.
    """
    return build_network(
        recipe.model.model_copy(update={"weights": "none"}),
        num_classes=num_classes,
        size_px=recipe.preprocess.size_px,
    )


def measure_complexity(
    network: Network, recipe: Recipe, *, threads: int = 1, latency: bool = True
) -> Complexity:
    """Count and time a network.

    Args:
        recipe: Gives the preprocessing inside the exported graph.
        latency: Also export the network and time it; takes seconds to a minute.

    Raises:
        BundleError: The network cannot be written as ONNX.
    """
    parameters = sum(p.numel() for p in network.parameters())
    size_mb: float | None = None
    timed: tuple[Latency, ...] = ()
    if latency:
        model = onnx_bytes(network, recipe.preprocess)
        size_mb = len(model) / 1e6
        session = open_session(model, threads)
        side = recipe.preprocess.size_px
        timed = tuple(time_session(session, batch, side, threads=threads) for batch in BATCHES)
    return Complexity(parameters, count_macs(network), size_mb, timed)


def count_macs(network: Network) -> int:
    """Multiply-accumulate operations of one image: half of torch's count of operations."""
    image = torch.zeros(1, 3, network.size_px, network.size_px)
    with without_triton(), evaluating(network), torch.no_grad():
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            network(image)
    return int(counter.get_total_flops()) // 2


def time_session(
    session: InferenceSession, batch: int, side_px: int, *, threads: int = 1
) -> Latency:
    """Time calls of an exported network on random pixels."""
    pixels: NDArray[np.uint8] = np.random.default_rng(0).integers(
        0, 256, (batch, side_px, side_px, 3), dtype=np.uint8
    )

    def call() -> float:
        start = time.perf_counter()
        session.run(["logits"], {"image": pixels})
        return time.perf_counter() - start

    warm = call()  # one call of seconds is warm-up enough
    for _ in range(WARM_UP - 1 if warm < MOST_SECONDS / WARM_UP else 0):
        call()
    times: list[float] = []
    while len(times) < MOST_RUNS and (len(times) < FEWEST_RUNS or sum(times) < MOST_SECONDS):
        times.append(call())
    median, p95 = (1000 * float(value) for value in np.quantile(times, [0.5, 0.95]))
    return Latency(batch, median, p95, len(times), threads)


@dataclass(frozen=True)
class LayerBlock:
    """One block of a diagram.

    Attributes:
        name: Path of the module in the network; empty for a step that no module makes.
        kind: ``convolution``, ``pooling``, ``linear``, ``blocks`` (a stage of many layers),
            ``flatten``, ``norm`` or ``other``.
        label: In field terms, e.g. ``conv 3×3, stride 2 + batch norm + ReLU``.
        shape: Of its output for one image, without the batch.
    """

    name: str
    kind: str
    label: str
    shape: Shape
    parameters: int


@dataclass
class _Passage:
    """Records of hooks for one image: order of the modules, shapes in and out."""

    order: dict[nn.Module, int] = field(default_factory=dict)
    entering: dict[nn.Module, Shape] = field(default_factory=dict)
    leaving: dict[nn.Module, Shape] = field(default_factory=dict)

    def before(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        self.order.setdefault(module, len(self.order))
        if inputs and isinstance(inputs[0], Tensor):
            self.entering.setdefault(module, tuple(inputs[0].shape[1:]))

    def after(self, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            self.leaving[module] = tuple(output.shape[1:])

    def parts(self, module: nn.Module) -> list[nn.Module]:
        """Those parts of a module that the image passed, in order."""
        return sorted(
            (m for m in module.modules() if m in self.leaving), key=self.order.__getitem__
        )


def describe_layers(network: Network) -> list[LayerBlock]:
    """The blocks that one image passes through, in order, found by hooks during one pass.

    Containers whose parts follow one another are opened; a row of equal residual or dense blocks
    is one block. Norms, activations and dropout are named in the block before them.
    """
    passage = _pass_image(network)
    names = {module: name for name, module in network.named_modules()}
    modules = [m for m in _opened(network) if passage.parts(m)]
    modules.sort(key=lambda m: passage.order[passage.parts(m)[0]])
    blocks: list[LayerBlock] = []
    for module in modules:
        parts = passage.parts(module)
        kind, label = _describe(module)
        shape = passage.leaving.get(module, passage.leaving[parts[-1]])
        count = sum(p.numel() for p in module.parameters())
        entering = passage.entering.get(module, passage.entering.get(parts[0], ()))
        _append(blocks, LayerBlock(names[module], kind, label, shape, count), entering)
    return blocks


def _pass_image(network: Network) -> _Passage:
    passage = _Passage()
    hooks = []
    for module in network.modules():
        hooks.append(module.register_forward_pre_hook(passage.before))
        hooks.append(module.register_forward_hook(passage.after))
    pass_black_image(network, hooks)
    return passage


def _opened(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if _is_chain(child):
            yield from _opened(child)
        elif not (isinstance(child, nn.Sequential) and not len(child)):
            yield child


def _is_chain(module: nn.Module) -> bool:
    """Whether its children follow one another and are worth a block each."""
    if hasattr(module, "forward_features"):
        return True
    if not isinstance(module, nn.Sequential):
        return False
    kinds = {type(child) for child in module.children()}
    equal = len(kinds) == 1 and any(True for _ in module[0].children())
    if not equal:
        # A stage may begin with another kind of block: then it is one block too.
        composite = [child for child in module if len(list(child.children())) > 1]
        return len(composite) < len(module) or len(kinds) > 2
    inner = kinds.pop()
    return inner in (nn.Sequential, FullyConnected, SqueezeExcite) or "Stage" in inner.__name__


def _append(blocks: list[LayerBlock], block: LayerBlock, entering: Shape) -> None:
    """Add a block, or name it in the last one; mark where a map becomes a vector on the way."""
    last = blocks[-1] if blocks else None
    if not block.label or (block.kind == "other" and not block.parameters):
        return
    if last is not None and len(last.shape) == 3 and len(entering) == 1:
        channels = (last.shape[0], last.shape[-1])
        averaged = entering[0] in channels and last.shape[1:] != (1, 1)
        label = "global average" if averaged else "flatten"
        last = LayerBlock("", "pooling" if averaged else "flatten", label, entering, 0)
        blocks.append(last)
    if last is not None and block.kind in _MERGED and last.shape == block.shape:
        blocks[-1] = replace(
            last,
            label=f"{last.label} + {block.label}",
            parameters=last.parameters + block.parameters,
        )
    else:
        blocks.append(block)


def _describe(module: nn.Module) -> tuple[str, str]:
    """Kind and label of a block; an empty label for what does nothing."""
    name = type(module).__name__
    if isinstance(module, nn.Conv2d):
        side = "×".join(map(str, module.kernel_size))
        stride = f", stride {module.stride[0]}" if int(module.stride[0]) > 1 else ""
        return "convolution", f"conv {side}{stride}"
    if isinstance(module, nn.Linear):
        return "linear", "fully connected"
    if isinstance(module, FullyConnected):
        return "linear", _fully_connected(module)
    if isinstance(module, SqueezeExcite):
        return "blocks", "squeeze and excite"
    if isinstance(module, nn.LayerNorm) or name.lower().startswith(("batchnorm", "layernorm")):
        return "norm", _norm(module)
    if isinstance(module, _ACTIVATIONS):
        return "activation", name
    if isinstance(module, nn.Dropout):
        return "dropout", f"dropout {module.p:g}" if module.p else ""
    if isinstance(module, nn.Identity):
        return "identity", ""
    if "pool" in name.lower():
        return "pooling", _pooling(module)
    return _describe_container(module)


def _fully_connected(module: FullyConnected) -> str:
    shortcut = " with projected shortcut" if module.project is not None else ""
    parts = [_describe(part)[1] for part in (module.norm, module.activation, module.dropout)]
    return " + ".join([f"fully connected{shortcut}", *(part for part in parts if part)])


def _norm(module: nn.Module) -> str:
    """The norm, and the activation that timm keeps inside its norm layers."""
    kind = "batch norm" if "batch" in type(module).__name__.lower() else "layer norm"
    inside = getattr(module, "act", None)
    return f"{kind} + {type(inside).__name__}" if isinstance(inside, _ACTIVATIONS) else kind


def _pooling(module: nn.Module) -> str:
    name = type(module).__name__
    if "Select" in name or "Adaptive" in name:
        return "global average"
    size = getattr(module, "kernel_size", None)
    side = size[0] if isinstance(size, tuple) else size
    return f"{'max' if 'Max' in name else 'average'} pool {side}×{side}"


def _describe_container(module: nn.Module) -> tuple[str, str]:
    convolutions = sum(isinstance(part, nn.Conv2d) for part in module.modules())
    linear = sum(isinstance(part, nn.Linear) for part in module.modules())
    label = type(module).__name__
    if isinstance(module, nn.Sequential):
        label = _row([type(child).__name__ for child in module])
    layers = [f"{n} {name}{'s' * (n > 1)}" for n, name in
              ((convolutions, "convolution"), (linear, "linear layer")) if n]  # fmt: skip
    if convolutions or linear:
        return ("blocks" if convolutions or linear > 2 else "linear"), f"{label} ({layers[0]})"
    return "other", label


def _row(kinds: Sequence[str]) -> str:
    """``3 × Bottleneck`` or ``ConvBnAct, 4 × Block``."""
    counts = {kind: list(kinds).count(kind) for kind in dict.fromkeys(kinds)}
    return ", ".join(f"{n} × {kind}" if n > 1 else kind for kind, n in counts.items())

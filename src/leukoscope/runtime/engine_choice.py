"""Which engine runs a bundle here, in which precision, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec

from leukoscope.config.bundle import BundleRecord
from leukoscope.config.guarantees import PRECISIONS
from leukoscope.core.errors import BundleError, UnknownNameError, UsageError
from leukoscope.runtime.bundle import Bundle, check_graph
from leukoscope.runtime.engines import ENGINES, Engine, open_engine, unsupported_reason

# Fastest first, as measured in docs/results/inference.md. Where bf16 is to be had it is as fast as
# int8, and nearer to fp32; ONNX Runtime gains nothing by int8, for depthwise layers stay in fp32.
FASTEST = {"openvino": ("bf16", "int8", "fp32"), "onnxruntime": ("fp32",)}


def open_for(
    bundle: Bundle,
    engine: str = "auto",
    precision: str = "auto",
    *,
    threads: int | None = None,
    bulk: bool = False,
) -> Engine:
    """Open a bundle's graph; ``Engine.reason`` explains the choice of engine and precision.

    The choice never depends on the number of images, so that the same image gets the same answer.
    In fp32 both engines agree within the bound of :mod:`leukoscope.config.guarantees`.

    Args:
        bundle: From :func:`leukoscope.runtime.bundle.read_bundle`.
        engine: ``openvino``, ``onnxruntime``, or ``auto``: OpenVINO where it is installed and may
            compute in less than fp32, else ONNX Runtime.
        precision: ``fp32``, ``bf16``, ``int8``, or ``auto``: the fastest that this processor
            supports and that stayed within its error bounds when the bundle was made.
        threads: Number of threads. Default: every core available to this process.
        bulk: For many images, see :func:`leukoscope.runtime.engines.open_engine`.

    Raises:
        UnknownNameError: No engine or precision of that name.
        UsageError: The precision is not offered by the bundle or by this processor.
        MissingExtraError: The engine is not installed.
        BundleError: The graph cannot be opened, or does not fit the record.
    """
    names = _usable(bundle, engine, precision)
    failed = ""
    for number, name in enumerate(names, start=1):
        chosen, why = _chosen(bundle.record, name, precision)
        words = "asked for by name" if engine != "auto" else _why(name, names, failed)
        try:
            opened = open_engine(
                bundle.model_for(chosen),
                engine=name,
                precision=chosen,
                threads=threads,
                bulk=bulk,
            )
            check_graph(bundle, opened)
        except (BundleError, ImportError) as error:
            if number == len(names):
                raise
            failed = str(error).splitlines()[0]
            continue
        return replace(opened, reason=f"{words}; {why}")
    raise AssertionError("there is always one engine")


def _usable(bundle: Bundle, engine: str, precision: str) -> list[str]:
    """Installed engines that offer the precision; the one to be tried first comes first."""
    if engine not in ("auto", *ENGINES):
        raise UnknownNameError("engine", engine, ("auto", *ENGINES))
    if precision not in ("auto", *PRECISIONS):
        raise UnknownNameError("precision", precision, ("auto", *PRECISIONS))
    names = [engine] if engine != "auto" else ["onnxruntime"]
    if engine == "auto" and find_spec("openvino") is not None:
        # In fp32 it is no faster than ONNX Runtime, and takes longer to start.
        lower = _chosen(bundle.record, "openvino", precision)[0] != "fp32"
        names.insert(0 if lower else 1, "openvino")
    if precision == "auto":
        return names
    refusals = {name: refusal_reason(bundle.record, name, precision) for name in names}
    usable = [name for name in names if not refusals[name]]
    if not usable:
        why = "; ".join(f"{name}: {words}" for name, words in refusals.items())
        raise UsageError(
            f"{bundle.folder}: {precision} is not offered ({why})",
            hint="take --precision auto, which says what it took",
        )
    return usable


def offered_variants(record: BundleRecord) -> Iterator[tuple[str, str]]:
    """Yield each pair of installed engine and precision that the bundle may run with here."""
    for name in ENGINES:
        if name == "openvino" and find_spec(name) is None:
            continue
        for precision in PRECISIONS:
            if not refusal_reason(record, name, precision):
                yield name, precision


def refusal_reason(record: BundleRecord, engine: str, precision: str) -> str:
    """Why an engine may not run the bundle in a precision here; empty if it may."""
    if precision == "fp32":
        return ""
    variant = record.variant(engine, precision)
    if variant is None:
        return f"the bundle has no record of {precision} with it"
    return variant.refused or unsupported_reason(engine, precision)


def _chosen(record: BundleRecord, engine: str, precision: str) -> tuple[str, str]:
    """Choose the precision; returns it with the reason."""
    if precision != "auto":
        return precision, f"{precision} asked for by name"
    refused = {}
    for name in FASTEST[engine]:
        words = refusal_reason(record, engine, name)
        if words:
            refused[name] = words
            continue
        left = "; ".join(f"not {other}: {why}" for other, why in refused.items())
        if name == "fp32":
            return name, f"fp32 ({left})" if left else "fp32 is its fastest"
        variant = record.variant(engine, name)
        assert variant is not None
        parity = variant.parity
        kept = (
            f"{name}: within its bounds on {parity.n} validation images (logits within "
            f"{parity.max_abs:.2g} of {parity.scale:.3g}, class changed on {parity.changed:.1%})"
        )
        return name, f"{kept}{f' ({left})' if left else ''}"
    raise AssertionError("fp32 is never refused")


def _why(name: str, names: Sequence[str], failed: str) -> str:
    if failed:
        return f"{names[0]} could not open the model ({failed})"
    if len(names) == 1:
        return "no other engine is installed and offers this precision"
    if name == "openvino":
        return "OpenVINO is installed"
    return "in fp32 as fast as OpenVINO, and it starts sooner"

"""In which precision a network is trained."""

from __future__ import annotations

from typing import Any

import torch

from leukoscope.config.training import GradientTraining


def has_fast_bfloat16() -> bool:
    """Whether the device that is used multiplies in bfloat16."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def precision_of(config: GradientTraining) -> Any:
    """bfloat16 where the processor multiplies in it: half the time; float32 elsewhere."""
    if config.precision == "auto":
        return "bf16-mixed" if has_fast_bfloat16() else "32-true"
    return {"fp32": "32-true", "bf16": "bf16-mixed"}[config.precision]

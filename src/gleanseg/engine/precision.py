"""Which arithmetic a run uses."""

from typing import Literal

import torch
from lightning_fabric import Fabric

from gleanseg.predict.hardware import has_fast_bf16

Precision = Literal["32-true", "bf16-mixed"]


def choose(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """Fabric's name of the precision to use.

    ``auto`` takes bf16 autocast where the processor multiplies bf16 in hardware, else fp32: emulated bf16 is slower.
    """
    if wanted == "auto":
        return "bf16-mixed" if has_fast_bf16(device) else "32-true"
    return "bf16-mixed" if wanted == "bf16" else "32-true"


def computes_in_bf16(fabric: Fabric) -> bool:
    """Whether networks run under bf16 autocast."""
    return str(fabric.strategy.precision.precision).startswith("bf16")

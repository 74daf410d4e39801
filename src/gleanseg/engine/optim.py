"""Optimisers and schedules from the recipe."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from gleanseg.config import OptimizerConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> Optimizer:
    """The optimiser of one player; parameters are on their device."""
    parameters = list(parameters)
    # On a processor "foreach" is a loop over parameters and operations, and "fused" one pass over memory.
    fused = all(p.device.type == "cpu" for p in parameters)
    if config.name == "sgd":
        return SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            fused=fused,
            foreach=not fused,
        )
    return AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=fused, foreach=not fused)


def lr_at(step: int, total: int, config: OptimizerConfig) -> float:
    """Learning rate of a step (counted from 0); a pure function, so that resuming needs no scheduler state.

    ``poly`` is lr (1 - t/N)^0.9 and ``step`` divides by 10, as the semi-supervised literature; ``cosine`` falls to 0.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, total - config.warmup)
    match config.schedule:
        case "cosine":
            return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        case "poly":
            return float(config.lr * (1 - min(1.0, done)) ** 0.9)
        case "step":
            return float(config.lr * 0.1 ** (step // config.step_every))
        case "constant":
            return config.lr

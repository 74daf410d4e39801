"""Passes that are neither training nor evaluation.

Axes: B cases, C channels, Z Y X voxels.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gleanseg.networks.network import Network


@contextmanager
def untracked(network: nn.Module) -> Iterator[None]:
    """Batch norm in training uses the batch's statistics, as ever, but leaves the running ones alone.

    For further passes of a network in training, drop-out included, such as those on images that a method made up.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def batch_statistics(network: nn.Module, *, dropout: bool = False) -> Iterator[None]:
    """Evaluation mode (no drop-out), but batch norm uses the batch's statistics and leaves the running ones alone.

    A network in training that also teaches: its running statistics lag behind, and a second pass must not move them.

    Args:
        network: it is given back in the mode that it had.
        dropout: leave drop-out on, for passes that measure doubt.
    """
    training = network.training
    network.train(dropout)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    try:
        with untracked(network):
            yield
    finally:
        network.train(training)


@torch.no_grad()
def quiet_features(
    network: Network, x_BCZYX: Float[Tensor, "B C Z Y X"], *, dropout: bool = False
) -> tuple[Tensor, ...]:
    """A network's features under ``batch_statistics``, without gradient."""
    with batch_statistics(network, dropout=dropout):
        return network.features(x_BCZYX)

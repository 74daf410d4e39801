"""Small heads that methods put on features: projections, predictions, weights."""

from torch import nn


def perceptron(inputs: int, hidden: int, outputs: int, *, slope: float = 0.0) -> nn.Sequential:
    """A hidden layer with layer norm between two linear ones, on the last axis.

    Published heads have batch norm; with layer norm a voxel's feature depends on no other voxel, and so not on how
    cases are spread over ranks.

    Args:
        inputs: numbers of a feature.
        hidden: of the hidden layer.
        outputs: of the result.
        slope: of negative values (leaky ReLU); 0: ReLU.
    """
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(slope), nn.Linear(hidden, outputs)
    )

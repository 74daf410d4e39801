"""All maps of a network's pass, for methods that attach something to them.

Axes: B cases, C channels, Z Y X voxels.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from gleanseg.networks.network import Network


class Levels(NamedTuple):
    """What a network made of a patch.

    Attributes:
        down: the encoder's maps, finest first, bottleneck last.
        up: the decoder's, coarsest first, full resolution last.
        features: what ``score`` takes.
    """

    down: list[Tensor]
    up: list[Tensor]
    features: tuple[Tensor, ...]


def levels(network: Network, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Levels:
    """One pass; its features are those of ``network.features``."""
    down = network.encoded(x_BCZYX)
    up = network.decode(down)
    return Levels(down, up, network.head.features(down, up[-1]))

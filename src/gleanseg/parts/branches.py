"""Further decoders on one encoder, which differ in how they enlarge maps.

Axes: B cases, R ROIs, Z Y X voxels.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from gleanseg.errors import UserError
from gleanseg.networks.head import Head, Rois
from gleanseg.networks.network import Network
from gleanseg.networks.upsampling import WAYS, Way, enlarge_by, way_of


class Branch(nn.Module):
    """A decoder with a head of its own.

    Args:
        decoder: maps an encoder's list as ``Network.decode`` does.
        head: reads the encoder's maps and the decoder's last.
    """

    def __init__(self, decoder: nn.Module, head: Head) -> None:
        super().__init__()
        self.decoder, self.head = decoder, head

    def features(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See ``Head.features``."""
        return self.head.features(maps, self.decoder(maps)[-1])

    def score(self, features: tuple[Tensor, ...], rois: Rois = None) -> Float[Tensor, "B R Z Y X"]:
        """See ``Head.score``."""
        return self.head.score(features, rois)


class Branches(nn.ModuleList):
    """One or two branches beside a network's own decoder, each with another way of enlarging maps.

    The ways are a transposed convolution, trilinear and nearest interpolation.

    Args:
        build: makes a network like the one whose encoder they share; a branch is its decoder and its head.
        num: decoders, 2 or 3, with the network's own.
        kernel: of convolutions that are put beside interpolation; see ``enlarge_by``.
        ways: the branches take the first ones that are not the network's own.

    Raises:
        UserError: the network's decoder has no module of its own that enlarges maps.
    """

    def __init__(
        self, build: Callable[[], Network], num: int, *, kernel: Literal[1, 3], ways: Sequence[Way] = WAYS
    ) -> None:
        fresh = [build() for _ in range(num - 1)]
        own = way_of(fresh[0].decoder)
        if own is None:
            raise UserError(
                f"network {type(fresh[0]).__name__}: expected a decoder with nn.ConvTranspose3d or Upsample modules, "
                f"which further decoders exchange; found neither; use another network"
            )
        others = [way for way in ways if way != own]
        super().__init__(
            Branch(enlarge_by(network.decoder, way, kernel=kernel), network.head)
            for network, way in zip(fresh, others, strict=False)
        )

    def __iter__(self) -> Iterator[Branch]:
        for branch in super().__iter__():
            assert isinstance(branch, Branch), "it holds nothing else"
            yield branch

    def features(self, network: Network, maps: list[Tensor]) -> list[tuple[Tensor, ...]]:
        """Of every decoder, the network's own first, from its encoder's maps."""
        own = network.head.features(maps, network.decode(maps)[-1])
        return [own, *(branch.features(maps) for branch in self)]

    def scores(
        self, network: Network, features: Sequence[tuple[Tensor, ...]], rois: Rois = None
    ) -> list[Float[Tensor, "B R Z Y X"]]:
        """Logits of every decoder, in the order of ``features``."""
        own, *others = features
        return [network.score(own, rois), *(branch.score(f, rois) for branch, f in zip(self, others, strict=True))]

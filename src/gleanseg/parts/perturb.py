"""Perturbations of maps inside a network, each drawn from the keys of its rows.

Axes: B cases, C channels, Z Y X voxels of the map.
"""

from jaxtyping import Float, Int
from torch import Tensor

from gleanseg.parts.draws import drawn

_FEATURE_NOISE, _FEATURE_DROPOUT, _FEATURE_DROP, _CHANNEL_DROPOUT = 11, 12, 13, 14


def feature_noise(
    map_BCZYX: Float[Tensor, "B C Z Y X"], key_B: Int[Tensor, " B"], amplitude: float, *, salt: int
) -> Float[Tensor, "B C Z Y X"]:
    r"""$x (1 + n)$, n uniform in [-amplitude, amplitude).

    Args:
        map_BCZYX: activations.
        key_B: random keys of the rows.
        amplitude: share of the activation.
        salt: two draws of a row, such as those of two levels, differ by it.

    Reference: Ouali et al., CCT, CVPR 2020, https://arxiv.org/abs/2003.09005
    """
    return map_BCZYX * drawn(
        map_BCZYX,
        key_B,
        lambda row, g: row.uniform_(1 - amplitude, 1 + amplitude, generator=g),
        purpose=_FEATURE_NOISE,
        salt=salt,
    )


def feature_dropout(
    map_BCZYX: Float[Tensor, "B C Z Y X"], key_B: Int[Tensor, " B"], rate: float, *, salt: int
) -> Float[Tensor, "B C Z Y X"]:
    """Single activations are set to 0 at this rate, in [0, 1); the others grow to keep the mean."""
    kept = drawn(
        map_BCZYX, key_B, lambda row, g: row.bernoulli_(1 - rate, generator=g), purpose=_FEATURE_DROPOUT, salt=salt
    )
    return map_BCZYX * (kept / (1 - rate))


def channel_dropout(
    map_BCZYX: Float[Tensor, "B C Z Y X"], key_B: Int[Tensor, " B"], rate: float, *, salt: int
) -> Float[Tensor, "B C Z Y X"]:
    """Whole channels of a row are set to 0 at this rate, in [0, 1); the others grow to keep the mean."""
    kept_BC = drawn(
        map_BCZYX[:, :, 0, 0, 0],
        key_B,
        lambda row, g: row.bernoulli_(1 - rate, generator=g),
        purpose=_CHANNEL_DROPOUT,
        salt=salt,
    )
    return map_BCZYX * (kept_BC / (1 - rate))[:, :, None, None, None]


def feature_drop(
    map_BCZYX: Float[Tensor, "B C Z Y X"], key_B: Int[Tensor, " B"], between: tuple[float, float], *, salt: int
) -> Float[Tensor, "B C Z Y X"]:
    """The most active places are set to 0: those whose mean over channels reaches a share of the row's largest.

    Args:
        map_BCZYX: activations.
        key_B: random keys of the rows.
        between: the share is uniform between these, in (0, 1].
        salt: two draws of a row differ by it.

    Reference: as ``feature_noise``.
    """
    low, high = between
    activity_B1ZYX = map_BCZYX.mean(1, keepdim=True)
    largest_B = activity_B1ZYX.flatten(1).amax(1)
    share_B = drawn(
        largest_B, key_B, lambda row, g: row.uniform_(low, high, generator=g), purpose=_FEATURE_DROP, salt=salt
    )
    return map_BCZYX * (activity_B1ZYX < (largest_B * share_B)[:, None, None, None, None])

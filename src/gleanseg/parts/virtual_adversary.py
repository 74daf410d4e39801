"""Virtual adversarial training: the small change of an image that moves a prediction most.

Axes: B cases, C channels, Z Y X voxels.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gleanseg.parts.draws import drawn
from gleanseg.types import Mean

_DIRECTION = 22


def worst_perturbation(
    distance: Callable[[Tensor], Mean],
    x_BCZYX: Float[Tensor, "B C Z Y X"],
    key_B: Int[Tensor, " B"],
    *,
    xi: float,
    epsilon: float,
    iterations: int = 1,
) -> Float[Tensor, "B C Z Y X"]:
    r"""$\epsilon\,d$ with $d \leftarrow \nabla_d D(x + \xi d)$, normalised in each row, from a random direction.

    Args:
        distance: how far the predictions of changed images have moved. A row's share of the total must not depend on
            other rows, so that neither does its perturbation.
        x_BCZYX: the images.
        key_B: random keys of the rows.
        xi: size of the change at which the gradient is taken, as a root mean square over voxels.
        epsilon: size of the perturbation, likewise; both in units of the prepared image.
        iterations: how often the direction is improved.

    Reference: Miyato et al., Virtual Adversarial Training, TPAMI 2019, https://arxiv.org/abs/1704.03976
    Deviation: sizes are per voxel, so that they mean the same in patches of all sizes; the paper's norm is that times
        the root of the number of voxels.
    """
    d = _unit(drawn(x_BCZYX, key_B, lambda row, g: row.uniform_(-0.5, 0.5, generator=g), purpose=_DIRECTION, salt=0))
    for _ in range(iterations):
        with torch.enable_grad():
            d = d.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(distance(x_BCZYX.detach() + xi * d).total, d)
        d = _unit(gradient)
    return epsilon * d.detach()


def _unit(rows_BCZYX: Tensor) -> Tensor:
    """Rows with a root mean square of 1; a row of zeros stays."""
    largest = rows_BCZYX.abs().amax((1, 2, 3, 4), keepdim=True)  # squares of small gradients underflow
    scaled = rows_BCZYX / largest.clamp_min(torch.finfo(rows_BCZYX.dtype).tiny)
    size = scaled.square().mean((1, 2, 3, 4), keepdim=True).sqrt()
    return scaled / size.clamp_min(torch.finfo(rows_BCZYX.dtype).eps)

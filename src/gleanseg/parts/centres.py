"""Class centres, spread as far as they go, and which class lies nearest to which.

Axes: K classes, D numbers of a feature.
"""

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from gleanseg.errors import UserError


def spread_centres(num: int, width: int) -> Float[Tensor, "K D"]:
    r"""K points on the unit sphere with the least mutual similarity: a regular simplex, all cosines $-1 / (K - 1)$.

    What published code finds by descent on the uniformity loss.

    Raises:
        UserError: more points than the sphere has dimensions.
    """
    if num > width:
        raise UserError(
            f"[method] width: features of {width} numbers have no room for {num} classes; use {num} or more"
        )
    corners = functional.pad(torch.eye(num) - 1 / num, (0, width - num))
    return functional.normalize(corners, dim=1)


def nearest_centres(centroid_KD: Float[Tensor, "K D"], centre_KD: Float[Tensor, "K D"]) -> Int[Tensor, " K"]:
    """The centre of each class, each given once, so that the sum of cosines is largest (the Hungarian algorithm)."""
    cosines = functional.normalize(centroid_KD, dim=1) @ functional.normalize(centre_KD, dim=1).T
    _, columns = linear_sum_assignment(cosines.double().cpu().numpy(), maximize=True)
    return torch.from_numpy(columns).to(centre_KD.device)

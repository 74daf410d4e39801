"""How much of a network's filters is a linear map of another's.

Axes: O filters of a convolution, M filters of the others, D weights of a filter.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_RIDGE = 1e-9
"""Share of the others' mean square that keeps the fit defined where filters have died."""


def shared_convolutions(modules: Sequence[nn.Module]) -> list[list[nn.Conv3d]]:
    """The convolutions that have one name and one shape in all modules; for each, that of every module."""
    first, *others = (dict(module.named_modules()) for module in modules)
    candidates = ([one, *(other.get(name) for other in others)] for name, one in first.items())
    shared = [[conv for conv in found if isinstance(conv, nn.Conv3d)] for found in candidates]
    return [convs for convs in shared if len(convs) == len(modules) and len({conv.weight.shape for conv in convs}) == 1]


def dependence(own: Float[Tensor, " O *own"], others: Sequence[Float[Tensor, " _ *own"]]) -> Float[Tensor, ""]:
    r"""Mean over filters w of $\max_A \cos^2(w, (A W)_w)$, with the others' filters stacked in the rows of W.

    The best linear map A is that of least squares, and found exactly; it is a constant for the gradient, as is W.

    Args:
        own: weight of a convolution.
        others: weights of the same convolution elsewhere.

    Returns:
        From 0, where own filters are perpendicular to all of the others', to 1, where they lie in their span.

    Reference: Miao et al., CauSSL, ICCV 2023, where A is trained against the network.
    """
    w_OD = own.flatten(1)
    with torch.no_grad():
        W_MD = torch.cat([other.flatten(1) for other in others]).double()
        gram_MM = W_MD @ W_MD.T
        gram_MM.diagonal().add_(_RIDGE * gram_MM.diagonal().mean() + torch.finfo(torch.double).tiny)
        A_OM = torch.linalg.solve(gram_MM, W_MD @ w_OD.double().T).T
        fitted_OD = (A_OM @ W_MD).to(w_OD.dtype)
    return functional.cosine_similarity(w_OD, fitted_OD).square().mean()

"""Focal loss over what is known and valid.

Axes: B cases, R ROIs, Z Y X voxels.
"""

from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

from gleanseg.losses.pairs import mean_over_pairs, pair_sums
from gleanseg.types import Mean


def partial_focal(
    logits_BRZYX: Float[Tensor, "B R Z Y X"],
    y_BRZYX: Shaped[Tensor, "B R Z Y X"],
    known_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> Mean:
    r"""Mean over known pairs of the mean over valid voxels of $-\alpha_t (1 - p_t)^\gamma \log p_t$.

    $p_t$ is the probability of the voxel's own class. Pairs are averaged as in ``partial_bce``, which is
    ``gamma=0, alpha=None``.

    Args:
        logits_BRZYX: raw scores; each ROI is its own sigmoid.
        y_BRZYX: masks, bool or 0 and 1 in any type; not read where the pair is unknown or the voxel invalid.
        known_BR: whether case b is annotated for ROI r or known not to contain it.
        valid_BZYX: False in padding and where nobody judged.
        gamma: how much easy voxels are turned down; 0 or more.
        alpha: factor of foreground voxels, with 1 - alpha for the others; None leaves both at 1.

    Returns:
        Sum over pairs and their number. A case without a valid voxel has no pairs; with no pair the term adds 0.

    Reference: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, https://arxiv.org/abs/1708.02002
    Deviation: averaged over voxels, not divided by the number of foreground voxels.
    """

    def pointwise(z: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        away = (1 - 2 * y) * z  # the logit of being wrong
        # From logarithms, as (1 - p_t)^gamma has no finite gradient at p_t = 1 for gamma below 1.
        loss = functional.softplus(away) * (gamma * functional.logsigmoid(away)).exp()
        return (loss if alpha is None else loss * (alpha * y + (1 - alpha) * (1 - y)),)

    (sums_BR,) = pair_sums(pointwise, logits_BRZYX, y_BRZYX, known_BR, valid_BZYX)
    return Mean(*mean_over_pairs(sums_BR, known_BR, valid_BZYX))

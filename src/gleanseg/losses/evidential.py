r"""Evidence for and against each ROI, from two logits: how much a network has seen, beside what it makes of it.

$e = \mathrm{softplus}(z)$ is evidence, $\alpha = e + 1$ the parameters of a Beta distribution of the probability, whose
mean is $p = \alpha_{in} / (\alpha_{in} + \alpha_{out})$ and whose doubt is $2 / (\alpha_{in} + \alpha_{out})$.

Paper: Sensoy et al., Evidential Deep Learning to Quantify Classification Uncertainty, NeurIPS 2018,
https://arxiv.org/abs/1806.01768

Axes: B cases, R ROIs, Z Y X voxels.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gleanseg.losses.pairs import mean_over_pairs
from gleanseg.types import Mean


class Evidence:
    """The evidence of one prediction, in single precision or better whatever autocast says.

    Args:
        for_BRZYX: raw scores whose softplus is evidence that the voxel lies in the ROI, with gradient.
        against_BRZYX: likewise that it does not.
    """

    def __init__(self, for_BRZYX: Float[Tensor, "B R Z Y X"], against_BRZYX: Float[Tensor, "B R Z Y X"]) -> None:
        wide = torch.promote_types(for_BRZYX.dtype, torch.float32)
        self.inside = 1 + functional.softplus(for_BRZYX.to(wide))
        self.outside = 1 + functional.softplus(against_BRZYX.to(wide))

    @property
    def logits(self) -> Float[Tensor, "B R Z Y X"]:
        r"""$\ln \alpha_{in} - \ln \alpha_{out}$, whose sigmoid is the mean probability: what other losses take."""
        return self.inside.log() - self.outside.log()

    def expected_bce(
        self, y_BRZYX: Float[Tensor, "B R Z Y X"], known_BR: Bool[Tensor, "B R"], valid_BZYX: Bool[Tensor, "B Z Y X"]
    ) -> Mean:
        r"""Cross-entropy expected over the Beta distribution, $\psi(\alpha_{in} + \alpha_{out}) - \psi(\alpha_y)$.

        Mean over known pairs of the mean over valid voxels, as ``partial_bce``.
        """
        own = torch.where(y_BRZYX > 0, self.inside, self.outside)
        return _mean(torch.digamma(self.inside + self.outside) - torch.digamma(own), known_BR, valid_BZYX)

    def misleading(
        self, y_BRZYX: Float[Tensor, "B R Z Y X"], known_BR: Bool[Tensor, "B R"], valid_BZYX: Bool[Tensor, "B Z Y X"]
    ) -> Mean:
        r"""Divergence from no evidence at all of what speaks for the wrong class.

        $\mathrm{KL}(\mathrm{Beta}(1, a) \,\|\, \mathrm{Beta}(1, 1)) = \ln a - (a - 1) / a$ with the wrong class's a.
        """
        wrong = torch.where(y_BRZYX > 0, self.outside, self.inside)
        return _mean(wrong.log() - (wrong - 1) / wrong, known_BR, valid_BZYX)


def _mean(loss_BRZYX: Tensor, known_BR: Tensor, valid_BZYX: Tensor) -> Mean:
    sums_BR = torch.where(valid_BZYX[:, None], loss_BRZYX, 0).sum((2, 3, 4))
    return Mean(*mean_over_pairs(sums_BR, known_BR, valid_BZYX))

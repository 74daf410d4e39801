"""What an adversary learns, and what deceives it. Its scores are logits: does this prediction look annotated?

Axes: B cases, R ROIs.
"""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gleanseg.types import Mean


def tell_apart(scores_BR: Float[Tensor, "B R"], known_BR: Bool[Tensor, "B R"]) -> Mean:
    r"""Mean over all (case, ROI) pairs of $\mathrm{BCE}(D, [known])$; $\ln 2$ where the two look alike.

    Args:
        scores_BR: the adversary's logits D.
        known_BR: whether case b is annotated for ROI r or known not to contain it.
    """
    losses_BR = functional.binary_cross_entropy_with_logits(scores_BR.float(), known_BR.float(), reduction="none")
    return Mean(losses_BR.sum(), losses_BR.new_tensor(float(losses_BR.numel())))


def deceive(scores_BR: Float[Tensor, "B R"], unknown_BR: Bool[Tensor, "B R"]) -> Mean:
    r"""Mean over unknown (case, ROI) pairs of $-\ln \sigma(D)$: they are to look annotated.

    Args:
        scores_BR: the adversary's logits D.
        unknown_BR: pairs that take part.

    Returns:
        Sum over pairs and their number; with no pair the term adds 0.
    """
    losses_BR = functional.softplus(-scores_BR.float())
    return Mean((losses_BR * unknown_BR).sum(), unknown_BR.sum().float())

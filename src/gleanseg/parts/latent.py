"""Latent and ambiguous classes: which unknown ROIs of a patch a teacher may teach, and how.

Axes: B cases, R ROIs.
"""

from typing import Literal, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from gleanseg.types import Monitor

Reduction = Literal["sample", "pair", "sum"]


class Routes(NamedTuple):
    """A partition of the unknown (case, ROI) pairs.

    Attributes:
        positive: surely in the patch.
        negative: surely not in the patch.
        ambiguous: neither.
    """

    positive: Bool[Tensor, "B R"]
    negative: Bool[Tensor, "B R"]
    ambiguous: Bool[Tensor, "B R"]

    @property
    def latent(self) -> Bool[Tensor, "B R"]:
        """Positive or negative."""
        return self.positive | self.negative


def route(
    scores_BR: Float[Tensor, "B R"],
    known_BR: Bool[Tensor, "B R"],
    phi_high: float | Float[Tensor, " R"],
    phi_low: float | Float[Tensor, " R"],
) -> Routes:
    r"""Sort unknown pairs by presence score p: positive if $p > \phi_h$, negative if $p < \phi_l$, else ambiguous.

    Both comparisons are strict: a score equal to a threshold is ambiguous. Known pairs are in none of the three.

    Args:
        scores_BR: in [0, 1].
        known_BR: annotated or known to be absent.
        phi_high: threshold of all ROIs, or of each.
        phi_low: as ``phi_high``, and not above it.

    Reference: Zhao et al., latent-class mining, MICCAI 2024.
    """
    unknown = ~known_BR
    positive = unknown & (scores_BR > phi_high)
    negative = unknown & (scores_BR < phi_low)
    return Routes(positive, negative, unknown & ~positive & ~negative)


def sharpened(logits: Float[Tensor, "*shape"], tau: float) -> Float[Tensor, "*shape"]:
    r"""$q^{1/\tau} / (q^{1/\tau} + (1 - q)^{1/\tau})$ of $q = \sigma(z)$, which is $\sigma(z / \tau)$ exactly.

    Powers of q underflow; logits do not.

    Args:
        logits: z.
        tau: in (0, 1]; 1 changes nothing.
    """
    return (logits / tau).sigmoid()


def pair_weights(
    chosen_BR: Bool[Tensor, "B R"], reduction: Reduction
) -> tuple[Float[Tensor, "B R"], Float[Tensor, "B R"]]:
    """Weight of each chosen pair in a term, and what it adds to the term's count; 0 for the others.

    ``sample``: a mean over the chosen ROIs of each case, then over cases that have any, so that a term does not
    depend on how many ROIs there are. ``sum``: a sum over the ROIs of each case, then a mean over cases, as the
    paper's equations are written. ``pair``: all pairs alike.

    Both are additive over ROIs, so chunks of ROIs take their columns of one result.
    """
    ones = chosen_BR.float()
    shares = ones / ones.sum(1, keepdim=True).clamp_min(1)
    match reduction:
        case "sample":
            return shares, shares
        case "sum":
            return ones, shares
        case "pair":
            return ones, ones


def shares(routes: Routes, unknown_BR: Bool[Tensor, "B R"]) -> dict[str, Monitor]:
    """Shares of the unknown pairs that are routed each way."""
    num = unknown_BR.sum().float()
    return {f"routed_{name}": Monitor(mask.sum().float(), num) for name, mask in routes._asdict().items()}


def correctness(routes: Routes, present_BR: Bool[Tensor, "B R"], judged_BR: Bool[Tensor, "B R"]) -> dict[str, Monitor]:
    """Share of the positive and of the negative decisions that hidden labels confirm.

    Args:
        routes: decisions.
        present_BR: what hidden labels say.
        judged_BR: where they say it.
    """
    positive, negative = routes.positive & judged_BR, routes.negative & judged_BR
    return {
        "right_positive": Monitor((positive & present_BR).sum().float(), positive.sum().float()),
        "right_negative": Monitor((negative & ~present_BR).sum().float(), negative.sum().float()),
    }

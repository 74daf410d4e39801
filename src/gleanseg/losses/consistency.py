"""Agreement of two predictions of the same voxels; needs no label.

Axes: B cases, R ROIs, Z Y X voxels.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from gleanseg.losses.pairs import mean_over_pairs, pair_sums
from gleanseg.types import Mean


def mse(
    student_logits_BRZYX: Float[Tensor, "B R Z Y X"],
    teacher_logits_BRZYX: Float[Tensor, "B R Z Y X"],
    weight_BR: Bool[Tensor, "B R"] | Float[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    *,
    count_BR: Float[Tensor, "B R"] | None = None,
) -> Mean:
    r"""Mean over chosen (case, ROI) pairs of the mean over valid voxels of $(\sigma(z_S) - \sigma(z_T))^2$.

    Each pair counts the same, however many of its voxels are valid (see ``partial_bce``).

    Args:
        student_logits_BRZYX: raw scores, with gradient.
        teacher_logits_BRZYX: raw scores of the same voxels; get no gradient.
        weight_BR: which pairs take part, usually ``~known``; as floats, how strongly each does (0: not at all).
        valid_BZYX: False in padding.
        count_BR: what each pair adds to the count; by default 1, so turning one pair down does not turn the others up.

    Returns:
        Weighted sum over pairs and their count; with no pair the term adds 0.

    Reference: Tarvainen & Valpola, Mean Teacher, NeurIPS 2017, https://arxiv.org/abs/1703.01780
    """
    (sums_BR,) = pair_sums(_squared_distance, student_logits_BRZYX, teacher_logits_BRZYX, weight_BR > 0, valid_BZYX)
    return Mean(*mean_over_pairs(sums_BR, weight_BR, valid_BZYX, count_BR))


def _squared_distance(student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
    return ((student.sigmoid() - teacher.sigmoid()).square(),)

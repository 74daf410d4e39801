"""Agreement of two predictions of the same voxels; needs no label.

Axes: B cases, R ROIs, Z Y X voxels.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gleanseg.losses.pairs import joint_sums, mean_over_pairs, pair_sums
from gleanseg.types import Mean


def mse(
    student_logits_BRZYX: Float[Tensor, "B R Z Y X"],
    teacher_logits_BRZYX: Float[Tensor, "B R Z Y X"],
    weight_BR: Bool[Tensor, "B R"] | Float[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
    *,
    count_BR: Float[Tensor, "B R"] | None = None,
    both: bool = False,
) -> Mean:
    r"""Mean over chosen (case, ROI) pairs of the mean over valid voxels of $(\sigma(z_S) - \sigma(z_T))^2$.

    Each pair counts the same, however many of its voxels are valid (see ``partial_bce``).

    Args:
        student_logits_BRZYX: raw scores, with gradient.
        teacher_logits_BRZYX: raw scores of the same voxels; get no gradient unless ``both``.
        weight_BR: which pairs take part, usually ``~known``; as floats, how strongly each does (0: not at all).
        valid_BZYX: False in padding.
        count_BR: what each pair adds to the count; by default 1, so turning one pair down does not turn the others up.
        both: the teacher's scores get a gradient, too.

    Returns:
        Weighted sum over pairs and their count; with no pair the term adds 0.

    Reference: Tarvainen & Valpola, Mean Teacher, NeurIPS 2017, https://arxiv.org/abs/1703.01780
    """
    target_BRZYX = teacher_logits_BRZYX if both else teacher_logits_BRZYX.detach()
    (sums_BR,) = joint_sums(_squared_distance, (student_logits_BRZYX, target_BRZYX), weight_BR > 0, valid_BZYX)
    return Mean(*mean_over_pairs(sums_BR, weight_BR, valid_BZYX, count_BR))


def mse_of_logits(
    student_logits_BRZYX: Float[Tensor, "B R Z Y X"],
    teacher_logits_BRZYX: Float[Tensor, "B R Z Y X"],
    weight_BR: Bool[Tensor, "B R"] | Float[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Mean:
    r"""Mean over chosen (case, ROI) pairs of the mean over valid voxels of $(z_S - z_T)^2$.

    Arguments and result are those of ``mse``. Two-class soft-max logits $\pm z / 2$ have a quarter of this as the mean
    over both channels.
    """
    (sums_BR,) = pair_sums(_squared_difference, student_logits_BRZYX, teacher_logits_BRZYX, weight_BR > 0, valid_BZYX)
    return Mean(*mean_over_pairs(sums_BR, weight_BR, valid_BZYX))


def mse_where(
    student_logits_BRZYX: Float[Tensor, "B R Z Y X"],
    target_BRZYX: Float[Tensor, "B R Z Y X"],
    counted_BRZYX: Bool[Tensor, "B R Z Y X"],
    weight_BR: Bool[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Mean:
    r"""Mean of $(\sigma(z) - q)^2$ over the counted, valid voxels of all chosen (case, ROI) pairs together.

    Args:
        student_logits_BRZYX: raw scores z, with gradient.
        target_BRZYX: probabilities q, in [0, 1]; get no gradient.
        counted_BRZYX: voxels that count, such as those where a teacher is sure.
        weight_BR: which pairs take part, usually ``~known``.
        valid_BZYX: False in padding.

    Returns:
        Sum over voxels and their number; where none counts the term adds 0.

    Reference: Yu et al., UA-MT, MICCAI 2019, https://arxiv.org/abs/1907.07034, eq. 4.
    """
    marked = torch.where(counted_BRZYX, target_BRZYX.to(student_logits_BRZYX.dtype), -1.0)
    sums_KBR = pair_sums(_squared_distance_to, student_logits_BRZYX, marked, weight_BR, valid_BZYX)
    return Mean(sums_KBR[0].sum(), sums_KBR[1].detach().sum())


def disagreement(
    student_logits_BRZYX: Float[Tensor, "B R Z Y X"],
    teacher_logits_BRZYX: Float[Tensor, "B R Z Y X"],
    weight_BR: Bool[Tensor, "B R"] | Float[Tensor, "B R"],
    valid_BZYX: Bool[Tensor, "B Z Y X"],
) -> Mean:
    r"""Mean over chosen (case, ROI) pairs of the mean over valid voxels of $p (1 - q) + (1 - p) q$.

    How often two labels differ that are drawn from p and from q; linear in p, it pulls towards the harder q. It is the
    linear Dice loss of a two-class soft-max whose sums run over both classes, as $\sum p + \sum (1 - p)$ is the number
    of voxels whatever p is.

    Args:
        student_logits_BRZYX: raw scores whose sigmoid is p, with gradient.
        teacher_logits_BRZYX: raw scores whose sigmoid is q; get no gradient.
        weight_BR: which pairs take part; as floats, how strongly each does (0: not at all).
        valid_BZYX: False in padding.

    Returns:
        Weighted sum over pairs and their count; with no pair the term adds 0.
    """
    (sums_BR,) = pair_sums(_differing, student_logits_BRZYX, teacher_logits_BRZYX, weight_BR > 0, valid_BZYX)
    return Mean(*mean_over_pairs(sums_BR, weight_BR, valid_BZYX))


def _differing(student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
    return (student.sigmoid() * (-teacher).sigmoid() + (-student).sigmoid() * teacher.sigmoid(),)


def _squared_distance_to(student: Tensor, marked: Tensor) -> tuple[Tensor, ...]:
    counted = (marked >= 0).to(student.dtype)
    return (student.sigmoid() - marked).square() * counted, counted


def _squared_distance(student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
    return ((student.sigmoid() - teacher.sigmoid()).square(),)


def _squared_difference(student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
    return ((student - teacher).square(),)

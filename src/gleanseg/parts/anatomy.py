"""Features of drawn voxels that part by class: who is compared with whom, and what is remembered.

Axes: B cases, K classes (the ROIs, and last what lies in none), M drawn voxels, Q queries, D numbers of a feature.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from gleanseg.losses.contrast import centred_contrast, info_nce
from gleanseg.parts.centres import nearest_centres, spread_centres
from gleanseg.parts.ema import ema_copy
from gleanseg.parts.memory import push
from gleanseg.parts.points import Points, choose
from gleanseg.parts.project import perceptron
from gleanseg.types import Mean

_REGIONAL, _NEGATIVE, _CENTRED = 0, 1, 2


def of_classes(p_BRM: Float[Tensor, "B R M"]) -> Float[Tensor, "B K M"]:
    """Probabilities of the ROIs, and of none: what the likeliest one leaves."""
    return torch.cat([p_BRM, 1 - p_BRM.amax(1, keepdim=True)], dim=1)


class Anatomy(nn.Module):
    """Projections of a student and its teacher, a queue of the teacher's features, and centres of the classes.

    Args:
        channels: of all maps on the decoder's way up together.
        num_rois: R; there are K = R + 1 classes.
        width: D, at least K.
        queue: rows of the queue, of all classes together.
    """

    def __init__(self, channels: int, num_rois: int, *, width: int, queue: int) -> None:
        super().__init__()
        classes = num_rois + 1
        self.project = perceptron(channels, width, width)
        self.project_teacher = ema_copy(self.project)
        self.queue: Tensor
        self.centroids: Tensor
        self.centres: Tensor
        self.register_buffer("queue", torch.zeros(classes, max(1, queue // classes), width))
        self.register_buffer("centroids", torch.zeros(classes, width))
        self.register_buffer("centres", spread_centres(classes, width))

    def of_student(self, up: Sequence[Tensor], at: Points) -> Float[Tensor, "B M D"]:
        """Features of voxels from the decoder's maps, with gradient."""
        features: Tensor = self.project(torch.cat([at.of(m) for m in up], dim=1).transpose(1, 2))
        return features

    @torch.no_grad()
    def of_teacher(self, up: Sequence[Tensor], at: Points) -> Float[Tensor, "B M D"]:
        """The teacher's."""
        features: Tensor = self.project_teacher(torch.cat([at.of(m) for m in up], dim=1).transpose(1, 2))
        return features

    def regional(
        self,
        f_BMD: Float[Tensor, "B M D"],
        member_BKM: Bool[Tensor, "B K M"],
        likely_BKM: Bool[Tensor, "B K M"],
        asking_BKM: Bool[Tensor, "B K M"],
        key_B: Int[Tensor, " B"],
        queries: int,
        negatives: int,
        *,
        temperature: float,
    ) -> Mean:
        """Voxels that ask, against their class's mean feature and voxels of other classes, rather of similar ones.

        Args:
            f_BMD: the student's features.
            member_BKM: classes of the voxels; a member is no negative of its class.
            likely_BKM: the members of which mean features and negatives are made.
            asking_BKM: which of them the network is unsure of.
            key_B: random keys of the rows.
            queries: of each class, at most.
            negatives: of each class, likewise; all its queries are compared with the same ones.
            temperature: of InfoNCE and of the draw of negatives.
        """
        flat_VD, fixed = f_BMD.flatten(0, 1), f_BMD.detach().float()
        size_K = likely_BKM.sum((0, 2))
        mean_KD = torch.einsum("bkm,bmd->kd", likely_BKM.float(), fixed) / size_K.clamp_min(1)[:, None]
        unit_KD = functional.normalize(mean_KD, dim=1)
        other_KK = (size_K > 0) & ~torch.eye(len(size_K), dtype=torch.bool, device=f_BMD.device)
        alike_KK = (unit_KD @ unit_KD.T / temperature).masked_fill(~other_KK, -1e9).softmax(1) * other_KK
        weight_BKM = torch.einsum("kj,bjm->bkm", alike_KK / size_K.clamp_min(1), likely_BKM.float()) * ~member_BKM
        asked, found_KQ = choose(asking_BKM.float(), key_B, queries, salt=_REGIONAL)
        against, found_KN = choose(weight_BKM, key_B, negatives, salt=_NEGATIVE)
        return info_nce(
            flat_VD[asked],
            mean_KD,
            flat_VD[against].detach(),
            found_KQ=found_KQ,
            found_KN=found_KN,
            temperature=temperature,
        )

    def centred(
        self,
        f_BMD: Float[Tensor, "B M D"],
        teacher_BMD: Float[Tensor, "B M D"],
        member_BKM: Bool[Tensor, "B K M"],
        key_B: Int[Tensor, " B"],
        queries: int,
        *,
        temperature: float = 0.07,
        centre_weight: float = 0.2,
    ) -> tuple[Mean, Float[Tensor, "Q K D"]]:
        """Voxels of known class against teacher, queue and centres; and the teacher's features, for ``remember``.

        Args:
            f_BMD: the student's features.
            teacher_BMD: the teacher's.
            member_BKM: classes of the voxels, as labels tell.
            key_B: random keys of the rows.
            queries: of each class, at most.
            temperature: of the soft-max.
            centre_weight: of the own centre among what a feature should resemble.
        """
        drawn, found_KQ = choose(member_BKM.float(), key_B, queries, salt=_CENTRED)
        pair_KQD = teacher_BMD.flatten(0, 1)[drawn]
        term = centred_contrast(
            f_BMD.flatten(0, 1)[drawn],
            pair_KQD,
            self.queue,
            self.centres[nearest_centres(self.centroids, self.centres)],
            found_KQ=found_KQ,
            temperature=temperature,
            centre_weight=centre_weight,
        )
        return term, (pair_KQD * found_KQ[..., None]).transpose(0, 1).float()

    @torch.no_grad()
    def remember(self, rows_QKD: Float[Tensor, "Q K D"], *, momentum: float = 0.9) -> None:
        """Queue the teacher's features, and move the centroids of the classes that have any."""
        rows_QKD = functional.normalize(rows_QKD, dim=2).to(self.queue)
        push(self.queue, rows_QKD)
        sums_KD = rows_QKD.sum(0)
        moved_KD = momentum * self.centroids + (1 - momentum) * functional.normalize(sums_KD, dim=1)
        there_K1 = sums_KD.any(1, keepdim=True)
        self.centroids.copy_(torch.where(there_K1, functional.normalize(moved_KD, dim=1), self.centroids))

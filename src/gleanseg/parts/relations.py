"""What a student and its teacher say that a patch, or a window of it, resembles: heads, and a bank of what was seen.

Axes: B cases, P places of a case, N rows of a place's bank, n offered rows, D numbers of a feature, C and F numbers of
what enters and leaves a head.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from gleanseg.losses.relations import relation_kl
from gleanseg.parts.ema import ema_copy
from gleanseg.parts.memory import push
from gleanseg.types import Mean


class Relations(nn.Module):
    """Linear heads of a student and its teacher, the student's predictor, and a bank of the teacher's features.

    The bank begins with random directions: relations to them say as much as those to features.

    Args:
        inputs: C.
        hidden: of the heads.
        outputs: F.
        rows: N of each place, of which the oldest make room for new ones.
        places: P.
        per_place: inputs that together are one place's feature, so that D is so many times F.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, *, rows: int, places: int = 1, per_place: int = 1
    ) -> None:
        super().__init__()
        self.project = _linear(inputs, hidden, outputs)
        self.project_teacher = ema_copy(self.project)
        self.predict = _linear(outputs, outputs, outputs)
        self.bank: Tensor
        self.register_buffer("bank", functional.normalize(torch.randn(places, rows, outputs * per_place), dim=2))

    def of_student(self, inputs_BnC: Float[Tensor, "B *n C"]) -> Float[Tensor, "B *n F"]:
        """What the student predicts of the teacher's features, with gradient."""
        features: Tensor = self.predict(self.project(inputs_BnC))
        return features

    @torch.no_grad()
    def of_teacher(self, inputs_BnC: Float[Tensor, "B *n C"]) -> Float[Tensor, "B *n F"]:
        """The teacher's features."""
        features: Tensor = self.project_teacher(inputs_BnC)
        return features

    def distil(
        self,
        student_BPD: Float[Tensor, "B P D"],
        teacher_BPD: Float[Tensor, "B P D"],
        counted_BP: Bool[Tensor, "B P"],
        *,
        tau: float,
        teacher_tau: float,
    ) -> tuple[Mean, Float[Tensor, "B P D"]]:
        """How far relations are apart, and the teacher's features, for ``remember``; arguments: ``relation_kl``."""
        term = relation_kl(student_BPD, teacher_BPD, self.bank, counted_BP, tau=tau, teacher_tau=teacher_tau)
        rows_BPD = functional.normalize(teacher_BPD.detach().float(), dim=2)
        return term, rows_BPD * counted_BP[..., None]

    @torch.no_grad()
    def remember(self, rows_nPD: Float[Tensor, "n P D"]) -> None:
        """Put features of all ranks in front of the bank, in an order that does not depend on who offered which."""
        order_nP = rows_nPD[..., 0].argsort(dim=0)
        push(self.bank, rows_nPD.gather(0, order_nP[..., None].expand_as(rows_nPD)))


def _linear(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two layers with nothing between them, as published."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Linear(hidden, outputs))

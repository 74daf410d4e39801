"""Agreement on what features resemble, where nobody says what they are.

Axes: B cases, P places of a case, N rows of a bank, D numbers of a feature.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gleanseg.types import Mean


def relation_kl(
    student_BPD: Float[Tensor, "B P D"],
    teacher_BPD: Float[Tensor, "B P D"],
    bank_PND: Float[Tensor, "P N D"],
    counted_BP: Bool[Tensor, "B P"],
    *,
    tau: float,
    teacher_tau: float,
) -> Mean:
    r"""Mean over counted (case, place) pairs of $\mathrm{KL}(r_T \Vert r_S)$, where r tells what a feature resembles.

    $$r(f)_n = \frac{e^{\cos(f, m_n) / \tau}}{\sum_{n'} e^{\cos(f, m_{n'}) / \tau}}$$

    over the rows m of the feature's place in a bank.

    Args:
        student_BPD: features, with gradient.
        teacher_BPD: those of the same places; get no gradient.
        bank_PND: rows of each place; one of zeros is equally unlike everything. They get no gradient.
        counted_BP: which places take part.
        tau: $\tau$ of the student's relations.
        teacher_tau: that of the teacher's.

    Returns:
        Sum over pairs and their number; with no pair the term adds 0.

    Reference: Tejankar et al., ISD, ICCV 2021, https://arxiv.org/abs/2012.09259
    """
    wide = torch.promote_types(student_BPD.dtype, torch.float32)
    with torch.autocast(student_BPD.device.type, enabled=False):
        bank_PND = functional.normalize(bank_PND.detach().to(wide), dim=2)
        log_S, log_T = (
            (torch.einsum("bpd,pnd->bpn", functional.normalize(f.to(wide), dim=2), bank_PND) / t).log_softmax(2)
            for f, t in ((student_BPD, tau), (teacher_BPD.detach(), teacher_tau))
        )
        apart_BP = (log_T.exp() * (log_T - log_S)).sum(2)
        return Mean(torch.where(counted_BP, apart_BP, 0).sum(), counted_BP.sum().float())

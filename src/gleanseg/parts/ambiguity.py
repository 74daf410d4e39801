"""Where a student's prediction is ambiguous: four ways of the ambiguity-consensus mean teacher.

Axes: B cases, C channels, R ROIs, Z Y X voxels.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gleanseg.losses.entropy import bits
from gleanseg.networks.network import Network
from gleanseg.parts.class_prototypes import prototype_labels
from gleanseg.parts.fold import Chunk
from gleanseg.parts.label_errors import label_errors
from gleanseg.parts.mixing import clipped_noise
from gleanseg.parts.modes import quiet_features
from gleanseg.types import Batch

Kind = Literal["entropy", "uncertainty", "label-error", "prototype"]
Find = Callable[[Tensor, Chunk], Tensor]
"""From the student's logits of some ROIs, (B, r, Z, Y, X) in fp32 or fp64, to their ambiguous voxels."""
_VARIES = 0.1


@torch.no_grad()
def ambiguity(
    kind: Kind,
    student: Network,
    teacher: Network,
    x_BCZYX: Float[Tensor, "B C Z Y X"],
    batch: Batch,
    *,
    limit: float,
    passes: int,
    noise: float,
) -> Find:
    """Passes through the networks, as far as a way needs them, and what judges the student's logits by them.

    ``entropy``: the binary entropy of the student reaches the limit. ``uncertainty``: that of its mean over several
    noisy passes does. ``label-error``: confident learning, with the teacher as judge, finds the student's label wrong.
    ``prototype``: the student's label is not that of the class prototype to which the teacher's features are nearer.

    Args:
        kind: one of the four.
        student: it is given back in the mode that it had, running statistics untouched.
        teacher: in training mode, so that drop-out varies its passes.
        x_BCZYX: what both see.
        batch: keys and validity of the rows.
        limit: of entropy in bits, in [0, 1].
        passes: of the student for ``uncertainty``, of the teacher for ``prototype``.
        noise: standard deviation of the student's noise, clipped at twice that.

    Reference: Xu et al., AC-MT, Medical Image Analysis 2023, https://arxiv.org/abs/2210.08549
    """
    if kind == "entropy":
        return lambda z, r: bits(z.sigmoid()) >= limit
    if kind == "uncertainty":
        salts = range(1, passes + 1)  # 0 is the noise of the pass that teaches
        noisy = [x_BCZYX + clipped_noise(x_BCZYX, batch.key, noise, bound=2 * noise, salt=i) for i in salts]
        doubted = [quiet_features(student, x, dropout=True) for x in noisy]
        return lambda z, r: bits(_probabilities(student, doubted, r).mean(0)) >= limit
    if kind == "label-error":
        judge = [teacher.features(x_BCZYX)]
        return lambda z, r: label_errors(z > 0, _probabilities(teacher, judge, r)[0], batch.valid)
    maps, features = zip(*(_map_and_features(teacher, x_BCZYX) for _ in range(passes)), strict=True)
    mean_map = torch.stack(maps).mean(0)

    def find(z: Tensor, r: Chunk) -> Tensor:
        p = _probabilities(teacher, features, r)
        return prototype_labels(mean_map, p.mean(0), p.std(0) < _VARIES, batch.valid) != (z > 0)

    return find


def _probabilities(network: Network, passes: Sequence[tuple[Tensor, ...]], rois: Chunk) -> Float[Tensor, "N B R Z Y X"]:
    return torch.stack([network.score(features, rois).float().sigmoid() for features in passes])


def _map_and_features(network: Network, x_BCZYX: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The decoder's map at half resolution, where it has one, and what the head reads."""
    maps = network.encoded(x_BCZYX)
    decoded = network.decode(maps)
    return decoded[-2:][0].float(), network.head.features(maps, decoded[-1])

"""What labels that the recipe hides say of a method's decisions: for the log, never for a weight."""

from collections.abc import Sequence

from torch import Tensor

from gleanseg.data.loader import collate_truth
from gleanseg.data.sampler import Patch
from gleanseg.engine.terms import AllReduce, observe
from gleanseg.parts.method import Method
from gleanseg.parts.presence import presence_of
from gleanseg.types import Batch


def diagnose(
    method: Method,
    patches: Sequence[Patch],
    batch: Batch,
    *,
    patch_ZYX: tuple[int, int, int],
    world: int,
    all_reduce: AllReduce,
) -> dict[str, Tensor]:
    """Monitors of the method's last step, from pairs that the manifest knows and the recipe hides.

    Args:
        method: after its step on ``batch``.
        patches: the rows of ``batch``.
        batch: what the method saw.
        patch_ZYX: the network's patch.
        world: number of ranks.
        all_reduce: sums over ranks.
    """
    if type(method).diagnose is Method.diagnose:
        return {}
    truth = presence_of(collate_truth(patches, batch, patch_ZYX=patch_ZYX))
    monitors = method.diagnose(truth.present, truth.sure & ~batch.known)
    return observe(monitors, world=world, all_reduce=all_reduce)

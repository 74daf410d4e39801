"""Which ROIs are in a patch: what labels say, and what the frozen ROI-aware network says.

Axes: B cases, R ROIs of the run, P outputs of the classifier, V codes, Z Y X voxels.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gleanseg.errors import UserError
from gleanseg.networks.classifier import Classifier
from gleanseg.rois.ontology import Ontology
from gleanseg.types import Batch

LEAST_MM3 = 200.0
"""A structure counts as present from this volume on: what TotalSegmentator removes as a stray blob is smaller."""
Tumors = Literal["organ", "own"]


class Presence(NamedTuple):
    """What labels say of the patches of a batch.

    Attributes:
        present: whether the ROI is there; meaningless where not ``sure``.
        sure: the pair is known, and its volume is 0 or at least ``LEAST_MM3``.
    """

    present: Bool[Tensor, "B R"]
    sure: Bool[Tensor, "B R"]


def presence_of(batch: Batch, *, least_mm3: float = LEAST_MM3) -> Presence:
    """Presence of every ROI in the augmented patch, by volume in mm3; slivers are neither present nor absent."""
    B, V, _ = batch.table.shape
    flat = batch.codes.long() + V * torch.arange(B, device=batch.codes.device).reshape(B, 1, 1, 1)
    counts_BV = torch.bincount(flat[batch.valid], minlength=B * V).reshape(B, V)
    voxels_BR = torch.einsum("bv,bvr->br", counts_BV.float(), batch.table.float())
    volume_BR = voxels_BR * batch.spacing_mm.prod(1)[:, None]
    present = volume_BR >= least_mm3
    return Presence(present, batch.known & (present | (volume_BR == 0)))


def sources(rois: Sequence[str], outputs: Sequence[str], ontology: Ontology, *, tumors: Tumors) -> list[list[int]]:
    """The outputs whose maximum is the presence of each ROI.

    An ROI takes its own output; a union the outputs of its members (a maximum, as sides are correlated and an
    independent "or" would overestimate); an ROI that occurs inside another takes that one's, as its own presence cannot
    be told from organ labels. With ``tumors="organ"`` (the paper) a lesion takes its organ's output even where it has
    its own.

    Args:
        rois: of the run.
        outputs: what the classifier was trained on.
        ontology: relations.
        tumors: ``organ`` or ``own``.

    Raises:
        UserError: an ROI that nothing stands for; ROIs that nothing stands for are never present and never absent.
    """
    index = {id: i for i, id in enumerate(outputs)}
    found = [_source(roi, index, ontology, tumors) for roi in rois]
    if not any(found):
        raise UserError(
            f"[presence] run: knows none of the run's ROIs ({', '.join(rois)}) nor what they are found in; "
            f"it was trained on {', '.join(outputs)}"
        )
    return found


def inherits(roi: str, outputs: Sequence[str], ontology: Ontology) -> bool:
    """Whether an ROI's score, with its own preferred, is that of what it is found in: absence follows, presence not."""
    index = {id: i for i, id in enumerate(outputs)}
    return roi not in index and any(_source(place, index, ontology, "own") for place in _places(roi, ontology))


def _places(id: str, ontology: Ontology) -> list[str]:
    roi = ontology[id]
    return list(roi.found_in) or ([roi.part_of] if roi.part_of else [])


def _source(id: str, index: dict[str, int], ontology: Ontology, tumors: Tumors) -> list[int]:
    inherited = sorted({i for place in _places(id, ontology) for i in _source(place, index, ontology, tumors)})
    if inherited and (tumors == "organ" or id not in index):
        return inherited
    if id in index:
        return [index[id]]
    return sorted({i for member in ontology[id].members for i in _source(member, index, ontology, tumors)})


class RoiAware(nn.Module):
    """The trained presence classifier, frozen: presence of each of the run's ROIs in a patch.

    It is no part of ``state_dict()`` (the run folder holds its weights once), takes no gradient and stays in evaluation
    mode, whatever ``train()`` says of the method that holds it: running statistics of batch norm must not drift.

    Args:
        classifier: trained.
        sources: outputs of each ROI, see ``sources``; an ROI without any is never decided.
        temperature: logits are divided by it before the sigmoid, so that scores are calibrated.
    """

    def __init__(self, classifier: Classifier, sources: Sequence[Sequence[int]], *, temperature: float = 1.0) -> None:
        super().__init__()
        self._frozen = (classifier.eval().requires_grad_(False),)  # a tuple: not a sub-module
        self.sources, self.temperature = [list(s) for s in sources], temperature

    @property
    def classifier(self) -> Classifier:
        """The frozen classifier."""
        return self._frozen[0]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "RoiAware":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.classifier._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def forward(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B R"]:
        """Scores in [0, 1]; 0.5 for an ROI that nothing stands for, so that it is never routed."""
        return self.scores(self.classifier(x_BCZYX))

    def scores(self, logits_BP: Float[Tensor, "B P"]) -> Float[Tensor, "B R"]:
        """The same from what the classifier said of the patches."""
        p_BP = (logits_BP.float() / self.temperature).sigmoid()
        columns = [p_BP[:, s].amax(1) if s else p_BP.new_full((len(p_BP),), 0.5) for s in self.sources]
        return torch.stack(columns, dim=1)

"""Made-up batches and networks, small enough for a test of a second."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gleanseg.config import Named
from gleanseg.networks.classifier import Classifier
from gleanseg.networks.network import Network
from gleanseg.networks.unet3d import UNet3D
from gleanseg.parts.method import Blueprint
from gleanseg.parts.presence import RoiAware
from gleanseg.rois.ontology import builtin
from gleanseg.types import Batch

ROIS = ("liver", "liver_tumor", "spleen")
NUM_ROIS = len(ROIS)
SIDE = 16


def small_network() -> Network:
    """A U-Net without batch norm and dropout, so that a step does not depend on how rows are spread over ranks."""
    return UNet3D(UNet3D.Config(width=4, levels=3, dropout=0.0), in_channels=1, num_rois=NUM_ROIS)


def other_network(named: Named) -> Network:
    """In place of any other network, one that differs from ``small_network``."""
    return UNet3D(UNet3D.Config(width=6, levels=2, dropout=0.0), in_channels=1, num_rois=NUM_ROIS)


class SmallClassifier(Classifier):
    """A classifier without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(1, 4, 4, stride=4)
        self.linear = nn.Linear(4, NUM_ROIS)

    def encode(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B F Z2 Y2 X2"]:
        return self.convolution(x_BCZYX).relu()

    def classify(self, map_BFZYX: Float[Tensor, "B F Z Y X"]) -> Float[Tensor, "B K"]:
        return self.linear(map_BFZYX.mean((2, 3, 4)))

    def heat_map(self, map_BFZYX: Float[Tensor, "B F Z Y X"]) -> Float[Tensor, "B K Z Y X"]:
        return self.linear(map_BFZYX.movedim(1, -1)).movedim(-1, 1)


def small_roi_aware() -> RoiAware:
    """Sure that the first ROI is there and the last one is not, undecided about the second."""
    classifier = SmallClassifier()
    with torch.no_grad():
        classifier.linear.weight.mul_(0.01)
        classifier.linear.bias.copy_(torch.tensor([3.0, 0.0, -3.0]))
    return RoiAware(classifier, [[0], [1], [2]])


def small_blueprint() -> Blueprint:
    """What every method can be made from."""
    return Blueprint(
        network=small_network,
        rois=ROIS,
        ontology=builtin(),
        other=other_network,
        classifier=SmallClassifier,
        roi_aware=small_roi_aware,
    )


def make_batch(*, rows: int = 4, num_labelled: int = 2, seed: int = 0, known: bool | None = None) -> Batch:
    """Random images and balls as labels; half of the (labelled row, ROI) pairs unknown, all pairs of unlabelled rows.

    Args:
        rows: size.
        num_labelled: rows with labels.
        seed: of everything.
        known: True or False makes every pair known or unknown.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = torch.stack(torch.meshgrid(*[torch.arange(SIDE)] * 3, indexing="ij")).float()
    codes = torch.zeros(rows, SIDE, SIDE, SIDE, dtype=torch.int32)
    for row in range(rows):
        for code in range(1, NUM_ROIS + 1):
            center = torch.randint(3, SIDE - 3, (3, 1, 1, 1), generator=generator)
            codes[row][((grid - center) ** 2).sum(0) < 12] = code
    image = codes[:, None].float() - 1 + 0.3 * torch.randn(rows, 1, SIDE, SIDE, SIDE, generator=generator)
    table = torch.zeros(rows, NUM_ROIS + 1, NUM_ROIS, dtype=torch.bool)
    for code in range(1, NUM_ROIS + 1):
        table[:, code, code - 1] = True
    table[:, 2, 0] = True  # code 2 lies in two ROIs
    known_BR = torch.zeros(rows, NUM_ROIS, dtype=torch.bool)
    for row in range(num_labelled):
        known_BR[row, row % NUM_ROIS] = known_BR[row, (row + 1) % NUM_ROIS] = True
    if known is not None:
        known_BR[:] = known
    valid = torch.ones(rows, SIDE, SIDE, SIDE, dtype=torch.bool)
    valid[:, :2] = False
    noise = 0.1 * torch.randn(image.shape, generator=generator)
    return Batch(
        x={"weak": image, "strong": image + noise},
        codes=codes,
        table=table,
        known=known_BR,
        valid=valid,
        key=torch.arange(rows) + 1000 * seed,
        spacing_mm=torch.ones(rows, 3),
        num_labelled=num_labelled,
    )


def rows_of_rank(batch: Batch, rank: int, world: int) -> Batch:
    """The share of a batch that one rank of several is given."""
    order = torch.arange(len(batch.codes))
    mine = torch.cat([order[: batch.num_labelled][rank::world], order[batch.num_labelled :][rank::world]])
    return batch._replace(
        x={name: view[mine] for name, view in batch.x.items()},
        num_labelled=len(range(rank, batch.num_labelled, world)),
        **{name: getattr(batch, name)[mine] for name in ("codes", "table", "known", "valid", "key", "spacing_mm")},
    )

"""What the reconstruction of QDC-Net promises beyond the contracts."""

import pytest
import torch

from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import case_dice
from gleanseg.losses.evidential import Evidence
from gleanseg.methods.qdc_net import QDCNet
from gleanseg.networks.head import PRIOR
from gleanseg.types import Batch, Memo
from support.batches import make_batch
from support.steps import LATE, made, mean


def undecided(**options: object) -> QDCNet:
    """A plain network without its head's prior, so that about half of the voxels are found."""
    method = made(QDCNet, **options)
    method.v.head.start_at(0.0)
    return method


def logits(method: QDCNet, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    maps = method.e.encode(batch.x["strong"])
    against = method.against.score(method.against.features(maps, method.e.decode(maps)[-1]))
    return method.v(batch.x["strong"]), Evidence(method.e(batch.x["strong"]), against).logits


def test_each_learns_what_the_other_would_draw_by_trust_and_agreement() -> None:
    batch, method = make_batch(), undecided(most=0.6)
    method.quality.copy_(torch.tensor([0.9, 0.3]))
    z_v, z_e = logits(method, batch)
    a, b = (z_v > 0) & batch.valid[:, None], (z_e > 0) & batch.valid[:, None]
    s = 2 * (a & b).sum((2, 3, 4)) / (a.sum((2, 3, 4)) + b.sum((2, 3, 4)))
    r = torch.where(s < 0.1, 0, s.clamp_max(0.6)) * ~batch.known
    assert ((r > 0) & (r < 0.6)).any()
    terms = method(batch, LATE)
    for one, z, drawn, trust in (("v", z_v, z_e > 0, 0.25), ("e", z_e, z_v > 0, 0.75)):
        cross, overlap = (loss(z, drawn, trust * r, batch.valid) for loss in (partial_bce, case_dice))  # type: ignore[operator]
        assert mean(terms[f"cross_{one}"]) == pytest.approx(mean(cross), rel=1e-4)
        assert mean(terms[f"overlap_{one}"]) == pytest.approx(mean(overlap), rel=1e-4)
        assert terms[f"cross_{one}"].weight == pytest.approx(0.1)  # type: ignore[union-attr]


def test_evidence_starts_undecided() -> None:
    z_v, z_e = logits(made(QDCNet), make_batch())
    assert z_v.sigmoid().median().item() == pytest.approx(PRIOR, abs=0.02)
    assert z_e.sigmoid().median().item() == pytest.approx(0.5, abs=0.1)


def test_where_one_network_draws_nothing_nobody_learns() -> None:
    method = undecided()
    with torch.no_grad():
        method.v.head.classifier.bias.fill_(-50)  # type: ignore[operator, union-attr]
    terms = method(make_batch(), LATE)
    for name in ("cross_v", "cross_e", "overlap_v", "overlap_e"):
        assert (terms[name].total, terms[name].count) == (0, 0)  # type: ignore[union-attr]


def test_quality_follows_the_dice_of_all_ranks() -> None:
    method = undecided(momentum=0.9)
    # Overlap, size and reference of (v, e), three ROIs, the last without a reference voxel, from two ranks.
    v = torch.tensor([[1.0, 2.0, 0.0], [4.0, 10.0, 3.0], [2.0, 5.0, 0.0]])
    rows = torch.stack([torch.stack([v, 0 * v]), torch.stack([v, v])])
    method.remember({"quality": rows})
    dice = (2 * 2 / 8 + 2 * 4 / 20) / 2, (2 * 1 / 4 + 2 * 2 / 10) / 2
    assert method.quality.tolist() == pytest.approx([0.9 * 0.5 + 0.1 * d for d in dice], rel=1e-5)


def test_the_step_tells_its_dice_and_without_labels_quality_stays() -> None:
    method = undecided()
    memo = method(make_batch(known=False), LATE)["quality"]
    assert isinstance(memo, Memo)
    method.remember({"quality": memo.rows})
    assert method.quality.tolist() == [0.5, 0.5]
    learnt = method(make_batch(known=True), LATE)
    memo = learnt["quality"]
    assert isinstance(memo, Memo)
    assert torch.equal(memo.rows[0, 1], learnt["dice_e"].sums.detach())  # type: ignore[union-attr]

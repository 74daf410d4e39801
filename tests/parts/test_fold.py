"""Chunks of ROIs give what all ROIs together give."""

import pytest
import torch
from torch import Tensor

from gleanseg.engine.terms import combine
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.parts import fold
from gleanseg.parts.fold import carrying, over_rois, sum_over_rois
from gleanseg.types import Monitor, Progress, Term
from support.batches import make_batch, small_network


def loss_and_gradients(budget: int, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Tensor], list[Tensor], int]:
    monkeypatch.setattr(fold, "_BUDGET", budget)
    torch.manual_seed(0)
    net, batch = small_network(), make_batch()
    features = net.features(batch.x["weak"])
    sizes = []

    def terms(r: Tensor) -> dict[str, Term]:
        sizes.append(len(r))
        z, y, known = net.score(features, r), batch.y(r), batch.known[:, r]
        return {
            "dice": pooled_dice(z, y, known, batch.valid),
            "ce": partial_bce(z, y, known, batch.valid),
            "share": Monitor(known.sum().float(), torch.tensor(float(known.numel()))),
        }

    found = over_rois(terms, batch, torch.arange(3))
    loss, values = combine(found, world=1, all_reduce=lambda t: t)
    gradients = list(torch.autograd.grad(loss, list(net.parameters()), allow_unused=True))
    share = found["share"]
    assert isinstance(share, Monitor)
    assert share.count.item() == batch.known.numel()
    return values, [g for g in gradients if g is not None], max(sizes)


def test_chunks_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, gradients, at_once = loss_and_gradients(2**24, monkeypatch)
    assert at_once == 3
    parts, gradients_of_parts, at_once = loss_and_gradients(1, monkeypatch)
    assert at_once == 1
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value)
    for one, other in zip(gradients, gradients_of_parts, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_a_sum_of_chunks_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, weight = make_batch(), torch.tensor([1.0, 2.0, 4.0], requires_grad=True)

    def part(r: Tensor) -> Tensor:
        sizes.append(len(r))
        return (weight[r] ** 2).sum()[None]

    for budget, wanted in ((2**24, 3), (1, 1)):
        monkeypatch.setattr(fold, "_BUDGET", budget)
        sizes: list[int] = []
        total = sum_over_rois(part, batch)
        assert max(sizes) == wanted
        assert total.item() == 21
        assert torch.autograd.grad(total, weight)[0].tolist() == [2, 4, 8]


def test_rois_that_nobody_knows_carry_no_supervision() -> None:
    batch = make_batch()
    known = batch.known.clone()
    known[:, 1] = False
    batch = batch._replace(known=known)
    start = Progress(0, 10)
    assert carrying(batch, start, unknown=False).tolist() == [0, 2]
    assert carrying(batch, start, unknown=True).tolist() == [0, 1, 2]
    assert carrying(make_batch(known=False), start, unknown=False).tolist() == []


def test_a_draw_among_unknown_rois_changes_with_the_step_and_keeps_known_ones() -> None:
    batch = make_batch()._replace(known=torch.zeros(4, 20, dtype=torch.bool))
    batch.known[0, 7] = True
    drawn = [carrying(batch, Progress(step, 10), unknown=True, rois_per_step=3).tolist() for step in range(5)]
    assert all(len(rois) == 4 and 7 in rois and rois == sorted(set(rois)) for rois in drawn)
    assert len({tuple(rois) for rois in drawn}) > 1
    other_rows = batch._replace(key=batch.key + 1)  # of another rank: the step alone decides
    assert drawn == [carrying(other_rows, Progress(i, 10), unknown=True, rois_per_step=3).tolist() for i in range(5)]

"""Axes: B cases, C channels, R ROIs, Z Y X voxels."""

import pytest
import torch
from torch import Tensor

from gleanseg.parts import fold
from gleanseg.parts.adversary import Critic, critic_optimizer, frozen
from support.batches import NUM_ROIS, make_batch

BATCH = make_batch()
X, P = BATCH.x["weak"], BATCH.y()


def critic(**options: float) -> Critic:
    torch.manual_seed(0)
    return Critic(1, NUM_ROIS, width=4, **options)  # type: ignore[arg-type]


def scores(one: Critic, maps: Tensor = P, x: Tensor = X, *, learns: bool = False) -> Tensor:
    return one(x, lambda r: maps[:, r], BATCH, learns=learns)


def test_parameters_are_those_of_the_published_layout() -> None:
    count = sum(p.numel() for p in Critic(1, 1).parameters())
    assert count == 11_020_290 - 64 - 513  # a second bias in the first layer, and one of two logits


def test_it_sees_predictions_and_image() -> None:
    one = critic()
    assert scores(one).shape == (4, NUM_ROIS)
    assert not torch.equal(scores(one), scores(one, maps=1 - P))
    assert not torch.equal(scores(one), scores(one, x=X + 1))


def test_chunks_of_rois_are_judged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one, maps = critic(), P.clone().requires_grad_()
    whole = scores(one, maps)
    (gradient,) = torch.autograd.grad(whole.sum(), maps)
    monkeypatch.setattr(fold, "_BUDGET", 1)
    parts = scores(one, maps)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts.sum(), maps)[0], gradient)


@pytest.mark.parametrize("size", [(16, 16, 16), (2, 40, 24), (5, 9, 33), (1, 1, 1)])
def test_patches_of_any_size(size: tuple[int, int, int]) -> None:
    one = critic()
    x, maps = torch.randn(4, 1, *size), torch.rand(4, NUM_ROIS, *size)
    assert one(x, lambda r: maps[:, r], BATCH, learns=True).shape == (4, NUM_ROIS)


def test_drop_out_is_the_rows_own_and_only_for_who_learns() -> None:
    one = critic()
    assert not torch.equal(scores(one, learns=True), scores(one))
    assert torch.equal(scores(one, learns=True), scores(one, learns=True))
    torch.testing.assert_close(scores(critic(dropout=0.0), learns=True), scores(one))


def test_a_frozen_one_judges_alike_and_learns_nothing() -> None:
    one, maps = critic(), P.clone().requires_grad_()
    still = frozen(one)
    assert torch.equal(scores(still, maps), scores(one))
    scores(still, maps).sum().backward()
    assert maps.grad is not None
    assert maps.grad.abs().max() > 0
    assert all(p.grad is None for p in one.parameters())
    with torch.no_grad():
        one.linear.bias.add_(1)
    assert torch.equal(scores(still), scores(one)), "it shares the weights"


def test_its_optimiser_is_adam_at_a_constant_rate() -> None:
    config = critic_optimizer(1e-4)
    assert (config.name, config.lr, config.weight_decay, config.schedule) == ("adamw", 1e-4, 0.0, "constant")

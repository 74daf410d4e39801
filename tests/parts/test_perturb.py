"""Axes: B cases, C channels, Z Y X voxels."""

import pytest
import torch

from gleanseg.parts.perturb import channel_dropout, feature_drop, feature_dropout, feature_noise

KEY = torch.tensor([5, 6])
MAP = torch.rand(2, 6, 8, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1

KINDS = {
    "noise": lambda m, key=KEY, salt=0: feature_noise(m, key, 0.3, salt=salt),
    "dropout": lambda m, key=KEY, salt=0: feature_dropout(m, key, 0.3, salt=salt),
    "channels": lambda m, key=KEY, salt=0: channel_dropout(m, key, 0.5, salt=salt + 2),
    "drop": lambda m, key=KEY, salt=0: feature_drop(m, key, (0.7, 0.9), salt=salt),
}
every_kind = pytest.mark.parametrize("kind", sorted(KINDS))


@every_kind
def test_draws_are_the_rows_own(kind: str) -> None:
    perturb = KINDS[kind]
    found = perturb(MAP)
    assert torch.equal(found, perturb(MAP))
    assert torch.equal(found[1:], perturb(MAP[1:], KEY[1:]))
    assert not torch.equal(found, perturb(MAP, salt=1))
    twice = MAP[:1].expand(2, -1, -1, -1, -1).contiguous()
    assert not torch.equal(perturb(twice)[0], perturb(twice)[1])


@every_kind
def test_draws_depend_on_neither_precision_nor_memory_format(kind: str) -> None:
    perturb = KINDS[kind]
    found = perturb(MAP)
    torch.testing.assert_close(perturb(MAP.double()).float(), found)
    last = perturb(MAP.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last, found)
    assert last.is_contiguous(memory_format=torch.channels_last_3d)


@every_kind
def test_gradients_pass(kind: str) -> None:
    one = MAP.clone().requires_grad_()
    KINDS[kind](one).sum().backward()
    assert one.grad is not None
    assert one.grad.abs().max() > 0


def test_noise_is_a_share_of_the_activation() -> None:
    factor = feature_noise(MAP, KEY, 0.3, salt=0) / MAP
    assert 0.7 - 1e-5 <= float(factor.min()) < 0.71
    assert 1.29 < float(factor.max()) <= 1.3 + 1e-5
    assert float(factor.mean()) == pytest.approx(1.0, abs=0.01)


def test_dropout_keeps_the_mean() -> None:
    found = feature_dropout(MAP, KEY, 0.3, salt=0)
    assert float((found == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    torch.testing.assert_close(found[found != 0], MAP[found != 0] / 0.7)


def test_whole_channels_are_dropped() -> None:
    one = MAP[:1].repeat(1, 100, 1, 1, 1)
    found = channel_dropout(one, KEY[:1], 0.3, salt=0)
    dropped = (found == 0).flatten(2).all(2)[0]
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.06)
    torch.testing.assert_close(found[:, ~dropped], one[:, ~dropped] / 0.7)


def test_the_most_active_places_are_dropped() -> None:
    one = torch.full((1, 2, 1, 1, 4), 0.1)
    one[0, :, 0, 0, 1] = 1.0
    one[0, 0, 0, 0, 2] = 1.5  # on average 0.8
    one[0, 1, 0, 0, 3] = 1.3  # on average 0.7
    found = feature_drop(one, KEY[:1], (0.75, 0.75), salt=0)
    assert (found == 0).all(1)[0, 0, 0].tolist() == [False, True, True, False]
    assert torch.equal(found[..., [0, 3]], one[..., [0, 3]])

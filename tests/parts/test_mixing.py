"""Boxes that are pasted, put back and drawn from keys."""

import pytest
import torch
from torch import nn

from gleanseg.networks.vnet import VNet
from gleanseg.parts.mixing import clipped_noise, draw_copy_paste, draw_cutmix, labels_where_known, uniform_noise
from gleanseg.parts.modes import batch_statistics, quiet_features, untracked
from support.batches import make_batch


def test_labelled_rows_stay_and_unlabelled_ones_swap_one_box() -> None:
    batch = make_batch(rows=5, num_labelled=2)
    box = draw_cutmix(batch)
    assert box.mixes
    assert box.partner_B.tolist() == [0, 1, 3, 4, 2]
    x = torch.arange(5.0)[:, None, None, None, None].expand(5, 1, 16, 16, 16)
    mixed = box.paste(x)
    assert torch.equal(mixed[:2], x[:2])
    for row, partner in ((2, 3), (3, 4), (4, 2)):
        assert (mixed[row, 0][box.inside_ZYX] == partner).all()
        assert (mixed[row, 0][~box.inside_ZYX] == row).all()


def test_undo_puts_every_box_back() -> None:
    batch = make_batch(rows=5, num_labelled=1, seed=3)
    box = draw_cutmix(batch)
    x = torch.randn(5, 2, 16, 16, 16)
    assert torch.equal(box.undo(box.paste(x)), x)
    assert not torch.equal(box.paste(x), x)


def test_the_box_has_the_share_that_beta_draws() -> None:
    shares = []
    for seed in range(300):
        box = draw_cutmix(make_batch(rows=3, num_labelled=1, seed=seed))
        shares.append(float(box.inside_ZYX.float().mean()))
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.05)  # uniform in (0, 1)
    assert min(shares) < 0.1
    assert max(shares) > 0.9


@pytest.mark.parametrize("rows", [2, 3])
def test_fewer_than_two_unlabelled_rows_are_not_mixed(rows: int) -> None:
    box = draw_cutmix(make_batch(rows=rows, num_labelled=2))
    assert not box.mixes
    x = torch.randn(rows, 1, 16, 16, 16)
    assert torch.equal(box.paste(x), x)


def test_draws_come_from_the_keys_alone() -> None:
    one, same, other = (draw_cutmix(make_batch(seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one.inside_ZYX, same.inside_ZYX)
    assert not torch.equal(one.inside_ZYX, other.inside_ZYX)


@pytest.mark.parametrize(
    ("rows", "num_labelled", "partners"),
    [
        (4, 2, [2, 3, 1, 0]),  # nobody gives a box to whom it takes one from
        (5, 2, [2, 3, 1, 0, 1]),
        (4, 3, [3, 3, 3, 1]),
        (3, 3, [1, 2, 0]),
        (3, 0, [1, 2, 0]),
    ],
)
def test_copy_paste_goes_both_ways(rows: int, num_labelled: int, partners: list[int]) -> None:
    assert draw_copy_paste(make_batch(rows=rows, num_labelled=num_labelled), 2 / 3).partner_B.tolist() == partners


def test_copied_boxes_have_two_thirds_of_each_side_and_lie_anywhere() -> None:
    firsts = set()
    for seed in range(60):
        inside = draw_copy_paste(make_batch(rows=2, num_labelled=1, seed=seed), 2 / 3).inside_ZYX
        along_z = inside.flatten(1).any(1)
        assert (int(inside.sum()), int(along_z.sum())) == (10**3, 10)
        firsts.add(int(along_z.int().argmax()))
    assert firsts == set(range(7))


def test_regions_show_the_sources() -> None:
    batch = make_batch(seed=2)
    mix = draw_copy_paste(batch, 2 / 3)
    x = torch.arange(4.0)[:, None, None, None].expand(4, 16, 16, 16)
    seen, sources, mixed = mix.regions(batch.valid), mix.sources(x), mix.paste(x)
    assert torch.equal((seen[:4] | seen[4:]), mix.paste(batch.valid))
    assert not (seen[:4] & seen[4:]).any()
    for region in (slice(0, 4), slice(4, 8)):
        assert torch.equal(mixed[seen[region]], sources[region][seen[region]])


def test_noise_is_uniform_and_differs_by_row_and_salt() -> None:
    like, key = torch.zeros(2, 1, 16, 16, 16), torch.tensor([5, 6])
    noise = uniform_noise(like, key, 0.2, salt=0)
    assert noise.abs().max() <= 0.2
    assert float(noise.std()) == pytest.approx(0.4 / 12**0.5, rel=0.03)
    assert torch.equal(noise, uniform_noise(like, key, 0.2, salt=0))
    assert torch.equal(noise[1:], uniform_noise(like[1:], key[1:], 0.2, salt=0))
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, uniform_noise(like, key, 0.2, salt=1))


def test_normal_noise_is_clipped() -> None:
    like, key = torch.zeros(2, 1, 16, 16, 16), torch.tensor([5, 6])
    noise = clipped_noise(like, key, 0.1, bound=0.2, salt=0)
    assert noise.abs().max() == torch.tensor(0.2)
    assert float((noise.abs() == torch.tensor(0.2)).float().mean()) == pytest.approx(0.0455, abs=0.006)
    assert float(noise.std()) == pytest.approx(0.0963, rel=0.03)  # of a normal variable clipped at two deviations
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(noise[1:], clipped_noise(like[1:], key[1:], 0.1, bound=0.2, salt=0))


def test_noise_is_the_same_in_every_precision_and_memory_format() -> None:
    like, key = torch.zeros(2, 3, 8, 8, 8), torch.tensor([5, 6])
    noise = uniform_noise(like, key, 0.2, salt=0)
    last = like.contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(noise, uniform_noise(last, key, 0.2, salt=0))
    assert torch.equal(noise.double(), uniform_noise(like.double(), key, 0.2, salt=0))
    assert torch.equal(noise.bfloat16(), uniform_noise(like.bfloat16(), key, 0.2, salt=0))


def test_labels_stand_in_where_they_are_known() -> None:
    y = torch.tensor([0.0, 1.0]).expand(1, 2, 1, 1, 2)
    z = torch.full((1, 2, 1, 1, 2), 0.5)
    found = labels_where_known(z, y, torch.tensor([[True, False]]))
    assert found[0, 0].sigmoid().flatten().tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    assert torch.equal(found[0, 1], z[0, 1])


def test_batch_statistics_leave_no_trace() -> None:
    torch.manual_seed(0)
    network = VNet(VNet.Config(width=2), in_channels=1, num_rois=1).train()
    x = torch.randn(2, 1, 32, 32, 32)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with batch_statistics(network):
        first, second = network(x), network(x)
    assert torch.equal(first, second)  # nothing is dropped
    network.eval()
    assert not torch.allclose(first, network(x), atol=1e-3)  # the running statistics are fresh
    network.train()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert all(m.track_running_stats for m in network.modules() if isinstance(m, nn.BatchNorm3d))
    (features,) = quiet_features(network, x)
    assert not features.requires_grad


def test_batch_statistics_may_leave_drop_out_on() -> None:
    torch.manual_seed(0)
    network = VNet(VNet.Config(width=2), in_channels=1, num_rois=1).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    (first,), (second,) = (quiet_features(network, torch.ones(2, 1, 32, 32, 32), dropout=True) for _ in range(2))
    assert not torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_further_passes_in_training_leave_running_statistics_alone() -> None:
    torch.manual_seed(0)
    network = VNet(VNet.Config(width=2), in_channels=1, num_rois=1).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = torch.randn(2, 1, 32, 32, 32)
    with untracked(network):
        assert not torch.equal(network(x), network(x)), "drop-out stays on"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network(x)
    assert not all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

"""What MC-Net+ and CauSSL promise beyond the contracts."""

import pytest
import torch
from torch import Tensor

from gleanseg.engine.terms import combine
from gleanseg.losses.bce import partial_bce
from gleanseg.methods.caussl import CauSSL
from gleanseg.methods.mcnet_plus import MCNetPlus
from gleanseg.parts.method import Method
from gleanseg.types import Batch
from support.batches import make_batch
from support.steps import LATE, made, values


def logits(method: Method, batch: Batch) -> list[Tensor]:
    branches, net = method.branches, method.net
    return branches.scores(net, branches.features(net, net.encoded(batch.x["strong"])))  # type: ignore[union-attr, operator]


def distance(p: Tensor, q: Tensor, pairs_BR: Tensor, valid: Tensor) -> float:
    """Mean over pairs of the mean over valid voxels."""
    squares = [(p[b, r] - q[b, r])[valid[b]].square().mean() for b, r in pairs_BR.nonzero().tolist()]
    return float(torch.stack(squares).mean().detach())


@pytest.mark.parametrize(("cls", "tau"), [(MCNetPlus, 0.1), (CauSSL, 0.5)])
def test_every_decoder_imitates_every_other_one_sharpened(cls: type[Method], tau: float) -> None:
    method, batch = made(cls), make_batch()
    p = [z.sigmoid() for z in logits(method, batch)]
    sharp = [q ** (1 / tau) / (q ** (1 / tau) + (1 - q) ** (1 / tau)) for q in p]
    pairs = torch.ones_like(batch.known) if cls is MCNetPlus else ~batch.known
    found = values(method, batch)
    agreeing = {name: value for name, value in found.items() if name.startswith("agree")}
    assert sorted(agreeing) == ["agree_01", "agree_02", "agree_10", "agree_12", "agree_20", "agree_21"]
    for name, value in agreeing.items():
        i, j = int(name[-2]), int(name[-1])
        assert value == pytest.approx(distance(p[i], sharp[j], pairs, batch.valid), rel=1e-4)


@pytest.mark.parametrize("cls", [MCNetPlus, CauSSL])
def test_every_decoder_learns_from_labels_and_counts_half(cls: type[Method]) -> None:
    method, batch = made(cls), make_batch()
    terms, found = method(batch, LATE), values(method, batch)
    for i, z in enumerate(logits(method, batch)):
        ce = partial_bce(z, batch.y(), batch.known, batch.valid)
        assert found[f"ce_{i}"] == pytest.approx(float((ce.total / ce.count).detach()), rel=1e-5)
        assert terms[f"dice_{i}"].weight == terms[f"ce_{i}"].weight == 0.5  # type: ignore[union-attr]


def test_dice_may_stand_alone() -> None:
    assert not [name for name in values(made(MCNetPlus, ce=0.0), make_batch()) if name.startswith("ce")]


def test_mcnet_has_two_decoders() -> None:
    assert {"dice_1", "agree_10"} <= set(found := values(made(MCNetPlus, decoders=2), make_batch()))
    assert "dice_2" not in found


def test_known_rois_agree_as_published_or_not() -> None:
    batch = make_batch(known=True)
    assert values(made(MCNetPlus), batch)["agree_01"] > 0
    assert values(made(MCNetPlus, everywhere=False), batch)["agree_01"] == 0


@pytest.mark.parametrize("both_ways", [False, True])
def test_targets_move_only_as_released(both_ways: bool) -> None:
    method, batch = made(MCNetPlus, both_ways=both_ways), make_batch(known=False)
    terms = {name: term for name, term in method(batch, LATE).items() if name.endswith("_01")}
    loss, found = combine(terms, world=1, all_reduce=lambda t: t)
    loss.backward()
    weight = method.branches[0].head.classifier.weight  # type: ignore[index, union-attr, operator]
    assert (weight.grad is not None) == both_ways
    if both_ways:
        assert set(found) == {"agree_01"}
        # the gradient of one expression in which both predictions live
        z = logits(method, batch)
        pairs = torch.ones_like(batch.known)
        squares = [
            (z[0][b, r].sigmoid() - (z[1][b, r] / 0.1).sigmoid())[batch.valid[b]].square().mean()
            for b, r in pairs.nonzero().tolist()
        ]
        (wanted,) = torch.autograd.grad(torch.stack(squares).mean(), weight)
        torch.testing.assert_close(weight.grad, wanted, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("independent", "moved"), [("all", [True, True, True]), ("first", [True, False, False])])
def test_decoders_move_away_from_each_other(independent: str, moved: list[bool]) -> None:
    method = made(CauSSL, independent=independent)
    terms = {k: term for k, term in method(make_batch(), LATE).items() if k.startswith("dependence")}
    loss, found = combine(terms, world=1, all_reduce=lambda t: t)
    loss.backward()
    decoders = [method.net.decoder, *(branch.decoder for branch in method.branches)]  # type: ignore[union-attr]
    assert [any(p.grad is not None for p in decoder.parameters()) for decoder in decoders] == moved  # type: ignore[union-attr]
    assert all(p.grad is None for p in method.net.encoder.parameters())  # type: ignore[union-attr]
    assert all(0 < float(value) < 1 for value in found.values())
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    after = values(method, make_batch())
    assert all(after[name] < float(value) for name, value in found.items())


def test_up_steps_do_not_count() -> None:
    from gleanseg.networks.vnet import VNet
    from gleanseg.parts.branches import Branches
    from gleanseg.parts.independence import shared_convolutions

    net = VNet(VNet.Config(width=2), in_channels=1, num_rois=1)
    branches = Branches(lambda: VNet(VNet.Config(width=2), in_channels=1, num_rois=1), 3, kernel=1)
    assert len(shared_convolutions([net.decoder, *(b.decoder for b in branches)])) == 9
    assert len(shared_convolutions([net.head, *(b.head for b in branches)])) == 1

"""What co-training promises: who teaches whom, where, and that both directions compare like with like."""

from dataclasses import dataclass, replace
from typing import final

import pytest
import torch
from torch import Tensor, nn

from gleanseg.engine.terms import combine
from gleanseg.methods.llm_segnet import LLMSegNet
from gleanseg.networks.network import Network
from gleanseg.parts.mixing import draw_cutmix
from gleanseg.types import Batch, Progress
from support.batches import NUM_ROIS, make_batch, small_blueprint

LATE = Progress(19, 20)


@final
class Pointwise(Network):
    """Each voxel's logits depend on that voxel alone, so that any shift between two networks' views shows."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    def __init__(self) -> None:
        super().__init__(self.Config(), channels=(1, 1), strides=((1, 1, 1), (2, 2, 2)), num_rois=NUM_ROIS)
        nn.init.constant_(self.head.get_parameter("classifier.weight"), 2.0)
        nn.init.zeros_(self.head.get_parameter("classifier.bias"))

    def encode(self, x_BCZYX: Tensor) -> list[Tensor]:
        return [x_BCZYX, nn.functional.avg_pool3d(x_BCZYX, 2)]

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        return [maps[0]]

    def new_decoder(self) -> nn.Module:
        return nn.Identity()


def made(*, pointwise: bool = False, **options: object) -> LLMSegNet:
    torch.manual_seed(0)
    blueprint = small_blueprint()
    if pointwise:
        blueprint = replace(blueprint, network=Pointwise)
    return LLMSegNet(blueprint, LLMSegNet.Config(**options))  # type: ignore[arg-type]


def values(method: LLMSegNet, batch: Batch) -> dict[str, float]:
    _, found = combine(method(batch, LATE), world=1, all_reduce=lambda t: t)
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("cutmix", ["clean", "unmix", "off"])
def test_equal_networks_that_see_each_voxel_alone_have_nothing_to_teach(cutmix: str) -> None:
    batch = make_batch(rows=5, num_labelled=2, known=False)
    assert draw_cutmix(batch).mixes
    found = values(made(pointwise=True, noise=0.0, unsupervised="mse", cutmix=cutmix), batch)
    assert found["unified_a"] == pytest.approx(0, abs=1e-10)
    assert found["unified_b"] == pytest.approx(0, abs=1e-10)


def test_a_pseudo_label_of_the_unmixed_patch_would_show() -> None:
    """The test above can fail: B's mixed prediction against A's whole one is far off."""
    batch = make_batch(rows=5, num_labelled=2, known=False)
    net, box = Pointwise(), draw_cutmix(batch)
    x = batch.x["weak"]
    assert (net(box.paste(x)).sigmoid() - net(x).sigmoid()).square().mean() > 1e-3


def test_noise_differs_between_the_networks() -> None:
    batch = make_batch(known=False)
    assert values(made(pointwise=True, unsupervised="mse", cutmix="off"), batch)["unified_a"] > 1e-4


def test_each_network_learns_from_the_other_only() -> None:
    method = made(cutmix="clean")
    terms = method(make_batch(rows=5, num_labelled=2, known=False), LATE)
    for term, learner, teacher in (("unified_a", method.a, method.b), ("unified_b", method.b, method.a)):
        method.zero_grad()
        terms[term].total.backward(retain_graph=True)  # type: ignore[union-attr]
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in learner.parameters())
        assert all(p.grad is None or p.grad.abs().max() == 0 for p in teacher.parameters())


def test_known_rois_learn_from_labels_and_unknown_ones_from_the_other_network() -> None:
    known = values(made(), make_batch(known=True))
    assert known["unified_a"] == known["unified_b"] == 0
    assert min(known[name] for name in ("dice_a", "dice_b", "ce_a", "ce_b")) > 0
    unknown = values(made(), make_batch(known=False))
    assert unknown["dice_a"] == unknown["ce_b"] == 0
    assert min(unknown["unified_a"], unknown["unified_b"]) > 0


def test_a_label_that_the_box_brings_stands_in_for_the_pseudo_label() -> None:
    """One row knows, its partner does not: in the known row's pasted part A teaches, elsewhere the label does."""
    batch = make_batch(rows=2, num_labelled=0, known=False)
    known = batch.known.clone()
    known[0] = True
    batch = batch._replace(known=known, valid=torch.ones_like(batch.valid))
    method = made(pointwise=True, noise=0.0, unsupervised="mse")
    found = values(method, batch)
    assert found["dice_b"] == found["ce_b"] == 0  # neither mixed row is known throughout
    assert found["ce_a"] > 0
    box, y = draw_cutmix(batch), batch.y()
    p = method.a(batch.x["weak"]).sigmoid()
    teacher = torch.where(known[:, :, None, None, None], y, p)
    expected = (box.paste(p) - box.paste(teacher)).square().mean((2, 3, 4)).mean()
    assert found["unified_b"] == pytest.approx(float(expected.detach()), rel=1e-4)
    assert expected > 1e-3


def test_the_ablations_drop_their_terms() -> None:
    batch = make_batch()
    assert "ce_a" not in values(made(supervised="dice"), batch)
    assert "dice_b" not in values(made(supervised="ce"), batch)


def test_gating_sends_undecided_rois_to_the_squared_distance() -> None:
    batch = make_batch(known=False)
    for roi, decided in ((0, True), (1, False), (2, True)):  # the stand-in: present, undecided, absent
        known = torch.ones_like(batch.known)
        known[:, roi] = False
        found = values(made(gated=True), batch._replace(known=known))
        assert (found["unified_a"] > 0) is decided
        assert (found["ambiguous_a"] > 0) is not decided
        assert (found["ambiguous_b"] > 0) is not decided
    assert made().needs_presence(LLMSegNet.Config(gated=True))
    assert not made().needs_presence(LLMSegNet.Config())


def test_the_second_pass_leaves_the_running_statistics_alone() -> None:
    """One update of batch norm per step, from the mixed batch that B learns on."""
    from gleanseg.networks.vnet import VNet

    def network() -> Network:
        return VNet(VNet.Config(width=2, dropout=0.0), in_channels=1, num_rois=NUM_ROIS)

    batch = make_batch(rows=4, num_labelled=0, known=False)
    large = batch._replace(
        x={"weak": batch.x["weak"].repeat(1, 1, 2, 2, 2)},
        codes=batch.codes.repeat(1, 2, 2, 2),
        valid=batch.valid.repeat(1, 2, 2, 2),
    )
    torch.manual_seed(0)
    method = LLMSegNet(replace(small_blueprint(), network=network), LLMSegNet.Config(cutmix="clean"))
    method.train()(large, LATE)
    counts = {int(v) for k, v in method.b.state_dict().items() if k.endswith("num_batches_tracked")}
    assert counts == {1}

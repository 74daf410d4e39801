"""What DTC, SASSNet, URPC and DAN promise beyond the contracts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from gleanseg.config import OptimizerConfig
from gleanseg.engine.terms import combine
from gleanseg.errors import UserError
from gleanseg.losses.dice import pooled_dice
from gleanseg.methods.dan import DAN
from gleanseg.methods.dtc import DTC
from gleanseg.methods.sassnet import SASSNet
from gleanseg.methods.urpc import URPC
from gleanseg.networks.unet3d import UNet3D
from gleanseg.parts import fold
from gleanseg.parts.distance import signed_distances
from gleanseg.parts.method import Method
from gleanseg.types import Batch, Progress
from support.batches import NUM_ROIS, make_batch, small_blueprint
from support.ranks import TOTAL, make_trainer

LATE = Progress(20, 20)
ADVERSARIAL = pytest.mark.parametrize("cls", [SASSNet, DAN])


def made(cls: type[Method], **options: Any) -> Any:
    torch.manual_seed(0)
    if cls in (SASSNet, DAN):
        options.setdefault("critic_width", 4)
    return cls(small_blueprint(), cls.Config(**options)).train()


def values(method: Method, batch: Batch, player: str = "main") -> dict[str, float]:
    _, found = combine(method(batch, LATE, player), world=1, all_reduce=lambda t: t)
    return {name: float(value) for name, value in found.items()}


def predictions(method: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and distances."""
    maps = method.net.encode(x)
    last = method.net.decode(maps)[-1]
    return method.net.logits(maps, last), method.distance.classifier(last).tanh()


def voxel_means(x: Tensor, valid: Tensor) -> Tensor:
    """Of each pair, over valid voxels."""
    return (x * valid[:, None]).flatten(2).sum(2) / valid.flatten(1).sum(1)[:, None]


def moved(method: Method, terms: dict[str, Any]) -> set[str]:
    """Sub-modules that the terms move."""
    method.zero_grad()
    combine(terms, world=1, all_reduce=lambda t: t)[0].backward()
    return {n.split(".")[0] for n, p in method.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


@pytest.mark.parametrize("cls", [DTC, SASSNet, URPC, DAN])
def test_chunks_of_rois_equal_the_whole(cls: type[Method], monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = made(cls), make_batch()
    losses, gradients = [], []
    for budget in (2**24, 1):
        monkeypatch.setattr(fold, "_BUDGET", budget)
        loss, _ = combine(method(batch, LATE), world=1, all_reduce=lambda t: t)
        losses.append(loss.detach())
        found = torch.autograd.grad(loss, list(method.parameters_of("main")), allow_unused=True)
        gradients.append(torch.cat([g.flatten() for g in found if g is not None]))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("cls", [DTC, SASSNet])
def test_known_pairs_teach_distances(cls: type[Method]) -> None:
    method, batch = made(cls), make_batch()
    z, s = predictions(method, batch.x["strong"])
    sdf = signed_distances(batch.y(), batch.known, batch.valid, batch.spacing_mm)
    found = values(method, batch)
    wanted = voxel_means((s - sdf).square(), batch.valid)[batch.known].mean()
    assert found["distance"] == pytest.approx(wanted.item(), rel=1e-4)
    dice = pooled_dice(z, batch.y(), batch.known, batch.valid, squared=True)
    assert found["dice"] == pytest.approx(dice.value(dice.sums).item(), rel=1e-4)
    assert values(method, make_batch(known=False))["distance"] == 0


def test_masks_and_distances_agree_on_all_pairs() -> None:
    method, batch = made(DTC, k=5.0), make_batch()
    z, s = predictions(method, batch.x["strong"])
    wanted = voxel_means((torch.sigmoid(-5 * s) - z.sigmoid()).square(), batch.valid).mean()
    assert values(method, batch)["agree"] == pytest.approx(wanted.item(), rel=1e-4)
    assert values(method, make_batch(known=True))["agree"] > 0
    assert moved(method, {"agree": method(batch, LATE)["agree"]}) == {"net", "distance"}


@ADVERSARIAL
def test_players_move_their_own(cls: type[Method]) -> None:
    method, batch = made(cls), make_batch()
    heads = {"net", "distance"} if cls is SASSNet else {"net"}
    assert moved(method, method(batch, LATE)) == heads
    assert moved(method, {"adversarial": method(batch, LATE)["adversarial"]}) == heads
    assert moved(method, method(batch, LATE, "critic")) == {"critic"}


@ADVERSARIAL
def test_only_unknown_pairs_deceive(cls: type[Method]) -> None:
    assert values(made(cls), make_batch(known=True))["adversarial"] == 0
    method, batch = made(cls), make_batch()
    head = method.distance if cls is SASSNet else method.net.head
    only_first = torch.ones_like(batch.known)
    only_first[:, 0] = False
    moved(method, {"adversarial": method(batch._replace(known=only_first), LATE)["adversarial"]})
    gradient = head.classifier.weight.grad
    assert gradient[0].abs().max() > 0
    assert not gradient[1:].any()


@ADVERSARIAL
def test_the_adversary_is_told_what_is_known(cls: type[Method]) -> None:
    method, batch = made(cls), make_batch(known=True)
    with torch.no_grad():
        method.critic.linear.weight.zero_()
        method.critic.linear.bias.fill_(3.0)
    assert values(method, batch, "critic")["critic"] == pytest.approx(0.0486, abs=1e-4)  # ln(1 + e^-3)
    assert values(method, make_batch(known=False), "critic")["critic"] == pytest.approx(3.0486, abs=1e-4)
    assert values(method, make_batch(known=False))["adversarial"] == pytest.approx(0.0486, abs=1e-4)


@ADVERSARIAL
def test_the_adversary_has_its_own_optimiser(cls: type[Method]) -> None:
    method, recipe = made(cls, critic_lr=3e-4), OptimizerConfig(name="sgd", lr=0.01)
    assert method.optimizer_of("main", recipe) == recipe
    assert method.optimizer_of("critic", recipe).lr == 3e-4
    trainer = make_trainer(cls, Fabric(accelerator="cpu", devices=1, precision="32-true"), optimizer="sgd")
    trainer.done = TOTAL // 2
    step = trainer.train_step([make_batch()], [], 0.0)
    rates = {player: optimizer.param_groups[0]["lr"] for player, optimizer in trainer.optimizers.items()}
    assert rates == {"main": step.lr, "critic": 1e-4}
    assert step.lr == pytest.approx(5e-3), "the recipe's falls to a half, the adversary's stays"


@ADVERSARIAL
def test_images_of_several_channels(cls: type[Method]) -> None:
    torch.manual_seed(0)
    build = replace(
        small_blueprint(),
        network=lambda: UNet3D(UNet3D.Config(width=4, levels=3), in_channels=2, num_rois=NUM_ROIS),
        num_channels=2,
    )
    batch = make_batch()
    batch = batch._replace(x={name: view.repeat(1, 2, 1, 1, 1) for name, view in batch.x.items()})
    method = cls(build, cls.Config(critic_width=4))
    assert set(values(method, batch)) >= {"dice", "adversarial"}
    assert set(values(method, batch, "critic")) == {"critic"}


def test_every_scale_learns_what_is_known() -> None:
    method, batch = made(URPC), make_batch()
    terms = method(batch, LATE)
    # The small network decodes at two scales: one further head.
    assert set(terms) == {"dice_0", "ce_0", "dice_1", "ce_1", "pyramid"}
    assert [terms[name].weight for name in ("dice_0", "ce_1", "pyramid")] == [0.25, 0.25, 0.1]
    assert moved(method, {"dice_0": terms["dice_0"]}) == {"net", "heads"}
    assert moved(method, {"ce_1": method(batch, LATE)["ce_1"]}) == {"net"}
    assert values(method, make_batch(known=True))["pyramid"] == 0


def test_scales_are_brought_to_the_full_grid() -> None:
    method, batch = made(URPC, dropout=(0.0,)), make_batch()
    coarse, _ = method.net.decode(method.net.encode(batch.x["strong"]))
    z = torch.nn.functional.interpolate(method.heads[0].classifier(coarse), scale_factor=2, mode="trilinear")
    dice = pooled_dice(z, batch.y(), batch.known, batch.valid)
    assert values(method, batch)["dice_0"] == pytest.approx(dice.value(dice.sums).item(), rel=1e-4)


def test_rates_are_those_of_the_finest_scales() -> None:
    assert made(URPC).rates == (0.2,)
    assert values(made(URPC, dropout=(0.9,)), make_batch())["ce_0"] != values(made(URPC), make_batch())["ce_0"]


def test_one_scale_cannot_agree_with_others() -> None:
    flat = replace(
        small_blueprint(),
        network=lambda: UNet3D(UNet3D.Config(width=4, levels=2), in_channels=1, num_rois=NUM_ROIS),
    )
    with pytest.raises(UserError, match="urpc: a network of two levels"):
        URPC(flat, URPC.Config())

"""What deep mutual distillation and mutual learning with reliable pseudo labels promise beyond the contracts."""

from copy import deepcopy
from functools import partial

import pytest
import torch

from gleanseg.losses.bce import bce_where
from gleanseg.losses.dice import mutual_dice
from gleanseg.methods.dmd import DMD
from gleanseg.methods.mlrpl import MLRPL
from gleanseg.networks.vnet import VNet
from gleanseg.parts.class_prototypes import reliability
from gleanseg.parts.method import Blueprint, Method
from gleanseg.rois.ontology import builtin
from support.batches import make_batch
from support.steps import LATE, made, mean, moved_by, values

TERM = {DMD: "distil", MLRPL: "mutual_1"}


@pytest.mark.parametrize("cls", [DMD, MLRPL])
def test_known_rois_are_left_out_only_where_asked(cls: type[Method]) -> None:
    assert values(made(cls), make_batch(known=True))[TERM[cls]] > 0
    assert values(made(cls, everywhere=False), make_batch(known=True))[TERM[cls]] == 0


@pytest.mark.parametrize("cls", [DMD, MLRPL])
def test_dice_alone_as_published(cls: type[Method]) -> None:
    weights = {name: term.weight for name, term in made(cls, ce=0.0)(make_batch(), LATE).items() if name[:2] == "ce"}
    assert set(weights.values()) == {0.0}
    assert len(weights) == 2


def test_networks_meet_at_the_temperature() -> None:
    method, batch = made(DMD, temperature=3.0), make_batch()
    a, b = (net(batch.x["strong"]) for net in (method.a, method.b))  # type: ignore[operator]
    everything = torch.ones_like(batch.known)
    term = mutual_dice(a, b, everything, batch.valid, temperature=3.0)
    found = values(method, batch)["distil"]
    assert found == pytest.approx(float(term.value(term.sums.detach())), rel=1e-5)
    assert found != pytest.approx(values(made(DMD), batch)["distil"], rel=1e-3)
    assert method(batch, LATE)["distil"].weight == 4.0  # type: ignore[union-attr]


def test_distillation_moves_both_networks() -> None:
    moved = moved_by(made(DMD), make_batch(known=False), "distil")
    assert {name.split(".")[0] for name in moved} == {"a", "b"}


def test_a_decoder_learns_what_the_surer_one_draws() -> None:
    method, batch = made(MLRPL), make_batch()
    assert isinstance(method, MLRPL)
    (other,) = method.branches
    maps = method.net.encode(batch.x["strong"])
    f_1, f_2 = method.net.decode(maps)[-1], other.decoder(maps)[-1]
    z_1, z_2 = method.net.logits(maps, f_1), other.score(other.features(maps))
    everything = torch.ones_like(batch.known)
    found = method(batch, LATE)
    for i, z, f_other, z_other in (("1", z_1, f_2, z_2), ("2", z_2, f_1, z_1)):
        surer = z.abs() < z_other.abs()
        r = reliability(f_other, z_other.sigmoid(), batch.valid)
        wanted = bce_where(z, z_other > 0, surer, r, everything, batch.valid)
        assert mean(found[f"mutual_{i}"]) == pytest.approx(mean(wanted), rel=1e-5)
        share = surer[batch.valid[:, None].expand_as(surer)].float().mean()
        assert mean(found[f"learns_{i}"]) == pytest.approx(float(share), rel=1e-5)


@pytest.mark.parametrize(("term", "other"), [("mutual_1", ("branches",)), ("mutual_2", ("net.decoder", "net.head"))])
def test_reliable_labels_teach_one_way(term: str, other: tuple[str, ...]) -> None:
    moved = moved_by(made(MLRPL), make_batch(known=False), term)
    assert any(name.startswith("net.encoder") for name in moved)
    assert not any(name.startswith(other) for name in moved)


def test_equally_sure_decoders_teach_each_other_nothing() -> None:
    method = made(MLRPL)
    assert isinstance(method, MLRPL)
    (other,) = method.branches
    other.decoder, other.head = deepcopy(method.net.decoder), deepcopy(method.net.head)
    found = values(method, make_batch())
    assert (found["mutual_1"], found["mutual_2"]) == (0, 0)
    assert found["dice_1"] == found["dice_2"] > 0


def test_published_number_of_parameters() -> None:
    network = partial(VNet, VNet.Config(), in_channels=1, num_rois=2)
    method = MLRPL(
        Blueprint(network=network, rois=("liver", "spleen"), ontology=builtin()),
        MLRPL.Config(),
    )
    assert sum(p.numel() for p in method.parameters()) == 12_347_716

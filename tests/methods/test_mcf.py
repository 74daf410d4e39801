"""What mutual correction promises beyond the contracts."""

import pytest
import torch

from gleanseg.config import Named
from gleanseg.engine.terms import combine
from gleanseg.methods.mcf import MCF
from gleanseg.types import Batch, Progress
from support.batches import make_batch, small_blueprint

LATE = Progress(20, 20)


def made(**options: object) -> MCF:
    """Networks that disagree in many voxels."""
    torch.manual_seed(0)
    method = MCF(small_blueprint(), MCF.Config(**options)).train()
    with torch.no_grad():
        for network in (method.a, method.b):
            network.head.classifier.weight.mul_(3)  # type: ignore[union-attr, operator]
            network.head.classifier.bias.zero_()  # type: ignore[union-attr, operator]
    return method


def values(method: MCF, batch: Batch) -> dict[str, float]:
    _, found = combine(method(batch, LATE), world=1, all_reduce=lambda t: t)
    return {name: float(value) for name, value in found.items()}


def test_voxels_of_disagreement_are_learnt_again() -> None:
    method, batch = made(mu=0.25), make_batch()
    z = {"a": method.a(batch.x["strong"]).detach(), "b": method.b(batch.x["strong"]).detach()}
    counted = batch.known[:, :, None, None, None] & batch.valid[:, None] & ((z["a"] > 0) != (z["b"] > 0))
    assert 0 < int(counted.sum()) < int((batch.known[:, :, None, None, None] & batch.valid[:, None]).sum())
    found, terms = values(method, batch), method(batch, LATE)
    for who, logits in z.items():
        wanted = (logits.sigmoid() - batch.y())[counted].square().mean()
        assert found[f"again_{who}"] == pytest.approx(float(wanted), rel=1e-5)
        assert terms[f"again_{who}"].weight == 0.25  # type: ignore[union-attr]


def dice_lost(z: torch.Tensor, batch: Batch) -> list[float]:
    """1 - Dice of each ROI by hand, over all known cases."""
    lost = []
    for r in range(3):
        seen = batch.known[:, r, None, None, None] & batch.valid
        p, y = z[:, r].sigmoid()[seen], batch.y()[:, r][seen]
        lost.append(float(1 - 2 * (p * y).sum() / (p.sum() + y.sum())))
    return lost


def test_the_better_network_of_each_roi_teaches() -> None:
    method, batch = made(tau=0.5), make_batch(rows=6, num_labelled=3)
    z_a, z_b = method.a(batch.x["strong"]).detach(), method.b(batch.x["strong"]).detach()
    a_better = [a < b for a, b in zip(dice_lost(z_a, batch), dice_lost(z_b, batch), strict=True)]
    distances = []
    for row, roi in (~batch.known).nonzero().tolist():
        worse, better = (z_b, z_a) if a_better[roi] else (z_a, z_b)
        q = better[row, roi].sigmoid() ** 2
        q = q / (q + (1 - better[row, roi].sigmoid()) ** 2)
        distances.append((worse[row, roi].sigmoid() - q)[batch.valid[row]].square().mean())
    assert values(method, batch)["taught"] == pytest.approx(float(torch.stack(distances).mean()), rel=1e-4)
    share = method(batch, LATE)["a_teaches"]
    assert float(share.total) == sum(a_better)  # type: ignore[union-attr]


@pytest.mark.parametrize("better", ["a", "b"])
def test_the_better_network_is_not_taught(better: str) -> None:
    method, batch = made(), make_batch()
    with torch.no_grad():  # the worse one finds nothing at all
        worse = method.b if better == "a" else method.a
        worse.head.classifier.bias.fill_(-20)  # type: ignore[union-attr, operator]
    loss, _ = combine({"taught": method(batch, LATE)["taught"]}, world=1, all_reduce=lambda t: t)
    loss.backward()
    moved = {who for who in "ab" if any(p.grad is not None and p.grad.any() for p in getattr(method, who).parameters())}
    assert moved == {"a", "b"} - {better}


def test_rois_that_the_batch_does_not_hold_follow_the_others_and_ties_go_to_b() -> None:
    method, batch = made(), make_batch()
    features = method.a.features(batch.x["strong"]), method.b.features(batch.x["strong"])
    with torch.no_grad():
        method.b.head.classifier.bias.fill_(-20)  # type: ignore[union-attr, operator]
    known = batch.known.clone()
    known[:, 2] = False
    assert method._a_is_better(*features, batch._replace(known=known)).tolist() == [True, True, True]
    nothing = batch._replace(known=torch.zeros_like(known))
    assert method._a_is_better(*features, nothing).tolist() == [False, False, False]


def test_the_second_network_is_of_another_kind() -> None:
    assert MCF.Config().other == Named(name="vnet", encoder="resnet34")
    method = made()
    assert {name: p.shape for name, p in method.a.named_parameters()} != {
        name: p.shape for name, p in method.b.named_parameters()
    }

"""What SS-Net promises beyond the contracts."""

import pytest
import torch

from gleanseg.losses.consistency import disagreement
from gleanseg.methods.ss_net import SSNet
from gleanseg.types import Memo
from support.batches import NUM_ROIS, make_batch
from support.steps import LATE, made, mean, moved_by, sees_alike


def offered(method: SSNet, **options: object) -> torch.Tensor:
    memo = method(make_batch(**options), LATE)["memory"]  # type: ignore[arg-type]
    assert isinstance(memo, Memo)
    return memo.rows


def test_a_tiny_perturbation_leaves_the_disagreement_of_a_prediction_with_itself() -> None:
    batch = make_batch()
    method = made(SSNet, epsilon=1e-6)
    z = method.net(batch.x["strong"])
    own = disagreement(z, z, torch.ones_like(batch.known), batch.valid)
    smooth = method(batch, LATE)["smooth"]
    assert mean(smooth) == pytest.approx(mean(own), rel=1e-3)
    assert smooth.count == batch.known.numel()  # type: ignore[union-attr]


def test_the_perturbation_moves_more_than_a_random_one_of_its_size() -> None:
    batch = make_batch()
    method = made(SSNet, epsilon=0.3, xi=0.1)
    z = method.net(batch.x["strong"])
    random = 0.3 * torch.randn(z[:, :1].shape, generator=torch.Generator().manual_seed(0))
    by_chance = disagreement(method.net(batch.x["strong"] + random), z, torch.ones_like(batch.known), batch.valid)
    assert mean(method(batch, LATE)["smooth"]) > mean(by_chance)


def sees(method: SSNet, bias: float) -> SSNet:
    sees_alike(method.net, bias)
    return method


def test_known_and_correct_voxels_are_remembered() -> None:
    method = sees(made(SSNet, size=4), -1.0)
    assert not offered(method, known=False).any(), "what is unknown teaches nothing"
    rows = offered(method, known=True)
    assert rows.shape == (4, 2 * NUM_ROIS, 33)
    assert not rows[:, :NUM_ROIS].any(), "nothing is found, so no inside is correct"
    assert (rows[:, NUM_ROIS:, -1] > 0).all()
    method.remember({"memory": rows})
    assert torch.equal(method.memory, rows[..., :-1].transpose(0, 1))


def test_the_most_telling_rows_are_kept_and_the_least_telling_as_released() -> None:
    best, worst = (offered(sees(made(SSNet, size=2, released=r), 1.0), known=True)[..., -1] for r in (False, True))
    assert (best[:, :NUM_ROIS] > 0).all()
    assert (worst[:, :NUM_ROIS] > 0).all()
    assert (best[:, :NUM_ROIS] > 1 - worst[:, :NUM_ROIS]).all(), "the score of the least telling is 1 - theirs"


def test_as_released_the_outside_has_no_memory() -> None:
    assert offered(sees(made(SSNet), -1.0), known=True)[:, NUM_ROIS:].any()
    assert not offered(sees(made(SSNet, released=True), -1.0), known=True).any()


def test_features_are_pulled_once_something_is_remembered() -> None:
    method, batch = made(SSNet), make_batch()
    first = method(batch, LATE)
    assert first["contrast_known"].count == first["contrast_unknown"].count == 0  # type: ignore[union-attr]
    with torch.no_grad():
        method.memory[NUM_ROIS:] = 1.0
    terms = method(batch, LATE)
    assert terms["contrast_known"].count == batch.known.sum()  # type: ignore[union-attr]
    assert terms["contrast_unknown"].count == (~batch.known).sum()  # type: ignore[union-attr]
    assert 0 < mean(terms["contrast_known"]) < 2


def test_weights_of_the_terms() -> None:
    terms, released = (made(SSNet, lam=0.5, ce=0.3, released=r)(make_batch(), LATE) for r in (False, True))
    assert [terms[name].weight for name in ("dice", "ce", "smooth", "contrast_known")] == [1, 0.3, 0.5, 0.05]  # type: ignore[union-attr]
    assert released["contrast_unknown"].weight == 0.025  # type: ignore[union-attr]


def test_patches_known_not_to_hold_an_roi_teach_by_cross_entropy() -> None:
    batch = make_batch(known=True)
    method, empty = made(SSNet), batch._replace(table=torch.zeros_like(batch.table))
    assert moved_by(method, empty, "dice") == set()
    assert moved_by(method, empty, "ce")

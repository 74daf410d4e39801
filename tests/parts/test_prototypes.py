"""Axes: B cases, C channels, R ROIs, Z Y X voxels."""

import pytest
import torch
from torch.nn import functional

from gleanseg.parts.prototypes import partners, prototypes, resemblance
from support.batches import make_batch


def test_a_prototype_is_a_weighted_mean() -> None:
    one = torch.tensor([[1.0, 5.0], [2.0, 0.0]]).reshape(1, 2, 1, 1, 2)  # features (1, 2) and (5, 0)
    weight = torch.tensor([[3.0, 1.0], [0.0, 0.0]]).reshape(1, 2, 1, 1, 2)
    assert prototypes(one, weight).tolist() == [[[2.0, 1.5], [0.0, 0.0]]]


def test_weights_are_averaged_onto_a_coarser_map() -> None:
    one = torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 1, 2)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0]).reshape(1, 1, 1, 1, 4)
    assert prototypes(one, weight).item() == pytest.approx((1 * 1 + 0.5 * 2) / 1.5)


def test_voxels_resemble_by_direction_alone() -> None:
    f = torch.tensor([[4.0, 0.0], [0.0, 0.5]]).reshape(1, 2, 1, 1, 2)  # east, north
    inside, outside = torch.tensor([[[7.0, 0.0]]]), torch.tensor([[[-1.0, 0.0]]])
    z = resemblance(f, inside, outside, (1, 1, 2), scale=20.0)
    assert z.flatten().tolist() == pytest.approx([20 * (1 - -1), 0])
    p = functional.softmax(20 * torch.tensor([[1.0, -1.0]]), dim=1)[0, 0]
    assert z[..., 0].sigmoid().item() == pytest.approx(p.item())
    nothing = resemblance(f, torch.zeros_like(inside), outside, (1, 1, 2), scale=20.0)
    assert nothing.flatten().tolist() == pytest.approx([20, 0]), "an empty class resembles nothing"


def test_the_result_has_the_images_grid() -> None:
    f, c = torch.rand(2, 3, 2, 2, 2), torch.rand(2, 4, 3)
    assert resemblance(f, c, c.flip(1), (4, 6, 8), scale=1.0).shape == (2, 4, 4, 6, 8)


def test_rows_take_labelled_partners() -> None:
    found = {num: partners(make_batch(rows=6, num_labelled=num)).tolist() for num in (0, 1, 2, 3, 6)}
    assert found == {
        0: [0, 0, 0, 0, 0, 0],
        1: [0, 0, 0, 0, 0, 0],
        2: [1, 0, 0, 1, 0, 1],
        3: [1, 2, 0, 0, 1, 2],
        6: [1, 2, 3, 4, 5, 0],
    }

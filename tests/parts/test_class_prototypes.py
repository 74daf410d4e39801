"""Prototypes by hand. Axes: B cases, C channels, R ROIs, Z Y X voxels."""

import pytest
import torch
from torch import Tensor

from gleanseg.parts.class_prototypes import prototype_labels, reliability


def line(*values: float) -> Tensor:
    return torch.tensor(values).reshape(1, 1, 1, 1, -1)


def everywhere(like: Tensor) -> Tensor:
    return torch.ones_like(like[:, 0], dtype=torch.bool)


P = line(0.1, 0.1, 0.9, 0.9, 0.9, 0.1)
CERTAIN = line(1, 1, 1, 1, 0, 0) > 0


def test_the_nearer_prototype_labels() -> None:
    f = line(0.0, 0.0, 1.0, 1.0, 0.4, 0.6)  # prototypes at 0 and 1, made of the certain voxels
    found = prototype_labels(f, P, CERTAIN, everywhere(P))
    assert found.flatten().tolist() == [False, False, True, True, False, True]


def test_prototypes_are_weighted_by_probability() -> None:
    p, f = line(0.9, 0.6, 0.0, 0.0), line(1.0, 0.0, -1.0, -0.1)  # prototypes at 0.6 and -0.55, the middle at 0.025
    found = prototype_labels(f, p, torch.ones_like(p) > 0, everywhere(p))
    assert found.flatten().tolist() == [True, False, False, False]
    half = line(0.9, 0.9, 0.0, 0.0)  # prototypes at 0.5 and -0.55, the middle at -0.025
    assert prototype_labels(f, half, torch.ones_like(p) > 0, everywhere(p)).flatten()[1]


def test_without_a_certain_voxel_of_a_class_the_prediction_stays() -> None:
    f = line(0.0, 0.0, 1.0, 1.0, 0.4, 0.6)
    assert torch.equal(prototype_labels(f, P, CERTAIN & (P > 0.5), everywhere(P)), P > 0.5)
    valid = everywhere(P)
    valid[..., :2] = False
    assert torch.equal(prototype_labels(f, P, CERTAIN, valid), P > 0.5)


def test_a_coarser_map_is_stretched() -> None:
    p = torch.full((2, 3, 4, 4, 4), 0.1)
    p[..., 2:] = 0.9
    coarse = torch.zeros(2, 5, 2, 2, 2)
    coarse[..., 1] = 1.0
    assert torch.equal(prototype_labels(coarse, p, torch.ones_like(p) > 0, everywhere(p)), p > 0.5)


def test_likeness_that_tells_the_same_is_reliable() -> None:
    p = line(0.9, 0.8, 0.2, 0.1)
    f = torch.tensor([[2.0, 3.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]).reshape(1, 2, 1, 1, 4)
    found = reliability(f, p, everywhere(p))  # likeness 1, 1, 0, 0 to the ROI and 0, 0, 1, 1 to the rest
    assert found.flatten().tolist() == pytest.approx([0.99, 0.96, 0.96, 0.99])


def test_a_class_that_nothing_is_predicted_as_is_like_nothing() -> None:
    p = line(0.2, 0.4)
    found = reliability(torch.ones(1, 2, 1, 1, 2), p, everywhere(p))  # likeness 0 to the ROI and 1 to the rest
    assert found.flatten().tolist() == pytest.approx([0.96, 0.84])
    valid = everywhere(p)
    valid[..., 0] = False  # the mean feature is that of the second voxel
    f = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 1, 2)
    assert reliability(f, p, valid).flatten().tolist() == pytest.approx([1 - (0.04 + 0.64) / 2, 0.84])


def test_reliability_is_never_negative() -> None:
    p = line(1.0, 1.0, 1.0, 1.0, 0.0)
    f = torch.tensor([[1.0, 1.0, 1.0, -1.0, -1.0], [0.0] * 5]).reshape(1, 2, 1, 1, 5)
    found = reliability(f, p, everywhere(p)).flatten()
    assert found.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.0, 0.5])

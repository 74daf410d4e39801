"""Axes: B cases, R ROIs, Z Y X voxels."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from gleanseg.parts.distance import distance_head, signed_distances
from support.batches import NUM_ROIS, make_batch, small_network

SPACING = torch.tensor([[1.0, 1.0, 1.0]])


def row(values: list[int], *, valid: list[int] | None = None, spacing: Tensor = SPACING) -> list[float]:
    """Distances of one row of voxels."""
    y = torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, 1, -1)
    judged = torch.tensor(valid or [1] * len(values), dtype=torch.bool).reshape(1, 1, 1, -1)
    return signed_distances(y, torch.ones(1, 1, dtype=torch.bool), judged, spacing).flatten().tolist()


def test_a_row_by_hand() -> None:
    # Inside distances 1 2 3 2 1 over 3, the outermost voxels 0; outside 2 1 and 1 over 2.
    assert row([0, 0, 1, 1, 1, 1, 1, 0]) == pytest.approx([1, 0.5, 0, -2 / 3, -1, -2 / 3, 0, 0.5])


def test_the_patch_ends_where_nobody_knows() -> None:
    # An ROI that the patch's border cuts has no surface there.
    assert row([1, 1, 1, 0, 0]) == pytest.approx([-1, -2 / 3, 0, 0.5, 1])


def test_absent_is_outside_and_full_is_inside() -> None:
    assert row([0, 0, 0]) == [1, 1, 1]
    assert row([1, 1, 1]) == [-1, -1, -1]
    assert row([1, 0, 0], valid=[0, 1, 1])[1:] == [1, 1]


def test_what_nobody_judged_is_neither_inside_nor_outside() -> None:
    for unjudged in (0, 1):
        found = row([0, 0, unjudged, unjudged, 1, 1], valid=[1, 1, 0, 0, 1, 1])
        assert found[:2] == pytest.approx([1, 0.75])
        assert found[4:] == pytest.approx([-0.75, -1]), "its nearest outside voxel is 3 away, and none touches it"


def test_unknown_pairs_have_none() -> None:
    batch = make_batch()
    found = signed_distances(batch.y(), batch.known, batch.valid, batch.spacing_mm)
    assert found.dtype == torch.float32
    assert not found[~batch.known].any()
    assert found[batch.known].flatten(1).any(1).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.8, 0.8)])
def test_equals_the_formula_with_exact_transforms(spacing: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    masks = ndimage.gaussian_filter(rng.normal(size=(3, 9, 12, 14)), (0, 2, 2, 2)) > 0.02
    y = torch.from_numpy(masks)[:, None]
    valid, known = torch.ones(3, 9, 12, 14, dtype=torch.bool), torch.ones(3, 1, dtype=torch.bool)
    found = signed_distances(y, known, valid, torch.tensor([spacing] * 3))
    for mask, distances in zip(masks, found[:, 0], strict=True):
        out, inside = (ndimage.distance_transform_edt(m, sampling=spacing) for m in (~mask, mask))
        wanted = out / out.max() - inside / inside.max()
        wanted[mask & ~ndimage.binary_erosion(mask, border_value=1)] = 0
        np.testing.assert_allclose(distances.numpy(), wanted, atol=1e-5)


def test_a_head_starts_at_the_surface() -> None:
    net = small_network()
    head = distance_head(net)
    scores = head.score((torch.zeros(1, net.decoder_channels[-1], 2, 2, 2),))
    assert scores.shape == (1, NUM_ROIS, 2, 2, 2)
    assert not scores.any()

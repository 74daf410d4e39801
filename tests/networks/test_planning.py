"""Topologies by nnU-Net's rule of thumb; expected ones worked out by hand from the published rule."""

import pytest

from gleanseg import networks
from gleanseg.networks.planning import plan

ISO = (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("patch", "spacing", "strides", "kernels"),
    [
        # isotropic cube: 128 -> 64 -> 32 -> 16 -> 8 -> 4
        ((128, 128, 128), ISO, [(1, 1, 1)] + 5 * [(2, 2, 2)], 6 * [(3, 3, 3)]),
        # hippocampus in nnU-Net: 40 x 56 x 40 is halved three times on each axis
        ((40, 56, 40), ISO, [(1, 1, 1)] + 3 * [(2, 2, 2)], 4 * [(3, 3, 3)]),
        # thick slices: in-plane axes go first, with flat kernels, until the voxels are within a factor of two
        (
            (16, 64, 64),
            (4.0, 1.0, 1.0),
            [(1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)],
            [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
        ),
        # twice as thick is not within a factor of two
        (
            (8, 16, 16),
            (2.0, 1.0, 1.0),
            [(1, 1, 1), (1, 2, 2), (2, 2, 2)],
            [(1, 3, 3), (3, 3, 3), (3, 3, 3)],
        ),
        # one axis left over: 12 voxels are halved, 8 are not
        ((4, 4, 12), ISO, [(1, 1, 1), (1, 1, 2)], 2 * [(3, 3, 3)]),
        ((4, 4, 8), ISO, [(1, 1, 1)], [(3, 3, 3)]),
        ((7, 7, 7), ISO, [(1, 1, 1)], [(3, 3, 3)]),
    ],
)
def test_plan(
    patch: tuple[int, int, int],
    spacing: tuple[float, float, float],
    strides: list[tuple[int, int, int]],
    kernels: list[tuple[int, int, int]],
) -> None:
    topology = plan(patch, spacing)
    assert list(topology.strides) == strides
    assert list(topology.kernels) == kernels


@pytest.mark.parametrize("spacing", [ISO, (3.0, 1.0, 1.0), (0.8, 2.5, 0.5)])
def test_planning_from_the_legal_patch_gives_the_same_network(spacing: tuple[float, float, float]) -> None:
    for side in range(8, 70, 3):
        patch = (side, 61, 2 * side - 7)
        strides = plan(patch, spacing).strides
        legal = networks.legal_patch("plain_unet", {"width": 1}, patch_ZYX=patch, spacing_ZYX_mm=spacing)
        assert plan(legal, spacing).strides == strides
        assert all(abs(a - b) <= 16 for a, b in zip(patch, legal, strict=True))


def test_recipe_order_is_x_y_z() -> None:
    net = networks.build(
        "plain_unet", {"width": 2}, in_channels=1, num_rois=1, patch_ZYX=(4, 16, 16), spacing_ZYX_mm=(5.0, 1.0, 1.0)
    )
    assert net.config.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1))  # type: ignore[attr-defined]
    assert net.config.kernels[0] == (3, 3, 1)  # type: ignore[attr-defined]
    assert net.strides == ((1, 1, 1), (1, 2, 2), (1, 4, 4))

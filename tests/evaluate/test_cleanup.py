"""Post-processing of the MOTS protocols, on masks small enough to count."""

import numpy as np
import pytest
from numpy.typing import NDArray

from gleanseg.evaluate.cleanup import ProtocolMasks, clean
from gleanseg.evaluate.labels import Labels
from gleanseg.evaluate.protocol import Cleanup, Protocol

WHOLE = (slice(0, 20), slice(0, 20), slice(0, 20))
Mask = NDArray[np.bool_]


def blank(*boxes: tuple[slice, slice, slice]) -> Mask:
    mask = np.zeros((20, 20, 20), dtype=bool)
    for box in boxes:
        mask[box] = True
    return mask


def cube(start: int, side: int) -> tuple[slice, slice, slice]:
    return (slice(start, start + side),) * 3


def test_components_touch_by_edges_not_corners() -> None:
    corner, edge = np.zeros((2, 2, 2, 2), dtype=bool)
    corner[0, 0, 0] = corner[1, 1, 1] = True
    edge[0, 0, 0] = edge[0, 1, 1] = True
    kept = {}
    for name, mask in (("corner", corner), ("edge", edge)):
        for connectivity in (6, 18, 26):
            step = Cleanup(roi="liver", keep_largest=1, connectivity=connectivity)
            kept[name, connectivity] = int(clean(mask, step).sum())
    assert kept == {
        ("corner", 6): 1, ("corner", 18): 1, ("corner", 26): 2,
        ("edge", 6): 1, ("edge", 18): 2, ("edge", 26): 2,
    }  # fmt: skip


@pytest.mark.parametrize(("spare", "kept"), [(True, 27), (False, 0)])
def test_small_components(spare: bool, kept: int) -> None:
    step = Cleanup(roi="liver_tumor", drop_up_to=50, spare_single=spare)
    assert clean(blank(cube(1, 3)), step).sum() == kept  # alone, 27 voxels
    assert clean(blank(cube(1, 3), cube(10, 4)), step).sum() == 64  # beside a large one


def test_v1_organ_is_everything_and_its_largest_part() -> None:
    """The tumor enlarges the liver; then the largest component stays, and the tumor only inside it."""
    liver, inside, outside = cube(0, 8), cube(7, 4), cube(15, 4)
    labels = Labels.from_masks({"liver": blank(liver), "liver_tumor": blank(inside, outside)})
    masks = ProtocolMasks(labels, Protocol.load("mots-v1"))
    np.testing.assert_array_equal(masks.mask("liver", WHOLE), blank(liver, inside))
    np.testing.assert_array_equal(masks.mask("liver_tumor", WHOLE), blank(inside))
    v2 = ProtocolMasks(labels, Protocol.load("mots-v2"))
    np.testing.assert_array_equal(v2.mask("liver", WHOLE), blank(liver))  # cleaned before the tumor is painted
    assert v2.mask("liver_tumor", WHOLE).sum() == 0  # 1 voxel lies inside the liver: too small
    plain = ProtocolMasks(labels, Protocol.load("default"))
    np.testing.assert_array_equal(plain.mask("liver", WHOLE), blank(liver))
    assert plain.box("liver_tumor") == (slice(7, 19),) * 3


def test_vessels_lose_what_their_tumor_paints() -> None:
    vessels, tumor = cube(2, 6), cube(6, 6)
    labels = Labels.from_masks({"hepatic_vessels": blank(vessels), "hepatic_vessel_tumor": blank(tumor)})
    v1 = ProtocolMasks(labels, Protocol.load("mots-v1"))
    np.testing.assert_array_equal(v1.mask("hepatic_vessels", WHOLE), blank(vessels) & ~blank(tumor))
    np.testing.assert_array_equal(v1.mask("hepatic_vessel_tumor", WHOLE), blank(tumor))
    with_liver = Labels.from_masks(
        {"hepatic_vessels": blank(vessels), "hepatic_vessel_tumor": blank(tumor), "liver": blank(cube(8, 12))}
    )
    v2 = ProtocolMasks(with_liver, Protocol.load("mots-v2"))
    np.testing.assert_array_equal(v2.mask("hepatic_vessel_tumor", WHOLE), blank(cube(8, 4)))
    np.testing.assert_array_equal(v2.mask("hepatic_vessels", WHOLE), blank(vessels))  # what is left does not touch it


def test_two_kidneys_stay_and_nothing_is_fine() -> None:
    labels = Labels.from_masks({"kidneys": blank(cube(0, 4), cube(8, 3), cube(15, 2)), "spleen": blank()})
    masks = ProtocolMasks(labels, Protocol.load("mots-v1"))
    np.testing.assert_array_equal(masks.mask("kidneys", WHOLE), blank(cube(0, 4), cube(8, 3)))
    assert masks.box("spleen") is None
    assert not masks.mask("spleen", WHOLE).any()

import numpy as np
import pytest

from gleanseg.errors import UserError
from gleanseg.predict.layers import Layering
from gleanseg.predict.postprocess import check_rois, drop_small, keep_largest, repair_hierarchy
from gleanseg.rois.ontology import builtin


def painted(rois: tuple[str, ...], **voxels: list[int]) -> tuple[Layering, list[np.ndarray]]:
    """Layers of 1 x 1 x 12 voxels."""
    layering = Layering.of(rois, builtin())
    layers = [np.zeros((1, 1, 12), dtype=np.uint8) for _ in range(layering.num_layers)]
    for roi, where in voxels.items():
        r = rois.index(roi)
        layers[layering.layer_of[r]][0, 0, where] = layering.value_of(r)
    return layering, layers


def voxels(layering: Layering, layers: list[np.ndarray], roi: str) -> list[int]:
    return np.flatnonzero(layering.mask(layers, roi)[0, 0]).tolist()


def test_largest_component_of_named_rois_only() -> None:
    layering, layers = painted(("spleen", "stomach"), spleen=[0, 2, 3, 4, 6], stomach=[8, 10, 11])
    keep_largest(layers, layering, ("spleen",))
    assert voxels(layering, layers, "spleen") == [2, 3, 4]
    assert voxels(layering, layers, "stomach") == [8, 10, 11]


def test_small_components_of_every_roi_are_dropped() -> None:
    layering, layers = painted(("spleen", "stomach"), spleen=[0, 2, 3, 4, 6], stomach=[7, 9, 11])
    drop_small(layers, layering, voxels=1.5)
    assert voxels(layering, layers, "spleen") == [2, 3, 4]
    assert voxels(layering, layers, "stomach") == []


def test_components_touch_at_corners() -> None:
    layering = Layering.of(("spleen",), builtin())
    layer = np.zeros((3, 3, 6), dtype=np.uint8)
    layer[0, 0, 0] = layer[1, 1, 1] = layer[2, 2, 2] = 1
    layer[0, 0, 4:] = 1
    keep_largest([layer], layering, ("spleen",))
    assert np.argwhere(layer).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


def test_empty_roi_stays_empty() -> None:
    layering, layers = painted(("spleen", "stomach"), stomach=[1, 2])
    keep_largest(layers, layering, ("spleen", "stomach"))
    assert voxels(layering, layers, "spleen") == []
    assert voxels(layering, layers, "stomach") == [1, 2]


def test_parts_outside_their_parent_are_removed() -> None:
    layering, layers = painted(("liver", "liver_tumor", "spleen"), liver=[1, 2, 3], liver_tumor=[3, 4, 9], spleen=[4])
    repair_hierarchy(layers, layering, builtin(), how="remove")
    assert voxels(layering, layers, "liver_tumor") == [3]
    assert voxels(layering, layers, "liver") == [1, 2, 3]
    assert voxels(layering, layers, "spleen") == [4]


def test_parents_are_extended_where_their_layer_is_free() -> None:
    layering, layers = painted(("liver", "liver_tumor", "spleen"), liver=[1, 2, 3], liver_tumor=[3, 4, 9], spleen=[4])
    repair_hierarchy(layers, layering, builtin(), how="extend")
    assert voxels(layering, layers, "liver_tumor") == [3, 9]  # 4 is spleen
    assert voxels(layering, layers, "liver") == [1, 2, 3, 9]
    assert voxels(layering, layers, "spleen") == [4]


def test_a_union_is_there_through_its_members() -> None:
    rois = ("kidney_left", "kidney_right", "kidney_tumor")
    layering, layers = painted(rois, kidney_left=[1, 2], kidney_right=[7, 8], kidney_tumor=[2, 3, 8])
    repair_hierarchy(layers, layering, builtin(), how="remove")
    assert voxels(layering, layers, "kidney_tumor") == [2, 8]


def test_without_a_predicted_parent_nothing_changes() -> None:
    layering, layers = painted(("kidney_left", "kidney_tumor"), kidney_left=[1], kidney_tumor=[4])
    repair_hierarchy(layers, layering, builtin(), how="remove")
    assert voxels(layering, layers, "kidney_tumor") == [4]


def test_unknown_roi_of_an_option_is_named() -> None:
    with pytest.raises(UserError, match="keep_largest: 'livr' is not predicted by this run; did you mean 'liver'"):
        check_rois(("livr",), ("liver", "spleen"), option="keep_largest")

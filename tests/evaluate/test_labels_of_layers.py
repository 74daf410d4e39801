"""Masks and boxes looked up in label maps."""

import numpy as np
import pytest

from gleanseg.evaluate.labels import Labels, Layer


def test_masks_and_boxes_over_layers() -> None:
    a, b = np.zeros((4, 5, 6), dtype=np.uint8), np.zeros((4, 5, 6), dtype=np.uint16)
    a[0, 1, 2], a[3, 4, 5], b[2, 0, 0] = 1, 2, 1
    layers = [
        Layer(a, np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0]], dtype=bool)),
        Layer(b, np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=bool)),
    ]
    labels = Labels(layers, rois=["liver", "liver_tumor", "spleen"], shape_ZYX=(4, 5, 6))
    whole = (slice(0, 4), slice(0, 5), slice(0, 6))
    assert labels.box("liver") == (slice(0, 4), slice(1, 5), slice(2, 6))
    assert labels.box("liver_tumor") == (slice(2, 4), slice(0, 5), slice(0, 6))
    assert labels.box("spleen") is None
    assert labels.box("aorta") is None
    np.testing.assert_array_equal(labels.mask("liver", whole), a > 0)
    np.testing.assert_array_equal(labels.mask("liver_tumor", whole), (a == 2) | (b == 1))
    assert labels.mask("liver", (slice(3, 4), slice(0, 5), slice(5, 6))).ravel().tolist() == [0, 0, 0, 0, 1]
    assert not labels.mask("spleen", whole).any()
    assert not labels.mask("aorta", whole).any()
    assert "spleen" in labels
    assert "aorta" not in labels


def test_no_layer_is_all_empty_and_shapes_must_agree() -> None:
    labels = Labels([], rois=["liver"], shape_ZYX=(2, 2, 2))
    assert labels.box("liver") is None
    layer = Layer(np.zeros((2, 2, 3), dtype=np.uint8), np.zeros((1, 1), dtype=bool))
    with pytest.raises(ValueError, match="a layer has shape"):
        Labels([layer], rois=["liver"], shape_ZYX=(2, 2, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_boxes_of_one_mask(dtype: type[np.unsignedinteger]) -> None:
    mask = np.zeros((4, 5, 6), dtype=dtype)
    mask[1:3, 2, 4:6] = 1
    labels = Labels([Layer(mask, np.array([[False], [True]]))], rois=["liver"], shape_ZYX=(4, 5, 6))
    assert labels.box("liver") == (slice(1, 3), slice(2, 3), slice(4, 6))

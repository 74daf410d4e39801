from itertools import combinations

import numpy as np
import pytest

from gleanseg.predict.layers import Layering
from gleanseg.rois.ontology import builtin

ROIS = ("liver_tumor", "spleen", "liver", "kidney_left", "kidneys", "kidney_tumor")


def test_parents_and_parts_lie_in_different_layers() -> None:
    layering = Layering.of(ROIS, builtin())
    layer = dict(zip(ROIS, layering.layer_of, strict=True))
    assert layer["liver"] == layer["spleen"] == layer["kidneys"] == 0
    assert layer["liver_tumor"] != 0
    assert len({layer["kidneys"], layer["kidney_left"], layer["kidney_tumor"]}) == 3
    assert layering.num_layers == 3


def test_no_two_rois_of_a_layer_may_overlap() -> None:
    ontology = builtin()
    rois = tuple(dict.fromkeys([*ontology.scheme("mots").values(), *ontology.scheme("totalsegmentator-v1").values()]))
    layering = Layering.of(rois, ontology)
    for a, b in combinations(range(len(rois)), 2):
        if layering.layer_of[a] == layering.layer_of[b]:
            assert not ontology.may_overlap(rois[a], rois[b])
    assert 1 < layering.num_layers <= 4


def test_pairs_seen_together_are_separated() -> None:
    rois = ("spleen", "stomach")
    assert Layering.of(rois, builtin()).num_layers == 1
    seen = Layering.of(rois, builtin(), overlaps={frozenset(rois)})
    assert seen.layer_of == (0, 1)


def test_flat_map_paints_parents_first_whatever_the_list() -> None:
    layering = Layering.of(ROIS, builtin())
    layers = [np.zeros((1, 1, 4), dtype=np.uint8) for _ in range(layering.num_layers)]
    for roi, voxels in {"liver": [0, 1], "liver_tumor": [1], "kidneys": [2, 3], "kidney_left": [3]}.items():
        r = ROIS.index(roi)
        layers[layering.layer_of[r]][0, 0, voxels] = layering.value_of(r)
    assert layering.flat(layers)[0, 0].tolist() == [3, 1, 5, 4]
    assert layering.mask(layers, "liver")[0, 0].tolist() == [True, True, False, False]
    assert layering.mask(layers, "kidneys")[0, 0].tolist() == [False, False, True, True]


def test_one_layer_is_the_flat_map() -> None:
    layering = Layering.of(("spleen", "stomach"), builtin())
    layer = np.array([[[0, 2, 1]]], dtype=np.uint8)
    assert layering.flat([layer]) is layer


def test_label_table() -> None:
    layering = Layering.of(("liver", "liver_tumor", "spleen"), builtin())
    assert layering.to_json() == {
        "gleanseg": 1,
        "rois": ["liver", "liver_tumor", "spleen"],
        "layers": [
            {"file_suffix": "_layer1", "values": {"1": ["liver"], "3": ["spleen"]}},
            {"file_suffix": "_layer2", "values": {"2": ["liver_tumor"]}},
        ],
        "flat": {"1": ["liver"], "2": ["liver_tumor"], "3": ["spleen"]},
    }


@pytest.mark.parametrize(("count", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_values_fit_their_type(count: int, dtype: type) -> None:
    rois = tuple(f"roi{r}" for r in range(count))
    layering = Layering(rois=rois, layer_of=(0,) * count, paint_order=tuple(range(count)))
    assert layering.dtype is dtype
    assert layering.value_of(count - 1) <= np.iinfo(dtype).max

"""ROIs that a user declares: what is accepted, what is refused, and colors."""

import json
import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gleanseg.errors import UserError
from gleanseg.rois.ontology import Ontology, builtin
from gleanseg.rois.stanzas import Roi, normal, read_stanza

ONTOLOGY = builtin()
IDS = tuple(ONTOLOGY)


def make(**stanzas: Mapping[str, object]) -> Ontology:
    return Ontology(read_stanza(id, stanza) for id, stanza in stanzas.items())


class TestOwnRois:
    def test_extended_leaves_the_original_alone(self) -> None:
        own = ONTOLOGY.extended(
            {
                "liver_cyst": {"part_of": "liver", "aliases": ["hepatic cyst"], "color": [1, 2, 3]},
                "cyst_wall": {"part_of": "liver_cyst", "side": "left", "tolerance_mm": 1, "prompts": ["a wall"]},
                "cysts": {"members": ["liver_cyst", "kidney_cyst"], "exclusive": ["own_group"]},
            }
        )
        assert len(own) == len(ONTOLOGY) + 3
        assert "liver_cyst" not in ONTOLOGY
        assert own.ancestors("cyst_wall") == ("liver_cyst", "liver")
        assert own.find("Hepatic-Cyst") == Roi(
            id="liver_cyst",
            name="liver cyst",
            aliases=("hepatic cyst",),
            color=(1, 2, 3),
            part_of="liver",
            prompts=("A computerized tomography of a liver cyst",),
        )
        assert own.closure((), ["liver"])[1] == {"liver", "liver_tumor", "liver_cyst", "cyst_wall"}
        assert own.groups["own_group"] == ("cysts",)
        assert own.mirror("cyst_wall") == "cyst_wall"
        assert own.extended({}) is own

    def test_automatic_colors_are_free_and_repeatable(self) -> None:
        names = [f"lesion_{n}" for n in range(40)]
        own = ONTOLOGY.extended({name: {} for name in names})
        again = ONTOLOGY.extended({name: {} for name in names})
        colors = [own[name].color for name in names]
        assert colors == [again[name].color for name in names]
        taken = [ONTOLOGY[id].color for id in IDS] + colors
        assert len(set(taken)) == len(taken)

    @pytest.mark.parametrize(
        ("own", "message"),
        [
            ({"liver": {}}, "'liver' exists already as 'liver'"),
            ({"Left_Kidney": {}}, "'Left_Kidney' exists already as 'kidney_left'"),
            ({"x": {"aliases": ["gall bladder"]}}, "'gall bladder' already means 'gallbladder'"),
            ({"x": {"name": "y"}, "z": {"name": "Y"}}, "'Y' already means 'x'"),
            ({"x": {"part_of": "livr"}}, "part_of names the unknown ROI 'livr'; did you mean 'liver'"),
            ({"x": {"members": ["q"]}}, "members names the unknown ROI 'q'"),
            ({"x": {"found_in": ["q"]}}, "found_in names the unknown ROI 'q'"),
            ({"x": {"partof": "liver"}}, "unknown key 'partof'; did you mean 'part_of'"),
            ({"x": {"part_of": "x"}}, "run in a circle: x -> x"),
            ({"x": {"part_of": "y"}, "y": {"part_of": "x"}}, "circle"),
            ({"x": {"part_of": "y"}, "y": {"found_in": ["x"]}}, "circle"),
            ({"x": {"members": ["y"]}, "y": {"members": ["x"]}}, "circle"),
            ({"x": {"part_of": "liver", "exclusive": ["abdomen"]}}, "one lies in the other"),
            ({"x": {"members": ["liver", "spleen"], "exclusive": ["abdomen"]}}, "exclusive group 'abdomen'"),
            ({n: {"members": ["face"], "exclusive": ["g"]} for n in "xy"}, "'face' lies in both"),
            ({"1x": {}}, "an id is a letter"),
            ({"x": {"side": "Left"}}, "side is 'left' or 'right'"),
            ({"x": {"snomed": "10200005"}}, "not a SNOMED CT id"),
            ({"x": {"snomed": "0"}}, "not a SNOMED CT id"),
            ({"x": {"color": "red"}}, "color is '#rrggbb'"),
            ({"x": {"color": [0, 0, 256]}}, "color is"),
            ({"x": {"tolerance_mm": 0}}, "tolerance_mm"),
            ({"x": {"tolerance_mm": "2"}}, "tolerance_mm"),
            ({"x": {"members": "liver"}}, "members must be a list"),
            ({"x": {"members": ["liver", "liver"]}}, "an entry twice"),
            ({"x": {"name": ""}}, "name must be a text"),
            ({"x": {"aliases": ["--"]}}, "no letter or digit"),
        ],
    )  # fmt: skip
    def test_mistakes(self, own: Mapping[str, Mapping[str, object]], message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            ONTOLOGY.extended(own)
        assert "\n" not in str(caught.value)

    def test_an_id_twice(self) -> None:
        with pytest.raises(UserError, match="'a' is defined twice"):
            Ontology([read_stanza("a", {}), read_stanza("a", {"name": "b"})])

    @given(st.integers(2, 7), st.data())
    @settings(max_examples=50, deadline=None)
    def test_trees_of_any_shape(self, num: int, data: st.DataObject) -> None:
        parents = [None] + [data.draw(st.integers(0, n - 1)) for n in range(1, num)]
        ontology = make(**{f"r{n}": {} if p is None else {"part_of": f"r{p}"} for n, p in enumerate(parents)})
        for n in range(num):
            chain, p = [], parents[n]
            while p is not None:
                chain.append(f"r{p}")
                p = parents[p]
            assert ontology.ancestors(f"r{n}") == tuple(chain) == ontology.containing(f"r{n}")
        for a, b in combinations(ontology, 2):
            nested = a in ontology.ancestors(b) or b in ontology.ancestors(a)
            assert ontology.may_overlap(a, b) is nested
        _, none = ontology.closure((), ["r0"])
        assert none == set(ontology)


def test_colors_are_apart() -> None:
    def linear(value: int) -> float:
        unit = value / 255
        return unit / 12.92 if unit <= 0.04045 else float(((unit + 0.055) / 1.055) ** 2.4)

    def lab(color: tuple[int, int, int]) -> tuple[float, float, float]:
        red, green, blue = map(linear, color)
        xyz = (
            (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047,
            0.2126 * red + 0.7152 * green + 0.0722 * blue,
            (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883,
        )
        x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
        return 116 * y - 16, 500 * (x - y), 200 * (y - z)

    labs = {id: lab(ONTOLOGY[id].color) for id in IDS}
    assert all(30 <= lightness <= 92 for lightness, _, _ in labs.values())
    assert min(math.dist(labs[a], labs[b]) for a, b in combinations(IDS, 2)) > 6
    assert min(math.dist(labs[a], labs[b]) for a, b in combinations(ONTOLOGY.scheme("mots").values(), 2)) > 19


def test_the_example_of_the_documentation_is_accepted() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "rois.md").read_text()
    own = ONTOLOGY.extended(json.loads(page.split("```json")[1].split("```")[0])["own_rois"])
    assert own.closure(["liver_tumor"], ["liver_cyst", "liver_abscess"])[0] == {"liver_tumor", "liver_lesions"}
    assert own["liver_cyst"].color == (0x3F, 0xA7, 0xD6)
    python = page.split("```python")[1].split("```")[0]
    for line in python.splitlines():
        code, _, comment = line.partition("#")
        if comment:
            stated = comment.strip().split(":")[0]
            assert repr(eval(code, {"ontology": ONTOLOGY})) == stated


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Left_Kidney", "kidney-left"),
        ("Rib left 4", "left rib 4"),
        ("Tumour", "tumor"),
        ("Oesophagus", "ESOPHAGUS"),
        ("NCR/NET", "ncr net"),
    ],
)
def test_names_that_compare_equal(one: str, other: str) -> None:
    assert normal(one) == normal(other) != ""

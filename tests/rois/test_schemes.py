"""The published lists, and everything else that rois.toml, schemes/ and vague.toml state."""

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydicom.sr._snomed_dict import mapping as dicom_codes

from gleanseg.errors import UserError
from gleanseg.rois import ontology as room
from gleanseg.rois.ontology import builtin
from gleanseg.rois.stanzas import is_snomed, normal

ONTOLOGY = builtin()
V1 = ONTOLOGY.scheme("totalsegmentator-v1")
V2 = ONTOLOGY.scheme("totalsegmentator-v2")


def digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


class TestTotalSegmentator:
    def test_lists_are_exact(self) -> None:
        # SHA-256 over the published names in index order, joined by line feeds.
        assert list(V1) == list(range(1, 105))
        assert list(V2) == list(range(1, 118))
        assert digest(list(V1.values())) == "6bcdaf32ae09aff951d053619ef8e3314058f08d3f911fe5efdff1641229d853"
        assert digest(list(V2.values())) == "be80b47a33fa4f77d30378b2c583dfecd50db824b996ee9bc73deec381b271e5"

    def test_against_the_golden_file(self) -> None:
        shared = Path(os.environ.get("GLEANSEG_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")).parent
        path = shared / "specs" / "golden" / "totalsegmentator_classes.json"
        if not path.exists():
            pytest.skip(f"{path} is not here; the digests above cover the same lists")
        golden = json.loads(path.read_text())
        assert list(V1.values()) == golden["v1_104_in_index_order_1_based"]
        assert list(V2.values()) == golden["v2_117_in_index_order_1_based"]
        values = {
            name: (value, {n: v for v, n in V2.items()}[name]) for value, name in V1.items() if name in V2.values()
        }
        assert {name: list(pair) for name, pair in values.items()} == golden["v1_index_to_v2_index_by_name"]
        for roi, classes in golden["mots_roi_presence_rule_any_of"].items():
            for scheme in (V1, V2):
                assert list(ONTOLOGY.presence(ONTOLOGY.find(roi).id, set(scheme.values()))) == classes

    def test_versions_differ_as_published(self) -> None:
        assert (V1[1], V1[45], V1[104]) == ("spleen", "heart_atrium_left", "urinary_bladder")
        assert (V2[1], V2[51], V2[117]) == ("spleen", "heart", "costal_cartilages")
        both = set(V1.values()) & set(V2.values())
        assert len(both) == 97
        same = [name for value, name in V1.items() if V2.get(value) == name]
        assert same == ["spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach"]
        assert set(V1.values()) - both == {"face", "pulmonary_artery", *ONTOLOGY["heart"].members}
        assert len(set(V2.values()) - both) == 20

    def test_unions_are_complete(self) -> None:
        assert len(ONTOLOGY["vertebrae"].members) == 24
        assert len(ONTOLOGY["ribs"].members) == 24
        assert len(ONTOLOGY["heart"].members) == 5
        known, none = ONTOLOGY.closure(set(V1.values()), ())
        derived = {"kidneys", "adrenal_glands", "lung_left", "lung_right", "lungs", "vertebrae", "ribs", "heart"}
        assert known - set(V1.values()) == derived | {"left_atrium"}
        assert none == frozenset()


class TestOtherSchemes:
    def test_mots(self) -> None:
        scheme = ONTOLOGY.scheme("mots")
        assert list(scheme) == list(range(1, 12))
        assert list(scheme.values()) == [
            "liver", "liver_tumor", "kidneys", "kidney_tumor", "hepatic_vessels", "hepatic_vessel_tumor", "pancreas",
            "pancreas_tumor", "colon_cancer", "lung_tumor", "spleen",
        ]  # fmt: skip
        tasks = [name for name in ONTOLOGY.schemes if name.startswith("mots-")]
        assert len(tasks) == 7
        assert [id for task in tasks for id in ONTOLOGY.scheme(task).values()] == list(scheme.values())

    @pytest.mark.parametrize(
        ("task", "organ_values"),
        [
            ("mots-0-liver", {1, 2}),
            ("mots-1-kidney", {1, 2}),
            ("mots-2-hepatic-vessel", {1}),
            ("mots-3-pancreas", {1, 2}),
        ],
    )
    def test_which_mots_organs_include_their_tumor(self, task: str, organ_values: set[int]) -> None:
        scheme = ONTOLOGY.scheme(task)
        organ = scheme[1]
        assert {value for value, id in scheme.items() if organ in (id, *ONTOLOGY.containing(id))} == organ_values

    def test_brats_regions_nest(self) -> None:
        sets = {
            name: {
                region: {v for v, id in ONTOLOGY.scheme(name).items() if region in (id, *ONTOLOGY.containing(id))}
                for region in ("brain_tumor_whole", "brain_tumor_core", "brain_tumor_enhancing")
            }
            for name in ("brats", "brats-2015", "brats-2023", "msd-task01")
        }
        assert [list(regions.values()) for regions in sets.values()] == [
            [{1, 2, 4}, {1, 4}, {4}],
            [{1, 2, 3, 4}, {1, 3, 4}, {4}],
            [{1, 2, 3}, {1, 3}, {3}],
            [{1, 2, 3}, {2, 3}, {3}],
        ]

    def test_single_entries(self) -> None:
        assert ONTOLOGY.scheme("btcv")[11] == "pancreas"
        assert ONTOLOGY.scheme("amos22")[10] == "pancreas"
        assert ONTOLOGY.scheme("flare22")[13] == "kidney_left"
        assert ONTOLOGY.scheme("word")[12] == "adrenal_glands"
        assert ONTOLOGY.scheme("mmwhs")[420] == "heart_atrium_left"
        assert ONTOLOGY.scheme("msd-task04") == {1: "hippocampus_anterior", 2: "hippocampus_posterior"}

    @pytest.mark.parametrize("name", ONTOLOGY.schemes)
    def test_every_scheme_names_known_rois(self, name: str) -> None:
        scheme = ONTOLOGY.scheme(name)
        assert scheme
        assert min(scheme) >= 1
        assert set(scheme.values()) <= set(ONTOLOGY)
        with pytest.raises(TypeError):
            scheme[1] = "liver"  # type: ignore[index]

    def test_unknown_scheme(self) -> None:
        with pytest.raises(UserError, match="did you mean 'totalsegmentator-v"):
            ONTOLOGY.scheme("totalsegmentator-v3")
        with pytest.raises(UserError, match="there are brats, "):
            ONTOLOGY.scheme("?")


class TestFiles:
    def test_codes_are_those_of_dicom_or_totalsegmentator(self) -> None:
        # In TotalSegmentator's published mapping, and not in the context groups of DICOM that pydicom carries.
        beyond_dicom = {
            "110765007",
            "15339008",
            "181674001",
            "22565002",
            "244849004",
            "24915002",
            "25523003",
            "25888004",
            "43993008",
            "48535007",
            "58830002",
            "5953002",
            "59558009",
            "65985001",
            "68455001",
            "68786006",
            "74281007",
            "75297007",
            "77644006",
            "78247007",
            "78333006",
        }
        coded = {roi.snomed for roi in ONTOLOGY.rois.values() if roi.snomed}
        assert all(is_snomed(code) for code in coded)
        dicom = set(dicom_codes["SCT"])
        assert {code for code in coded if code not in dicom} == beyond_dicom
        assert sum(roi.snomed is not None for roi in ONTOLOGY.rois.values()) == 150

    def test_every_totalsegmentator_class_is_coded(self) -> None:
        assert [id for id in {*V1.values(), *V2.values()} if ONTOLOGY[id].snomed is None] == []

    def test_check_digit(self) -> None:
        assert is_snomed("10200004")  # liver
        assert not any(is_snomed(f"1020000{digit}") for digit in "012356789")
        assert not is_snomed("1020x004")
        assert not is_snomed("")

    def test_prompts_of_the_benchmark_keep_the_published_wording(self) -> None:
        # The names that fix the text embeddings of the MOTS ROIs.
        names = [ONTOLOGY[id].name for id in ONTOLOGY.scheme("mots").values()]
        assert names == [
            "liver", "liver tumor", "kidneys", "kidney tumor", "hepatic vessels", "hepatic vessel tumor", "pancreas",
            "pancreatic tumor", "colon cancer", "lung tumor", "spleen",
        ]  # fmt: skip
        assert ONTOLOGY["hepatic_vessels"].prompts == ("A computerized tomography of a hepatic vessels",)
        assert ONTOLOGY["left_atrium"].prompts == ("A magnetic resonance image of a left atrium",)
        assert all(roi.prompts for roi in ONTOLOGY.rois.values())

    def test_vague_names_are_no_aliases_and_lead_somewhere(self) -> None:
        table = tomllib.loads((Path(room.__file__).parent / "vague.toml").read_text())
        taken = {normal(n) for roi in ONTOLOGY.rois.values() for n in (roi.id, roi.name, *roi.aliases)}
        for name, ids in table.items():
            assert normal(name) not in taken
            assert len(ids) >= 2
            assert set(ids) <= set(ONTOLOGY)

    def test_display_names_are_unique(self) -> None:
        names = [roi.name for roi in ONTOLOGY.rois.values()]
        assert len(set(names)) == len(names)

    def test_loading_needs_no_torch(self) -> None:
        code = "import sys, gleanseg.rois.ontology as o; o.builtin(); print('torch' in sys.modules)"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == "False"

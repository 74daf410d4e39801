from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gleanseg.errors import UserError
from gleanseg.rois.ontology import builtin

ONTOLOGY = builtin()
IDS = tuple(ONTOLOGY)


class TestLookup:
    def test_getitem_gives_the_stanza(self) -> None:
        roi = ONTOLOGY["kidney_left"]
        assert (roi.name, roi.side, roi.snomed) == ("left kidney", "left", "64033007")
        assert roi.prompts == ("A computerized tomography of a left kidney",)
        assert roi.tolerance_mm == 2.0
        assert len(ONTOLOGY) == len(IDS) == len(ONTOLOGY.rois) == 157
        assert "liver" in ONTOLOGY
        assert "no_such" not in ONTOLOGY

    def test_read_only(self) -> None:
        with pytest.raises(TypeError):
            ONTOLOGY.rois["liver"] = ONTOLOGY["spleen"]  # type: ignore[index]
        with pytest.raises(AttributeError):
            ONTOLOGY["liver"].name = "x"  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("wrong", "hint"), [("livr", "'liver'"), ("Left Kidney", "its id is 'kidney_left'"), ("zzz", "own_rois")]
    )
    def test_unknown_id_offers_a_way_out(self, wrong: str, hint: str) -> None:
        with pytest.raises(UserError, match=hint) as caught:
            ONTOLOGY[wrong]
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "id"),
        [
            ("Anterior", "hippocampus_anterior"),  # MSD Task04
            ("Posterior", "hippocampus_posterior"),
            ("left atrium", "left_atrium"),  # MSD Task02
            ("left_atrium", "left_atrium"),
            ("heart_atrium_left", "heart_atrium_left"),
            ("oedema", "brain_tumor_edema"),  # MSD Task01
            ("non-enhancing tumor", "brain_tumor_necrosis"),
            ("enhancing tumour", "brain_tumor_enhancing"),
            ("colon cancer primaries", "colon_cancer"),  # MSD Task10
            ("PZ", "prostate_peripheral_zone"),  # MSD Task05
            ("kidney", "kidneys"),  # KiTS
            ("Right Kidney", "kidney_right"),  # BTCV
            ("oesophagus", "esophagus"),
            ("portal vein and splenic vein", "portal_vein_and_splenic_vein"),
            ("postcava", "inferior_vena_cava"),  # AMOS
            ("prostate/uterus", "prostate_or_uterus"),
            ("bladder", "urinary_bladder"),
            ("LAG", "adrenal_gland_left"),  # FLARE
            ("Liver Tumour", "liver_tumor"),
            ("pancreatic_tumor", "pancreas_tumor"),
            ("hepatic vessel tumor", "hepatic_vessel_tumor"),
            ("LIVER", "liver"),
            ("rib-left 4", "rib_left_4"),
            ("left fourth rib", "rib_left_4"),
            ("L5", "vertebrae_L5"),
        ],
    )
    def test_find(self, name: str, id: str) -> None:
        assert ONTOLOGY.find(name).id == id

    @pytest.mark.parametrize("id", IDS)
    def test_every_own_name_leads_home(self, id: str) -> None:
        roi = ONTOLOGY[id]
        for name in (id, id.upper(), id.replace("_", " "), roi.name, *roi.aliases):
            assert ONTOLOGY.find(name) is roi

    def test_find_refuses_names_of_several(self) -> None:
        with pytest.raises(UserError, match=r"'cancer' is used for several ROIs \(liver_tumor, pancreas_tumor, "):
            ONTOLOGY.find("cancer")
        with pytest.raises(UserError, match="several ROIs"):
            ONTOLOGY.find("L")

    def test_find_offers_the_nearest(self) -> None:
        with pytest.raises(UserError, match=r"no ROI of the ontology is called 'splen'.*did you mean 'spleen'"):
            ONTOLOGY.find("splen")


class TestRelations:
    def test_ancestors(self) -> None:
        assert ONTOLOGY.ancestors("brain_tumor_enhancing") == ("brain_tumor_core", "brain_tumor_whole")
        assert ONTOLOGY.ancestors("liver_tumor") == ("liver",)
        assert ONTOLOGY.ancestors("colon_cancer") == ()  # found there, not part of it
        with pytest.raises(UserError, match="not an ROI id"):
            ONTOLOGY.ancestors("nothing")

    def test_containing_goes_through_unions_and_not_through_places(self) -> None:
        assert ONTOLOGY.containing("lung_upper_lobe_left") == ("lung_left", "lungs")
        assert ONTOLOGY.containing("kidney_tumor") == ("kidneys",)
        assert ONTOLOGY.containing("hippocampus_anterior") == ("hippocampus", "brain")
        assert ONTOLOGY.containing("hepatic_vessel_tumor") == ()
        assert set(ONTOLOGY.containing("heart_atrium_left")) == {"left_atrium", "heart"}

    def test_containers_have_fewer_containers(self) -> None:
        for id in IDS:
            for container in ONTOLOGY.containing(id):
                assert len(ONTOLOGY.containing(container)) < len(ONTOLOGY.containing(id))

    @pytest.mark.parametrize(
        ("a", "b", "expected"),
        [
            ("liver", "liver", True),
            ("liver", "liver_tumor", True),  # parent
            ("brain_tumor_whole", "brain_tumor_enhancing", True),  # grandparent
            ("kidneys", "kidney_left", True),  # union
            ("lungs", "lung_upper_lobe_left", True),  # union of unions
            ("kidney_left", "kidney_tumor", True),  # a part of the union lies in one of its members
            ("liver", "hepatic_vessels", True),  # found in
            ("hepatic_vessels", "liver_tumor", True),  # two protocols
            ("hepatic_vessel_tumor", "liver_tumor", True),
            ("colon_cancer", "colon", True),
            ("lung_tumor", "lungs", True),
            ("brain_tumor_edema", "hippocampus_anterior", True),
            ("heart", "left_atrium", True),  # share the chamber
            ("liver", "spleen", False),
            ("liver", "aorta", False),
            ("kidney_left", "kidney_right", False),  # siblings
            ("kidney_cyst_left", "kidney_cyst_right", False),
            ("kidney_cyst_left", "kidney_right", False),
            ("hippocampus_anterior", "hippocampus_posterior", False),
            ("brain_tumor_edema", "brain_tumor_core", False),
            ("brain_tumor_edema", "brain_tumor_enhancing", False),
            ("brain_tumor_necrosis", "brain_tumor_enhancing", False),
            ("hepatic_vessels", "hepatic_vessel_tumor", False),  # one label map
            ("left_atrium", "heart_ventricle_left", False),  # exclusive, and so is what lies in them:
            ("heart_atrium_left", "heart_ventricle_left", False),
            ("liver_tumor", "pancreas_tumor", False),
            ("liver_tumor", "spleen", False),
            ("colon_cancer", "lung_tumor", False),
            ("vertebrae_L5", "vertebrae_L4", False),
        ],
    )
    def test_may_overlap(self, a: str, b: str, expected: bool) -> None:
        assert ONTOLOGY.may_overlap(a, b) is expected
        assert ONTOLOGY.may_overlap(b, a) is expected

    def test_classes_of_one_label_map_seldom_overlap(self) -> None:
        # The 104 classes of version 1 fit one layer; version 2 has four presence relations among its classes.
        for version, expected in (("v1", set()), ("v2", {"heart", "sacrum", "kidney_left", "kidney_right"})):
            classes = ONTOLOGY.scheme(f"totalsegmentator-{version}").values()
            pairs = [pair for pair in combinations(classes, 2) if ONTOLOGY.may_overlap(*pair)]
            assert len(pairs) == len(expected)
            assert {id for pair in pairs for id in pair if id in expected} == expected

    @pytest.mark.parametrize(
        ("id", "other"),
        [
            ("kidney_left", "kidney_right"),
            ("rib_right_12", "rib_left_12"),
            ("lung_upper_lobe_left", "lung_upper_lobe_right"),
            ("liver", "liver"),
            ("kidneys", "kidneys"),
            ("left_atrium", "left_atrium"),
            ("heart_ventricle_left", "heart_ventricle_left"),
            ("lung_middle_lobe_right", "lung_middle_lobe_right"),
        ],
    )
    def test_mirror(self, id: str, other: str) -> None:
        assert ONTOLOGY.mirror(id) == other

    def test_sides_mirror_each_other(self) -> None:
        lonely = []
        for id in IDS:
            roi, mirrored = ONTOLOGY[id], ONTOLOGY[ONTOLOGY.mirror(id)]
            assert ONTOLOGY.mirror(mirrored.id) == id
            if roi.side and mirrored is roi:
                lonely.append(id)
            elif roi.side:
                assert {roi.side, mirrored.side} == {"left", "right"}
                assert roi.snomed == mirrored.snomed
                assert roi.name.replace("left", "right") == mirrored.name.replace("left", "right")
        assert lonely == ["lung_middle_lobe_right"]

    def test_presence_of_the_eleven_mots_rois(self) -> None:
        lobes = tuple(f"lung_{lobe}" for lobe in ("upper_lobe_left", "lower_lobe_left", "upper_lobe_right"))
        kidneys = ("kidney_left", "kidney_right")
        expected = {
            "liver": ("liver",),
            "liver_tumor": ("liver",),
            "kidneys": kidneys,
            "kidney_tumor": kidneys,
            "hepatic_vessels": ("liver",),
            "hepatic_vessel_tumor": ("liver",),
            "pancreas": ("pancreas",),
            "pancreas_tumor": ("pancreas",),
            "colon_cancer": ("colon",),
            "lung_tumor": (*lobes, "lung_middle_lobe_right", "lung_lower_lobe_right"),
            "spleen": ("spleen",),
        }
        for version in ("v1", "v2"):
            classes = set(ONTOLOGY.scheme(f"totalsegmentator-{version}").values())
            assert {id: ONTOLOGY.presence(id, classes) for id in ONTOLOGY.scheme("mots").values()} == expected
        assert ONTOLOGY.presence("brain_tumor_edema", {"liver"}) == ()
        assert ONTOLOGY.presence("brain_tumor_edema", {"liver", "brain"}) == ("brain",)
        assert ONTOLOGY.presence("lungs", {"lung_left", "lung_lower_lobe_right"}) == (
            "lung_left",
            "lung_lower_lobe_right",
        )
        with pytest.raises(UserError, match="not an ROI id"):
            ONTOLOGY.presence("nothing", {"liver"})


class TestClosure:
    @pytest.mark.parametrize(
        ("annotated", "absent", "more_annotated", "more_absent"),
        [
            ([], [], [], []),
            (["liver"], [], [], []),  # says nothing of liver_tumor
            ([], ["liver"], [], ["liver_tumor"]),
            ([], ["kidney_left"], [], []),
            (["kidney_left"], [], [], []),  # the right one is unknown
            (["kidney_left", "kidney_right"], [], ["kidneys"], []),
            (["kidney_left"], ["kidney_right"], ["kidneys"], []),
            ([], ["kidney_left", "kidney_right"], [], ["kidneys", "kidney_tumor"]),
            ([], ["kidneys"], [], ["kidney_left", "kidney_right", "kidney_tumor"]),
            (["kidneys"], [], [], []),
            (["kidney_tumor"], [], [], []),
            ([], ["brain_tumor_core"], [], ["brain_tumor_enhancing", "brain_tumor_necrosis"]),
            (
                ["brain_tumor_edema", "brain_tumor_enhancing"],
                ["brain_tumor_necrosis"],
                ["brain_tumor_core", "brain_tumor_whole"],
                [],
            ),
            (["heart_atrium_left"], [], ["left_atrium"], []),
            (["left_atrium"], [], [], []),
            ([], ["colon"], [], []),  # found_in proves nothing
            (
                ["lung_upper_lobe_left", "lung_right"],
                ["lung_lower_lobe_left"],
                ["lung_left", "lungs"],
                [],
            ),
        ],
    )
    def test_rules(
        self, annotated: list[str], absent: list[str], more_annotated: list[str], more_absent: list[str]
    ) -> None:
        known, none = ONTOLOGY.closure(annotated, absent)
        assert known == {*annotated, *more_annotated}
        assert none == {*absent, *more_absent}

    @pytest.mark.parametrize(
        ("annotated", "absent", "message"),
        [
            (["liver_tumor"], ["liver"], "'liver_tumor' is annotated but 'liver', which contains it, is absent"),
            (["liver"], ["liver"], "'liver' is listed as annotated and as absent"),
            (["kidney_left"], ["kidneys"], "'kidney_left' is annotated but 'kidneys'"),
            (["kidneys"], ["kidney_left", "kidney_right"], "all members of 'kidneys' are absent"),
            (["kidney_tumor"], ["kidney_left", "kidney_right"], "'kidney_tumor' is annotated but all members"),
            (["brain_tumor_enhancing"], ["brain_tumor_whole"], "'brain_tumor_whole', which contains it"),
            (["liverr"], [], "did you mean 'liver'"),
            ([], ["liverr"], "did you mean 'liver'"),
        ],
    )
    def test_contradictions_and_unknown_ids(self, annotated: list[str], absent: list[str], message: str) -> None:
        with pytest.raises(UserError, match=message):
            ONTOLOGY.closure(annotated, absent)

    @given(st.sets(st.sampled_from(IDS)), st.sets(st.sampled_from(IDS)))
    @settings(max_examples=150, deadline=None)
    def test_properties_on_consistent_statements(self, gone: set[str], looked_at: set[str]) -> None:
        # A possible patient: `gone` is not in the image, nor is what lies in it. Statements are part of that truth.
        _, truly_absent = ONTOLOGY.closure((), gone)
        annotated = looked_at - truly_absent
        absent = looked_at & truly_absent
        known, none = ONTOLOGY.closure(annotated, absent)
        assert known >= annotated
        assert none >= absent
        assert not known & none
        assert none <= truly_absent
        assert ONTOLOGY.closure(known, none) == (known, none)
        fewer, less = ONTOLOGY.closure(sorted(annotated)[::2], sorted(absent)[::2])
        assert fewer <= known
        assert less <= none

    @given(st.sampled_from(IDS), st.data())
    @settings(max_examples=60, deadline=None)
    def test_annotated_inside_absent_is_refused(self, id: str, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from((id, *ONTOLOGY.containing(id))))
        with pytest.raises(UserError, match="take one statement out"):
            ONTOLOGY.closure([id], [holder])

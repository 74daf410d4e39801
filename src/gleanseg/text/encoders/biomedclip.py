"""The text tower of BiomedCLIP: BiomedBERT, its first token, a projection. MIT; its card limits it to research."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from gleanseg.errors import UserError
from gleanseg.text.encoders.bert_folder import BertEncoder, Model, download

if TYPE_CHECKING:
    import torch

REPOSITORY = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
_TEXT_FILES = ("config.json", "vocab.txt")
_KIND = {"hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": "mlp"}


@final
class BiomedClip(BertEncoder):
    """``microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224``; 512 numbers, at most 256 tokens.

    Only the text tower is read, from the checkpoint of open_clip's layout, so neither open_clip nor an image network is
    needed. TWO things are: the checkpoint with its ``open_clip_config.json``, and ``config.json`` and ``vocab.txt`` of
    the BERT that this names, in the same folder, in a sub-folder or beside it under the BERT's name.
    """

    poolings = ("cls",)
    repository = REPOSITORY
    max_tokens = 256
    text_prefix = "text."
    bert_prefix = "transformer."

    def _locate(self, model_path: Path | None, revision: str | None) -> Model:
        if model_path is not None:
            return _local(model_path, revision="local")
        folder, found = download(
            REPOSITORY, (_CONFIG, *_TEXT_FILES, "tokenizer_config.json"), weights=_WEIGHTS[::2], revision=revision
        )
        if any(not (folder / name).is_file() for name in _TEXT_FILES):
            text, _ = download(_bert_name(folder / _CONFIG), (*_TEXT_FILES, "tokenizer_config.json"))
            return Model(_weights(folder), text / "config.json", text / "vocab.txt", found)
        return _local(folder, revision=found)

    def _project(self, pooled: "torch.Tensor") -> "torch.Tensor":
        from torch.nn import functional

        for name in ("proj.0.weight", "proj.2.weight"):
            if name not in self.weights:
                raise UserError(f"{self.model.weights}: no text.{name}, so not a BiomedCLIP checkpoint; copy it again")
        wide = functional.gelu(functional.linear(pooled, self.weights["proj.0.weight"]))
        return functional.linear(wide, self.weights["proj.2.weight"])


def _local(folder: Path, *, revision: str) -> Model:
    """The two artefacts in or beside a folder."""
    if not (folder / _CONFIG).is_file():
        raise UserError(
            f"{folder}: no {_CONFIG}; name the folder that holds the checkpoint of {REPOSITORY} with that file"
        )
    weights, name = _weights(folder), _bert_name(folder / _CONFIG)
    short = name.rpartition("/")[2]
    places = (folder, folder / short, folder.parent / short)
    text = next((p for p in places if all((p / file).is_file() for file in _TEXT_FILES)), None)
    if text is None:
        raise UserError(
            f"{folder}: the weights ({weights.name}) are there, but not the tokenizer and configuration of {name};"
            f" copy its config.json and vocab.txt to {folder / short}"
        )
    return Model(weights, text / "config.json", text / "vocab.txt", revision)


def _weights(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: no weights beside {_CONFIG} (looked for {', '.join(_WEIGHTS)}); copy them there")


def _text_config(path: Path) -> dict[str, Any]:
    from gleanseg.text.bert import read_json

    model = read_json(path).get("model_cfg")
    text = model.get("text_cfg") if isinstance(model, dict) else None
    if not isinstance(text, dict) or "hf_model_name" not in text:
        raise UserError(f"{path}: names no BERT under model_cfg.text_cfg.hf_model_name; not a BiomedCLIP")
    for key, wanted in _KIND.items():
        if text.get(key, "the default") != wanted:
            raise UserError(f"{path}: {key} is {text.get(key, 'not given')!r}, BiomedCLIP's is {wanted!r}")
    return text


def _bert_name(path: Path) -> str:
    return str(_text_config(path)["hf_model_name"])

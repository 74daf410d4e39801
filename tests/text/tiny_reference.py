"""Write tiny_reference.json: what transformers and open_clip give for the models of support/tiny_bert.py.

python tests/text/tiny_reference.py [FILE]     (needs transformers and open_clip_torch, no network)
"""

import json
import sys
import tempfile
import types
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import tiny_bert as tiny  # the tests' own folder


def without_image_code() -> None:
    """Both packages import torchvision, for images, and fail where it does not fit torch; text needs none of it."""
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    found = find_spec("open_clip")
    assert found is not None
    package = types.ModuleType("open_clip")
    package.__path__ = list(found.submodule_search_locations or ())
    sys.modules["open_clip"] = package


def mean_with(activation: str, root: Path) -> list[list[float]]:
    """Mean of the hidden states, text by text, with another activation."""
    from transformers import BertModel, BertTokenizer

    folder = str(tiny.write_bert(root / activation, hidden_act=activation))
    tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
    bert = BertModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()
    inputs = [tokenizer(text, return_tensors="pt") for text in tiny.TEXTS]
    return [bert(**one).last_hidden_state[0].mean(0).tolist() for one in inputs]


def main(out: Path) -> None:
    without_image_code()
    import torch
    from open_clip.hf_model import HFTextEncoder
    from transformers import BertConfig, BertModel, BertTokenizer

    with tempfile.TemporaryDirectory() as temporary:
        folder = tiny.write_bert(Path(temporary) / "bert")
        tokenizer = BertTokenizer.from_pretrained(str(folder), local_files_only=True)
        bert = BertModel.from_pretrained(str(folder), local_files_only=True, add_pooling_layer=False).eval()
        clip = HFTextEncoder(
            "", tiny.OUT, config=BertConfig(**tiny.CONFIG), pooler_type="cls_last_hidden_state_pooler", proj_type="mlp"
        )
        weights = {f"transformer.{k}": torch.from_numpy(v) for k, v in tiny.bert_weights().items()}
        weights |= {k: torch.from_numpy(v) for k, v in tiny.projection_weights().items()}
        lost = clip.load_state_dict(weights, strict=False)
        assert not lost.unexpected_keys
        assert all(".pooler." in key for key in lost.missing_keys), lost
        with torch.no_grad():
            padded = tokenizer(list(tiny.TEXTS), padding="max_length", max_length=tiny.POSITIONS, return_tensors="pt")
            hidden = bert(padded["input_ids"], attention_mask=padded["attention_mask"]).last_hidden_state
            mask = padded["attention_mask"].unsqueeze(-1)
            told = {
                "made_with": {p: version(p) for p in ("transformers", "open_clip_torch")},
                "tokens": [tokenizer.tokenize(text, add_special_tokens=True) for text in tiny.TEXTS],
                "mean": ((hidden * mask).sum(1) / mask.sum(1)).tolist(),
                "cls": hidden[:, 0].tolist(),
                **{f"mean {name}": mean_with(name, Path(temporary)) for name in tiny.ACTIVATIONS},
                "biomedclip": clip.eval()(padded["input_ids"]).tolist(),
            }
    rows = {key: value for key, value in told.items() if isinstance(value, list)}
    lines = [f'"made_with": {json.dumps(told["made_with"])}']
    lines += [f'"{key}": [\n  ' + ",\n  ".join(map(json.dumps, row)) + "\n ]" for key, row in rows.items()]
    out.write_text("{\n " + ",\n ".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".json"))

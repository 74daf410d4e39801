"""Tiny models in the layouts of the hubs, with weights from a formula, so that their outputs can be kept as numbers."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

_PIECES = """
[PAD] [UNK] [CLS] [SEP] [MASK] a of the computer ##ized tom ##ography liver kidney ##s tumor he ##pati ##c vessel
sp ##leen - . , 1 2
"""
VOCABULARY = tuple(_PIECES.split())
HIDDEN, INNER, LAYERS, HEADS, POSITIONS, OUT = 8, 12, 2, 2, 32, 6
CONFIG = {
    "model_type": "bert",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
    "vocab_size": len(VOCABULARY),
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "pad_token_id": 0,
}
ACTIVATIONS = ("gelu_new", "relu", "quick_gelu")
TEXTS = ("A computerized tomography of a liver", "hepatic vessel tumor, 1-2.", "Spleen", "kidneys of the unheard")
BERT_NAME = "BiomedNLP-Tiny"
OPEN_CLIP = {
    "model_cfg": {
        "embed_dim": OUT,
        "text_cfg": {
            "hf_model_name": f"microsoft/{BERT_NAME}",
            "hf_tokenizer_name": f"microsoft/{BERT_NAME}",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 256,
        },
    }
}


def values(name: str, *shape: int) -> np.ndarray:
    """Numbers that depend on a name and look random."""
    start = sum((i + 1) * b for i, b in enumerate(name.encode())) % 997
    flat = np.sin(start + 12.9898 * np.arange(int(np.prod(shape)))) * 43758.5453
    numbers = (flat - np.floor(flat) - 0.5) * 0.8
    scale = 1.0 if name.endswith("LayerNorm.weight") else 0.0
    return (scale + numbers).reshape(shape).astype(np.float32)


def bert_weights() -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "embeddings.LayerNorm.weight": (HIDDEN,),
        "embeddings.LayerNorm.bias": (HIDDEN,),
    }
    for layer in range(LAYERS):
        root = f"encoder.layer.{layer}"
        sizes = {f"attention.self.{p}": (HIDDEN, HIDDEN) for p in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (HIDDEN, HIDDEN), "intermediate.dense": (INNER, HIDDEN)}
        sizes |= {"output.dense": (HIDDEN, INNER)}
        for part, (rows, columns) in sizes.items():
            shapes |= {f"{root}.{part}.weight": (rows, columns), f"{root}.{part}.bias": (rows,)}
        for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{root}.{norm}.weight": (HIDDEN,), f"{root}.{norm}.bias": (HIDDEN,)}
    return {name: values(name, *shape) for name, shape in shapes.items()}


def projection_weights() -> dict[str, np.ndarray]:
    middle = (HIDDEN + OUT) // 2
    return {"proj.0.weight": values("proj.0", middle, HIDDEN), "proj.2.weight": values("proj.2", OUT, middle)}


def write_bert(folder: Path, **changes: object) -> Path:
    """A folder with a BERT; ``changes`` go into its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(bert_weights(), folder / "model.safetensors")
    write_tokenizer(folder, **changes)
    return folder


def write_tokenizer(folder: Path, **changes: object) -> Path:
    """What BiomedCLIP needs of the BERT beside its own checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


def write_biomedclip(folder: Path) -> Path:
    """A folder with the checkpoint and its open_clip_config.json, without the BERT's files."""
    folder.mkdir(parents=True, exist_ok=True)
    text = {f"text.transformer.{name}": value for name, value in bert_weights().items()}
    text |= {f"text.{name}": value for name, value in projection_weights().items()}
    save_file({**text, "visual.patch": values("patch", 3)}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP))
    return folder

"""BERT's encoder in plain torch (Devlin et al., NAACL 2019), from a folder in the layout that model hubs use.

One text at a time, so that nothing is padded, nothing masked, and a vector does not depend on its neighbours. MiniLM,
BERT, BiomedBERT and the text tower of BiomedCLIP are all this network.

Axes: L tokens of a text, D hidden size, H heads.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from gleanseg.errors import UserError

if TYPE_CHECKING:
    Activation = Callable[[Tensor], Tensor]

_ACTIVATIONS: "dict[str, Activation]" = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
_UNUSED = ("cls.", "pooler.", "embeddings.position_ids")  # heads of pre-training, and a buffer


@dataclass(frozen=True, kw_only=True)
class Config:
    """What ``config.json`` says of the network.

    Attributes:
        hidden_size: numbers per token.
        num_layers: of the encoder.
        num_heads: of each layer.
        eps: of the layer norms.
        activation: of the feed-forward part.
        max_tokens: positions that the network knows.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    eps: float
    activation: str
    max_tokens: int


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model's folder.

    Raises:
        UserError: not one.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); copy the model's folder again") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object; copy the model's folder again")
    return data


def read_config(path: Path) -> Config:
    """Read ``config.json``.

    Raises:
        UserError: not a BERT, or one of a kind that this encoder would silently get wrong.
    """
    data = read_json(path)
    try:
        config = Config(
            hidden_size=int(data["hidden_size"]),
            num_layers=int(data["num_hidden_layers"]),
            num_heads=int(data["num_attention_heads"]),
            eps=float(data.get("layer_norm_eps", 1e-12)),
            activation=str(data.get("hidden_act", "gelu")),
            max_tokens=int(data["max_position_embeddings"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not the configuration of a BERT ({type(error).__name__}: {error})") from None
    kind, positions = data.get("model_type", "bert"), data.get("position_embedding_type", "absolute")
    if kind != "bert" or positions != "absolute":
        raise UserError(f"{path}: a {kind} with {positions} positions, expected a bert with absolute positions")
    if config.activation not in _ACTIVATIONS:
        raise UserError(f"{path}: activation {config.activation!r} is not known (known: {', '.join(_ACTIVATIONS)})")
    return config


def read_weights(path: Path, *, prefix: str = "") -> dict[str, Tensor]:
    """Tensors of a checkpoint whose names begin with ``prefix``, without it, float32. Pickled code is not run.

    Raises:
        UserError: damaged, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(str(path), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path}: damaged weights ({_first_line(error)}); copy the file again") from None
    except Exception as error:  # pickle's errors have no common base
        raise UserError(f"{path}: not a file of weights alone ({_first_line(error)}); use the .safetensors") from None
    found = tensors.get("state_dict", tensors)
    return {k.removeprefix(prefix): v.float() for k, v in found.items() if k.startswith(prefix)}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        UserError: not readable.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror}); copy the file again") from None


class Bert:
    """Last hidden states of BERT, without dropout and gradients.

    Args:
        config: of the network.
        weights: named as in the published checkpoints; names of old ones (``bert.``, ``gamma``, ``beta``) count too.
        source: file that messages name.

    Raises:
        UserError: a tensor is missing or of another shape than the configuration says.
    """

    def __init__(self, config: Config, weights: Mapping[str, Tensor], *, source: Path) -> None:
        self.config = config
        self._w = {_modern(name): tensor for name, tensor in weights.items()}
        for name, shape in _shapes(config, self._w).items():
            found = tuple(self._w[name].shape) if name in self._w else None
            if found != shape:
                what = "is not there" if found is None else f"is {found}"
                raise UserError(f"{source}: {name} {what}, config.json wants {shape}; take both from one model")
        extra = [n for n in self._w if n not in _shapes(config, self._w) and not n.startswith(_UNUSED)]
        if extra:
            raise UserError(f"{source}: holds {extra[0]}, which a BERT of this config.json has not")

    def word_embeddings(self, ids: Sequence[int]) -> Float[Tensor, "L D"]:
        """Rows of the input table, one per token, without position or context."""
        return self._w["embeddings.word_embeddings.weight"][torch.tensor(ids)]

    @torch.no_grad()
    def __call__(self, ids: Sequence[int]) -> Float[Tensor, "L D"]:
        """Hidden states of the last layer."""
        x = self.word_embeddings(ids)
        x = x + self._w["embeddings.position_embeddings.weight"][: len(ids)]
        x = x + self._w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        for layer in range(self.config.num_layers):
            name = f"encoder.layer.{layer}"
            x = self._norm(x + self._attend(x, f"{name}.attention"), f"{name}.attention.output.LayerNorm")
            wide = _ACTIVATIONS[self.config.activation](self._linear(x, f"{name}.intermediate.dense"))
            x = self._norm(x + self._linear(wide, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        return x

    def _attend(self, x: Float[Tensor, "L D"], name: str) -> Float[Tensor, "L D"]:
        q, k, v = (
            self._linear(x, f"{name}.self.{part}").reshape(len(x), self.config.num_heads, -1).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        mixed_HLd = functional.scaled_dot_product_attention(q, k, v)
        return self._linear(mixed_HLd.transpose(0, 1).flatten(1), f"{name}.output.dense")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self._w[f"{name}.weight"], self._w[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        size = (self.config.hidden_size,)
        return functional.layer_norm(x, size, self._w[f"{name}.weight"], self._w[f"{name}.bias"], self.config.eps)


def _modern(name: str) -> str:
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _shapes(config: Config, weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Every tensor that is used; vocabulary, kinds of text and feed-forward size are read off the weights."""
    d = config.hidden_size
    words = weights.get("embeddings.word_embeddings.weight", torch.empty(0))
    kinds = weights.get("embeddings.token_type_embeddings.weight", torch.empty(0))
    inner = weights.get("encoder.layer.0.intermediate.dense.weight", torch.empty(0)).shape[0]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (words.shape[0], d),
        "embeddings.position_embeddings.weight": (config.max_tokens, d),
        "embeddings.token_type_embeddings.weight": (kinds.shape[0], d),
        "embeddings.LayerNorm.weight": (d,),
        "embeddings.LayerNorm.bias": (d,),
    }
    for layer in range(config.num_layers):
        name = f"encoder.layer.{layer}"
        parts = {f"{name}.attention.self.{part}": (d, d) for part in ("query", "key", "value")}
        parts |= {f"{name}.attention.output.dense": (d, d), f"{name}.intermediate.dense": (inner, d)}
        parts[f"{name}.output.dense"] = (d, inner)
        for part, (rows, columns) in parts.items():
            shapes |= {f"{part}.weight": (rows, columns), f"{part}.bias": (rows,)}
        for norm in (f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"):
            shapes |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    return shapes


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

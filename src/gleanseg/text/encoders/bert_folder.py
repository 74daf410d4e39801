"""What encoders on BERT share: finding the model's files, tokens, pooling."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from gleanseg.errors import UserError
from gleanseg.text.encoders.encoder import Encoder
from gleanseg.text.wordpiece import WordPiece

if TYPE_CHECKING:
    import torch

    from gleanseg.text.bert import Bert, Config

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_KINDS = ("config.json", "vocab.txt", "tokenizer_config.json")


class Model(NamedTuple):
    """Where a model lies.

    Attributes:
        weights: the checkpoint.
        config: ``config.json`` of the BERT.
        vocabulary: ``vocab.txt``.
        revision: which version it is.
    """

    weights: Path
    config: Path
    vocabulary: Path
    revision: str


class BertEncoder(Encoder):
    """An encoder on BERT; subclasses say where the model lies and what comes behind it.

    ``mean`` is the mean of the last hidden states of all tokens, ``cls`` the first token's, ``embeddings`` the mean of
    the words' rows in the input table, and ``token_ids`` the ids themselves as numbers, padded with zeros to
    ``limit``: a literal reading of "tokenizer output", only for ablations, since ids have no magnitude.
    """

    repository: ClassVar[str]
    """Where the model comes from, when no folder is given."""
    max_tokens: ClassVar[int] = 512
    """Longest text that the model was published for, with its first and last token."""
    text_prefix: ClassVar[str] = ""
    """What names of the text side's tensors begin with in the checkpoint."""
    bert_prefix: ClassVar[str] = ""
    """What names of the BERT's tensors begin with behind that."""

    def __init__(
        self, *, model_path: Path | None = None, pooling: str | None = None, revision: str | None = None
    ) -> None:
        from gleanseg.text.bert import sha256_of

        self.model = self._locate(model_path, revision)
        name = type(self).__module__.rpartition(".")[2]
        self.id = self.repository if model_path is None else f"{name}:{model_path.name}"
        self.revision = self.model.revision
        self.weights_sha256 = sha256_of(self.model.weights)
        self.pooling = pooling or self.poolings[0]

    @abstractmethod
    def _locate(self, model_path: Path | None, revision: str | None) -> Model:
        """The model's files.

        Raises:
            UserError: not to be had.
        """

    def tokens(self, text: str) -> list[str]:
        """Pieces of a text as the network sees them.

        Raises:
            UserError: empty, or longer than ``limit``.
        """
        if not text.strip():
            raise UserError(f"encoder {self.id}: a text is empty; give every ROI a prompt")
        tokens = self.tokenizer.tokens(text)
        if len(tokens) > self.limit:
            raise UserError(
                f"encoder {self.id}: {text[:40]!r}... has {len(tokens)} tokens, it takes {self.limit};"
                " give several shorter texts, whose vectors are averaged"
            )
        return tokens

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "N d"]:
        """One vector per text."""
        rows = [self._encode_one(self.tokenizer.ids(self.tokens(text))) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, 0), np.float32)

    @cached_property
    def limit(self) -> int:
        """Longest text in tokens: ``max_tokens``, or what positions there are."""
        return min(self.max_tokens, self._config.max_tokens)

    @cached_property
    def tokenizer(self) -> WordPiece:
        """Read once, when first needed."""
        from gleanseg.text.bert import read_json

        settings = self.model.vocabulary.with_name("tokenizer_config.json")
        lower = read_json(settings).get("do_lower_case", True) if settings.is_file() else True
        return WordPiece.load(self.model.vocabulary, lower_case=bool(lower))

    @cached_property
    def weights(self) -> "Mapping[str, torch.Tensor]":
        """The text side's tensors, by their names behind ``text_prefix``."""
        from gleanseg.text.bert import read_weights

        return read_weights(self.model.weights, prefix=self.text_prefix)

    @cached_property
    def bert(self) -> "Bert":
        """The network, read once, when first needed."""
        from gleanseg.text.bert import Bert

        prefix = self.bert_prefix
        weights = {k.removeprefix(prefix): v for k, v in self.weights.items() if k.startswith(prefix)}
        return Bert(self._config, weights, source=self.model.weights)

    @cached_property
    def _config(self) -> "Config":
        from gleanseg.text.bert import read_config

        return read_config(self.model.config)

    def _encode_one(self, ids: list[int]) -> Float[np.ndarray, " d"]:
        if self.pooling == "token_ids":
            padded = np.zeros(self.limit, np.float32)
            padded[: len(ids)] = ids
            return padded
        if self.pooling == "embeddings":
            # Without the first and last token, which are the same in every text.
            pooled = self.bert.word_embeddings(ids[1:-1] or ids).mean(0)
        else:
            hidden_LD = self.bert(ids)
            pooled = hidden_LD[0] if self.pooling == "cls" else hidden_LD.mean(0)
        vector: Float[np.ndarray, " d"] = self._project(pooled).numpy()
        return vector

    def _project(self, pooled: "torch.Tensor") -> "torch.Tensor":
        """What comes behind the BERT; nothing by default."""
        return pooled


class HubEncoder(BertEncoder):
    """A BERT as it lies on the model hub: one folder with weights, configuration and vocabulary."""

    def _locate(self, model_path: Path | None, revision: str | None) -> Model:
        if model_path is not None:
            return model_in(model_path, revision="local")
        folder, found = download(self.repository, _KINDS, weights=WEIGHTS, revision=revision)
        return model_in(folder, revision=found)


def model_in(folder: Path, *, revision: str) -> Model:
    """The model in a folder.

    Raises:
        UserError: a file is not there.
    """
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    needed = {"config.json": folder / "config.json", "vocab.txt": folder / "vocab.txt", " or ".join(WEIGHTS): weights}
    missing = [name for name, path in needed.items() if path is None or not path.is_file()]
    if missing or weights is None:
        raise UserError(f"{folder}: no {', no '.join(missing)}; copy a model's folder there, with all of its files")
    return Model(weights, folder / "config.json", folder / "vocab.txt", revision)


def download(
    repository: str, names: Sequence[str], *, weights: Sequence[str] = (), revision: str | None = None
) -> tuple[Path, str]:
    """Fetch files from the model hub, or find them where an earlier download left them.

    Args:
        repository: its name there.
        names: files to fetch; those that it has not are left out.
        weights: names of the weight file, the best first; the first that exists is fetched.
        revision: commit, branch or tag; None: the newest.

    Returns:
        The folder, and the commit.

    Raises:
        UserError: no client installed, or no network.
    """
    snapshot = _hub_client(repository)
    try:
        folder = Path(snapshot(repository, allow_patterns=[*names, *weights[:1]], revision=revision))
        for name in weights[1:]:
            if not any((folder / w).is_file() for w in weights):
                folder = Path(snapshot(repository, allow_patterns=[name], revision=revision))
    except Exception as error:  # errors of the client and of the network have no common base
        said = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{repository}: not to be had from the model hub ({type(error).__name__}: {said}); fetch its files on a"
            " machine with a network, copy them here, and name their folder with --model-path"
        ) from None
    return folder, folder.name


def _hub_client(repository: str) -> Callable[..., str]:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{repository}: downloading needs huggingface_hub; pip install 'gleanseg[text]', or name a folder that"
            " holds the model with --model-path"
        ) from None
    return snapshot_download

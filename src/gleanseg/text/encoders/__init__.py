"""One file per text encoder; the file's name is the encoder's name on the command line."""

from pathlib import Path

from gleanseg.errors import UserError
from gleanseg.resolve import resolve
from gleanseg.text.encoders.encoder import Encoder


def build_encoder(
    name: str, *, model_path: Path | None = None, pooling: str | None = None, revision: str | None = None
) -> Encoder:
    """Make an encoder.

    Args:
        name: of a file of this folder, or of an entry point of the group ``gleanseg.text.encoders``.
        model_path: folder with the model; by default the encoder finds or downloads its own.
        pooling: one of the encoder's ``poolings``; default: its first.
        revision: of the model hub; default: the newest.

    Raises:
        UserError: no such encoder or pooling, or the model is not to be had.
    """
    cls = resolve("text.encoders", name)
    assert issubclass(cls, Encoder), f"{name} is not an Encoder"
    if pooling is not None and pooling not in cls.poolings:
        raise UserError(f"encoder {name}: no pooling {pooling!r} (known: {', '.join(cls.poolings)})")
    if model_path is not None and revision is not None:
        raise UserError(f"encoder {name}: a revision is of the model hub; leave it out beside {model_path}")
    return cls(model_path=model_path, pooling=pooling, revision=revision)

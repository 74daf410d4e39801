"""Vectors that were made before, one small file per (encoder, weights, pooling, text)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gleanseg.text.encoders.encoder import Encoder
from gleanseg.text.files import cache_folder, write_bytes

_DIGEST = 32  # bytes of a SHA-256


class Cache:
    """A folder of vectors.

    An entry is the SHA-256 of what follows, then the float32 numbers, little-endian; one that is damaged is made again.

    Args:
        folder: where they lie; None: ``text`` in ``cache_folder()``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder() / "text"

    def encode(self, encoder: Encoder, texts: Sequence[str]) -> Float[np.ndarray, "N d"]:
        """The encoder's vectors of the texts; only what is not here yet is computed.

        A folder that cannot be written costs time and nothing else.

        Raises:
            UserError: of the encoder.
        """
        unique = list(dict.fromkeys(texts))
        found = {text: self._read(self._path(encoder, text)) for text in unique}
        missing = [text for text in unique if found[text] is None]
        made = dict(zip(missing, encoder.encode(missing), strict=True)) if missing else {}
        for text, vector in made.items():
            self._write(self._path(encoder, text), vector)
        rows = [made[text] if text in made else found[text] for text in texts]
        return np.stack([row for row in rows if row is not None])

    def _path(self, encoder: Encoder, text: str) -> Path:
        key = json.dumps([encoder.id, encoder.weights_sha256, encoder.pooling, text])
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.vector"

    @staticmethod
    def _read(path: Path) -> Float[np.ndarray, " d"] | None:
        try:
            data = path.read_bytes()
        except OSError:
            return None
        body = data[_DIGEST:]
        if not body or hashlib.sha256(body).digest() != data[:_DIGEST]:
            return None
        return np.frombuffer(body, dtype="<f4").astype(np.float32)

    @staticmethod
    def _write(path: Path, vector: Float[np.ndarray, " d"]) -> None:
        body = vector.astype("<f4").tobytes()
        try:
            write_bytes(path, hashlib.sha256(body).digest() + body)
        except OSError:
            return

"""Vectors of texts: one row per response, made once, with the hash of the responses that they belong to.

Axes: N responses of a text, D numbers per response.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gleanseg.errors import UserError, nearest
from gleanseg.text.cache import Cache
from gleanseg.text.encoders.encoder import Encoder
from gleanseg.text.files import Arrays, has_arrays, read_arrays, write_arrays
from gleanseg.text.table import unit_rows
from gleanseg.text.texts import Text

_KEY = "gleanseg_text_knowledge"
_VERSION = 1
_MAKE = "gleanseg text encode --knowledge NAME|FILE.json"
_SHIPPED = Path(__file__).parent / "tables" / "responses-minilm.safetensors"


@dataclass(frozen=True, kw_only=True)
class Made:
    """How vectors were made.

    Attributes:
        encoder: its id.
        revision: of the encoder.
        weights_sha256: of the encoder's weight file.
        pooling: how the tokens of a response became one vector.
        normalized: whether rows have length 1.
    """

    encoder: str
    revision: str
    weights_sha256: str
    pooling: str
    normalized: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """Vectors of some texts, all by one encoder.

    Attributes:
        rows: [N, D] of each text, by its name.
        hashes: SHA-256 of each text's responses, by its name.
        made: how.
    """

    rows: Arrays
    hashes: Mapping[str, str]
    made: Made

    @classmethod
    def make(
        cls, encoder: Encoder, texts: Sequence[Text], *, normalize: bool = True, cache: Cache | None = None
    ) -> "Vectors":
        """Encode each response alone.

        Args:
            encoder: computes the vectors.
            texts: of different names.
            normalize: give every row length 1.
            cache: where vectors are kept; None: the user's.

        Raises:
            UserError: of the encoder; or two texts have one name.
        """
        names = [text.name for text in texts]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"two texts are called {twice[0]!r}; rename a file, or leave one out")
        cache = cache or Cache()
        rows = {text.name: cache.encode(encoder, text.responses) for text in texts}
        made = Made(
            encoder=encoder.id,
            revision=encoder.revision,
            weights_sha256=encoder.weights_sha256,
            pooling=encoder.pooling,
            normalized=normalize,
        )
        return cls(
            rows={name: unit_rows(rows_ND) if normalize else rows_ND for name, rows_ND in rows.items()},
            hashes={text.name: text.sha256 for text in texts},
            made=made,
        )

    @classmethod
    def load(cls, path: Path) -> "Vectors":
        """Read a file of vectors; half precision becomes single.

        Raises:
            UserError: missing, damaged, or another kind of file.
        """
        rows, told = read_arrays(path, key=_KEY, kind="file", make=_MAKE)
        try:
            return _checked(rows, told)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: broken file of vectors ({error}); make it again: {_MAKE}") from None

    @staticmethod
    def is_in(path: Path) -> bool:
        """Whether a file holds vectors of texts, and not something else."""
        return has_arrays(path, key=_KEY)

    def save(self, path: Path, *, half: bool = False) -> None:
        """Write the vectors; the file appears complete or not at all.

        Args:
            path: file to write, by custom ``.safetensors``.
            half: in half precision, which changes unit rows by less than 1e-3.

        Raises:
            UserError: not writable.
        """
        told = {"version": _VERSION, "responses_sha256": dict(self.hashes), "made": asdict(self.made)}
        kind = np.float16 if half else np.float32
        write_arrays(path, {name: rows_ND.astype(kind) for name, rows_ND in self.rows.items()}, key=_KEY, told=told)

    def holds(self, text: Text) -> bool:
        """Whether these very responses are among them, under whichever name."""
        return text.sha256 in self.hashes.values()

    def of(self, text: Text, *, source: str) -> Float[np.ndarray, "N D"]:
        """Rows of a text's responses.

        Args:
            text: whose.
            source: file that messages name.

        Raises:
            UserError: the text is not among them, or was another one when they were made.
        """
        for name, sha256 in self.hashes.items():
            if sha256 == text.sha256:
                return self.rows[name]
        again = f"encode it: gleanseg text encode --knowledge {text.name} -o FILE"
        if text.name in self.hashes:
            raise UserError(f"{source}: its vectors of {text.name!r} belong to other responses; {again}")
        near, held = nearest(text.name, self.hashes), ", ".join(self.hashes)
        raise UserError(f"{source}: no vectors of {text.name!r}{near} (it holds {held}); {again}")


@cache
def shipped_vectors() -> Vectors:
    """Vectors of all shipped texts, made by MiniLM."""
    return Vectors.load(_SHIPPED)


def digest(rows_ND: Float[np.ndarray, "N D"]) -> str:
    """SHA-256 of the very numbers."""
    return hashlib.sha256(np.ascontiguousarray(rows_ND, "<f4").tobytes()).hexdigest()


def _checked(rows: Arrays, told: Any) -> Vectors:
    """Put vectors together and check that the parts fit.

    Raises:
        KeyError, TypeError, ValueError: they do not.
    """
    if told["version"] != _VERSION:
        raise ValueError(f"version {told['version']}, expected {_VERSION}")
    hashes = {str(name): str(sha256) for name, sha256 in told["responses_sha256"].items()}
    if not hashes or set(hashes) != set(rows):
        raise ValueError(f"hashes of {sorted(hashes)}, vectors of {sorted(rows)}")
    if any(rows_ND.ndim != 2 for rows_ND in rows.values()) or len({rows_ND.shape[1] for rows_ND in rows.values()}) > 1:
        raise ValueError(f"shapes {[rows_ND.shape for rows_ND in rows.values()]}")
    if not all(np.isfinite(rows_ND).all() for rows_ND in rows.values()):
        raise ValueError("values that are no numbers")
    return Vectors(rows=rows, hashes=hashes, made=Made(**told["made"]))

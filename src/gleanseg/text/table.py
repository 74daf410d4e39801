"""Tables of text vectors: one row per ROI, made once, frozen, with all that is needed to make it again.

Axes: K rows of a table, R ROIs asked for, D numbers per row.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gleanseg.errors import UserError, nearest
from gleanseg.rois.ontology import builtin
from gleanseg.text.cache import Cache
from gleanseg.text.encoders.encoder import Encoder
from gleanseg.text.files import Arrays, read_arrays, write_arrays
from gleanseg.text.prompts import prompts_of

_KEY = "gleanseg_text_table"
_VERSION = 1
_MAKE = "gleanseg text encode"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How a table was made.

    Attributes:
        encoder: its id.
        revision: of the encoder.
        weights_sha256: of the encoder's weight file; empty where there are none.
        pooling: how the tokens of a text became one vector.
        template: that the prompts were made with; a name or a text with ``{x}``.
        modality: that the prompts speak of.
        normalized: whether rows have length 1.
        centered: whether ``mean_D`` was subtracted from the rows.
    """

    encoder: str
    revision: str
    weights_sha256: str
    pooling: str
    template: str
    modality: str
    normalized: bool
    centered: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Vectors of ROIs.

    Attributes:
        names: ROI ids, in the order of the rows.
        vectors_KD: one row per name.
        mean_D: what ``center`` subtracts: the mean row of all built-in ROIs under the same encoder, template and
            modality. It belongs to the encoder and not to the selection, so rows do not move when ROIs are added, and
            a table of two ROIs is not turned into a vector and its negative.
        prompts: texts of each row; several are averaged.
        origin: how it was made.
    """

    names: tuple[str, ...]
    vectors_KD: Float[np.ndarray, "K D"]
    mean_D: Float[np.ndarray, " D"]
    prompts: Mapping[str, tuple[str, ...]]
    origin: Origin

    @classmethod
    def make(
        cls,
        encoder: Encoder,
        prompts: Mapping[str, Sequence[str]],
        *,
        template: str,
        modality: str,
        reference: Sequence[str] | None = None,
        normalize: bool = True,
        cache: Cache | None = None,
    ) -> "Table":
        """Encode texts.

        Args:
            encoder: computes the vectors.
            prompts: texts of each ROI id; the vectors of several are averaged, then normalized.
            template: that the prompts were made with.
            modality: that they speak of, ``CT`` or ``MR``.
            reference: texts that ``mean_D`` is taken over; None: the built-in ROIs, under the template and modality;
                empty: the rows themselves.
            normalize: give every row length 1.
            cache: where vectors are kept; None: the user's.

        Raises:
            UserError: of the encoder; or nothing to encode.
        """
        if not prompts or not all(prompts.values()):
            raise UserError("text table: nothing to encode; name at least one ROI, each with a prompt")
        if reference is None:
            reference = list(prompts_of(list(builtin().rois.values()), template=template, modality=modality).values())
        cache = cache or Cache()
        texts = [text for several in prompts.values() for text in several]
        rows = iter(cache.encode(encoder, [*texts, *reference]))
        vectors_KD = np.stack([np.mean([next(rows) for _ in several], axis=0) for several in prompts.values()])
        others = np.stack(list(rows)) if reference else vectors_KD
        if normalize:
            vectors_KD, others = unit_rows(vectors_KD), unit_rows(others)
        origin = Origin(
            encoder=encoder.id,
            revision=encoder.revision,
            weights_sha256=encoder.weights_sha256,
            pooling=encoder.pooling,
            template=template,
            modality=modality,
            normalized=normalize,
        )
        return cls(
            names=tuple(prompts),
            vectors_KD=vectors_KD.astype(np.float32),
            mean_D=others.mean(axis=0, dtype=np.float64).astype(np.float32),
            prompts={name: tuple(several) for name, several in prompts.items()},
            origin=origin,
        )

    @classmethod
    def load(cls, path: Path) -> "Table":
        """Read a table; half precision becomes single.

        Raises:
            UserError: missing, damaged, or not a table.
        """
        arrays, told = read_arrays(path, key=_KEY, kind="table", make=_MAKE)
        try:
            return _from_json(told, arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: broken table ({error}); make it again: {_MAKE}") from None

    def save(self, path: Path, *, half: bool = False) -> None:
        """Write the table; it appears complete or not at all.

        Args:
            path: file to write, by custom ``.safetensors``.
            half: in half precision, which changes unit rows by less than 1e-3.

        Raises:
            UserError: not writable.
        """
        told = {
            "version": _VERSION,
            "names": self.names,
            "prompts": {name: list(texts) for name, texts in self.prompts.items()},
            "origin": asdict(self.origin),
        }
        kind = np.float16 if half else np.float32
        arrays = {"vectors": self.vectors_KD.astype(kind), "mean": self.mean_D.astype(kind)}
        write_arrays(path, arrays, key=_KEY, told=told)

    def of(self, rois: Sequence[str]) -> "Table":
        """The rows of these ROIs, in this order.

        Raises:
            UserError: an ROI has no row.
        """
        places = {name: place for place, name in enumerate(self.names)}
        missing = [roi for roi in rois if roi not in places]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise UserError(
                f"text table of {self.origin.encoder}: no row for {missing[0]!r}{more}"
                f"{nearest(missing[0], self.names)}; make a table with it: gleanseg text encode --rois"
                f" {' '.join(rois[:4])}{' ...' if len(rois) > 4 else ''} -o table.safetensors, with --manifest for ROIs"
                " that a manifest declares"
            )
        return replace(
            self,
            names=tuple(rois),
            vectors_KD=self.vectors_KD[[places[roi] for roi in rois]],
            prompts={roi: self.prompts[roi] for roi in rois},
        )

    def joined(self, other: "Table") -> "Table":
        """These rows, then those of a table of the same origin; ``mean_D`` stays.

        Raises:
            UserError: made differently, or a name stands in both.
        """
        if self.origin != other.origin:
            mine, theirs = asdict(self.origin), asdict(other.origin)
            key = next(key for key in mine if mine[key] != theirs[key])
            raise UserError(f"text tables differ in {key}: {mine[key]!r} and {theirs[key]!r}; make them alike")
        twice = [name for name in other.names if name in self.names]
        if twice:
            raise UserError(f"text tables: {twice[0]!r} stands in both; leave it out of one")
        return replace(
            self,
            names=self.names + other.names,
            vectors_KD=np.concatenate([self.vectors_KD, other.vectors_KD]),
            prompts={**self.prompts, **other.prompts},
        )

    def center(self) -> "Table":
        """Rows minus ``mean_D``, with length 1 again where they had it; a centered table is returned as it is.

        A template gives all rows a large common part: with the default one, cosines of the ROIs of MOTS are 0.67 on
        average, and without their mean they tell the ROIs apart.
        """
        if self.origin.centered:
            return self
        rows = self.vectors_KD - self.mean_D
        rows = unit_rows(rows) if self.origin.normalized else rows
        return replace(self, vectors_KD=rows.astype(np.float32), origin=replace(self.origin, centered=True))

    def cosines(self) -> Float[np.ndarray, "K K"]:
        """Cosine between every two rows."""
        unit = unit_rows(self.vectors_KD)
        cosines_KK: Float[np.ndarray, "K K"] = unit @ unit.T
        return cosines_KK

    def provenance(self) -> dict[str, Any]:
        """What a run keeps of the table: origin, prompts and the hash of the very numbers, as JSON can hold it."""
        return {
            **asdict(self.origin),
            "dim": self.vectors_KD.shape[1],
            "prompts": {name: list(texts) for name, texts in self.prompts.items()},
            "vectors_sha256": hashlib.sha256(np.ascontiguousarray(self.vectors_KD, "<f4").tobytes()).hexdigest(),
        }


def unit_rows(rows: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "K D"]:
    """Rows with length 1; a row of zeros stays one."""
    wide = rows.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(length > 0, length, 1.0)).astype(np.float32)


def _from_json(told: Any, arrays: Arrays) -> Table:
    """Put a table together and check that its parts fit.

    Raises:
        KeyError, TypeError, ValueError: they do not.
    """
    if told["version"] != _VERSION:
        raise ValueError(f"version {told['version']}, expected {_VERSION}")
    names = tuple(str(name) for name in told["names"])
    vectors_KD, mean_D = arrays["vectors"], arrays["mean"]
    if vectors_KD.ndim != 2 or len(vectors_KD) != len(names) or mean_D.shape != vectors_KD.shape[1:]:
        raise ValueError(f"{len(names)} names, vectors {vectors_KD.shape}, mean {mean_D.shape}")
    if len(set(names)) < len(names):
        raise ValueError("a name stands twice")
    if not (np.isfinite(vectors_KD).all() and np.isfinite(mean_D).all()):
        raise ValueError("values that are no numbers")
    return Table(
        names=names,
        vectors_KD=vectors_KD,
        mean_D=mean_D,
        prompts={name: tuple(told["prompts"][name]) for name in names},
        origin=Origin(**told["origin"]),
    )

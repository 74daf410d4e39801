"""A folder of predicted label maps: what ``gleanseg predict`` writes, or another tool's with the values named."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gleanseg.data import images
from gleanseg.data.images import Grid
from gleanseg.errors import UserError, nearest
from gleanseg.evaluate.labels import Labels, Layer
from gleanseg.rois.ontology import Ontology

LABELS_FILE = "labels.json"
MAX_SHIFT = 0.1
"""A prediction may lie this far (in voxels) from its image; rounding of headers stays far below."""

Values = Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Where predictions lie and what their values mean.

    Attributes:
        folder: holds ``<case>.nii.gz`` (or another ending), and ``layers/`` where ROIs overlap.
        layers: file suffix and values of each layer.
        rois: ids that the predictions hold, unions of held members included.
        digest: SHA-256 of ``labels.json``, or of the values that stand in for it.
    """

    folder: Path
    layers: tuple[tuple[str, Values], ...]
    rois: tuple[str, ...]
    digest: str

    @classmethod
    def open(
        cls, folder: Path, *, ontology: Ontology, wanted: Sequence[str], values: Values | None = None
    ) -> "Predictions":
        """Look at a folder.

        Args:
            folder: of label maps.
            ontology: names the ROIs.
            wanted: ROIs of the manifest; a union among them that is not held, but whose members all are, is added.
            values: of plain label maps; None reads ``labels.json``.

        Raises:
            UserError: no folder, no or broken ``labels.json``, values given twice, or an ROI nobody knows.
        """
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected one label map per case (`gleanseg predict` makes it)")
        file = folder / LABELS_FILE
        if values is not None:
            if file.exists():
                raise UserError(f"{file} says what the values mean; leave --values out, or move that file away")
            layers: tuple[tuple[str, Values], ...] = (("", values),)
            text = json.dumps({str(v): list(values[v]) for v in sorted(values)})
        elif not file.exists():
            raise UserError(f"{file}: missing; for label maps of another tool say what they hold: --values 1=liver ...")
        else:
            text = file.read_text(encoding="utf-8")
            layers = _layers_of(file, text)
        held = [ontology.find(roi).id for _, names in layers for rois in names.values() for roi in rois]
        layers = tuple(
            (suffix, {v: tuple(ontology.find(r).id for r in rois) for v, rois in names.items()})
            for suffix, names in layers
        )
        layers = _with_unions(layers, ontology, [roi for roi in wanted if roi not in held])
        rois = tuple(dict.fromkeys(roi for _, names in layers for inside in names.values() for roi in inside))
        if not set(rois) & set(wanted):
            close = nearest(rois[0], wanted) if rois else ""
            raise UserError(
                f"{folder}: holds {', '.join(rois) or 'no ROI'}, the manifest {', '.join(wanted)}; "
                f"nothing in common to evaluate{close}"
            )
        return cls(folder=folder, layers=layers, rois=rois, digest=hashlib.sha256(text.encode()).hexdigest())

    def files(self, case: str) -> tuple[Path, ...]:
        """The label maps of a case, one per layer; empty when one is missing."""
        places = [(self.folder, "")] if len(self.layers) == 1 else [(self.folder / "layers", s) for s, _ in self.layers]
        found = [_file(folder, case + suffix) for folder, suffix in places]
        return tuple(file for file in found if file is not None) if None not in found else ()

    def read(self, case: str, grid: Grid) -> Labels:
        """Read the predicted masks of a case.

        Args:
            case: id.
            grid: of the image, on which the prediction must lie.

        Raises:
            UserError: missing or broken file, another grid, a value without meaning, or values that are not whole.
        """
        files = self.files(case)
        if not files:
            raise UserError(f"case {case!r}: no prediction in {self.folder}")
        layers = []
        for file, (_, values) in zip(files, self.layers, strict=True):
            volume = images.read(file)
            _check_grid(case, file, volume.grid, volume.array.shape, grid)
            layers.append(_layer(case, file, volume.array, values, self.rois))
        return Labels(layers, rois=self.rois, shape_ZYX=grid.shape_ZYX)


def parse_values(words: Sequence[str], ontology: Ontology) -> dict[int, tuple[str, ...]]:
    """``1=liver`` or ``2=liver,liver_tumor`` (a value inside several ROIs) to a mapping of values to ROI ids.

    Raises:
        UserError: not of this form, a value that stands twice, or an unknown ROI.
    """
    values: dict[int, tuple[str, ...]] = {}
    for word in words:
        value, equals, names = word.partition("=")
        if not equals or not value.strip().isdecimal() or not names.strip():
            raise UserError(f"--values {word!r}: expected VALUE=ROI or VALUE=ROI,ROI, for example 2=liver,liver_tumor")
        if int(value) in values:
            raise UserError(f"--values {word!r}: value {int(value)} stands twice; write its ROIs in one list")
        values[int(value)] = tuple(ontology.find(name.strip()).id for name in names.split(","))
    return values


def _layers_of(file: Path, text: str) -> tuple[tuple[str, Values], ...]:
    try:
        listed: list[dict[str, Any]] = json.loads(text)["layers"]
        return tuple(
            (str(one["file_suffix"]), {int(v): tuple(map(str, rois)) for v, rois in one["values"].items()})
            for one in listed
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: damaged ({type(error).__name__}: {error}); run `gleanseg predict` again") from None


def _with_unions(
    layers: tuple[tuple[str, Values], ...], ontology: Ontology, lacking: Sequence[str]
) -> tuple[tuple[str, Values], ...]:
    for union in lacking:
        members = set(ontology[union].members)
        held = {roi for _, names in layers for rois in names.values() for roi in rois}
        if members and members <= held:
            layers = tuple(
                (suffix, {v: (*rois, union) if members & set(rois) else rois for v, rois in names.items()})
                for suffix, names in layers
            )
    return layers


def _file(folder: Path, stem: str) -> Path | None:
    for suffix in images.SUFFIXES:
        if (path := folder / f"{stem}{suffix}").is_file():
            return path
    return None


def _check_grid(case: str, file: Path, found: Grid, shape: tuple[int, ...], wanted: Grid) -> None:
    if shape != wanted.shape_ZYX:
        raise UserError(
            f"case {case!r}: {file} has shape {shape[::-1]} (x, y, z), its image {wanted.shape_ZYX[::-1]}; "
            "predictions are scored on the image's own grid: resample them onto it"
        )
    if wanted.offset_mm(found) > MAX_SHIFT * min(wanted.spacing_ZYX_mm):
        raise UserError(
            f"case {case!r}: {file} lies up to {wanted.offset_mm(found):.3g} mm from its image "
            f"({found.orientation} against {wanted.orientation}); resample it, or copy the image's header "
            "where only the header is wrong"
        )


def _layer(case: str, file: Path, array: NDArray[Any], values: Values, rois: Sequence[str]) -> Layer:
    low, high = array.min(initial=0), array.max(initial=0)
    if array.dtype.kind == "f" and not np.array_equal(np.rint(array), array):
        raise UserError(f"case {case!r}: {file} holds values that are not whole numbers; expected a label map")
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise UserError(f"case {case!r}: {file} holds values from {low} to {high}, expected 0 to 65535")
    codes: NDArray[Any] = array.astype(
        np.uint8 if max(high, *values, 0) <= np.iinfo(np.uint8).max else np.uint16, copy=False
    )
    table = np.zeros((int(max(high, *values, 0)) + 1, len(rois)), dtype=np.bool_)
    column = {roi: r for r, roi in enumerate(rois)}
    for value, inside in values.items():
        table[value, [column[roi] for roi in inside]] = True
    if high > max(values, default=0) or len(values) < high:
        present = np.flatnonzero(np.bincount(codes.ravel(), minlength=len(table)))
        if stray := [int(v) for v in present if v != 0 and int(v) not in values]:
            declared = ", ".join(map(str, sorted(values))) or "none"
            raise UserError(
                f"case {case!r}: {file} holds value {stray[0]}, which stands for nothing (declared: {declared}); "
                "add it to --values (or to labels.json)"
            )
    return Layer(codes, table)

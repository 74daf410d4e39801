"""How numbers are made: units, definitions and what an empty mask is worth. Protocols are data, one TOML file each."""

import hashlib
import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gleanseg.errors import UserError, nearest
from gleanseg.strict import Section, validate

OVERLAPS = ("dice", "jaccard", "nsd")
DISTANCES = ("hd95", "asd", "assd")
Metric = Literal["dice", "jaccard", "hd95", "asd", "assd", "nsd"]


class Empty(Section):
    """What a (case, ROI) pair scores when masks are empty; ``undefined`` is NaN and left out of means."""

    overlap: float | Literal["undefined"]
    """Dice, Jaccard and NSD."""
    distance: float | Literal["undefined", "diagonal"]
    """HD95, ASD and ASSD; ``diagonal``: the length of the image's diagonal in the protocol's unit."""


class Cleanup(Section):
    """What is done to the predicted mask of one ROI before it is scored; steps run in the order of the fields."""

    roi: str
    """ROI whose predicted mask changes."""
    within: str | None = None
    """Voxels outside this ROI's predicted mask (after its own cleanup) are removed; none when it is not predicted."""
    keep_largest: Annotated[int, Field(gt=0)] | None = None
    """Number of largest components that stay."""
    drop_up_to: Annotated[int, Field(ge=0)] = 0
    """Components of at most this many voxels are removed."""
    spare_single: bool = False
    """``drop_up_to`` does nothing to a mask of one component."""
    connectivity: Literal[6, 18, 26] = 18
    """Neighbors that belong to one component: faces, or also edges, or also corners."""


class Protocol(Section):
    """One way of scoring. Two results may stand side by side only when their protocols are equal."""

    name: str
    summary: str
    """One line for people."""
    sources: tuple[str, ...] = ()
    """Where the definitions come from."""
    unit: Literal["mm", "voxel"] = "mm"
    """Unit of distances; ``voxel`` takes every voxel as a unit cube, whatever the spacing."""
    metrics: tuple[Metric, ...]
    """What is reported, in this order."""
    percentile: Annotated[float, Field(gt=0, le=100)] = 95.0
    """Of the surface distances, for HD95."""
    percentile_of: Literal["pooled", "larger"] = "pooled"
    """``pooled``: percentile of the distances of both directions together (medpy); ``larger``: percentile of each
    direction, then the larger one (MONAI, surface-distance)."""
    asd_from: Literal["prediction", "reference"] = "prediction"
    """Whose surface voxels ASD is the mean over; distances run to the other surface."""
    dice_plus: Annotated[float, Field(ge=0)] = 0.0
    """Added to Dice's denominator."""
    nsd_tolerance: Literal["ontology"] | Annotated[float, Field(ge=0)] = "ontology"
    """In the protocol's unit; ``ontology``: each ROI's own tolerance in mm."""
    both_empty: Empty
    """Neither mask has a voxel."""
    prediction_empty: Empty
    """The structure is there and was missed altogether."""
    reference_empty: Empty
    """The structure is not there and something was predicted."""
    absent: Literal["score", "skip"] = "score"
    """ROIs that the manifest calls absent: scored against an empty reference, or left out because the published
    protocol knows no such state. Annotated ROIs without a voxel are always scored."""
    enlarge: dict[str, tuple[str, ...]] = {}
    """ROI -> ROIs whose predicted voxels are added to its prediction (a tumor counts as its organ)."""
    overwrite: dict[str, tuple[str, ...]] = {}
    """ROI -> ROIs that lose the voxels where it is predicted (one label map cannot hold both)."""
    overwrite_by: Literal["raw", "cleaned"] = "raw"
    """Whether the overwriting masks are those of the files, or those after cleanup."""
    cleanup: tuple[Cleanup, ...] = ()
    """Post-processing of single ROIs, after ``enlarge``."""
    inference: tuple[str, ...] = ()
    """What the protocol asks of the prediction; the evaluator cannot see it, so it is only named."""
    deviations: tuple[str, ...] = ()
    """Where this file differs from the published code."""

    @model_validator(mode="after")
    def _nsd_has_a_unit(self) -> "Protocol":
        if "nsd" in self.metrics and self.unit == "voxel" and self.nsd_tolerance == "ontology":
            raise ValueError("nsd_tolerance: the ontology's tolerances are in mm; give a number of voxels")
        return self

    @classmethod
    def load(cls, name: str | Path) -> "Protocol":
        """A built-in protocol by name, or one of your own by the path of its TOML file.

        Raises:
            UserError: no such protocol, not TOML, an unknown key or a bad value.
        """
        own = str(name).endswith(".toml")
        if not own and name not in protocol_names():
            known = protocol_names()
            close = nearest(str(name), known)
            raise UserError(f"no protocol {str(name)!r}{close} (known: {', '.join(known)}; or give a .toml file)")
        source = Path(name) if own else files("gleanseg.evaluate") / "protocols" / f"{name}.toml"
        try:
            raw = tomllib.loads(source.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{name}: no such protocol file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{name}: not valid TOML: {error}") from None
        return validate(cls, {"name": Path(name).stem, **raw}, where=str(name))

    def digest(self) -> str:
        """SHA-256 of everything that decides a value: all fields but the prose."""
        decisive = self.model_dump(mode="json", exclude={"name", "summary", "sources", "inference", "deviations"})
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def protocol_names() -> list[str]:
    """Names of the built-in protocols, sorted."""
    folder = files("gleanseg.evaluate") / "protocols"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))

"""What preparation does to every volume of a store, planned once from the training cases.

Axes: C channels, Z Y X voxels in the closest RAS order. Validation and test cases have no say in a plan.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from gleanseg.config import PrepareConfig
from gleanseg.data import images
from gleanseg.data.case import Case, Channel
from gleanseg.data.labels import read_image, read_labels
from gleanseg.data.manifest import Manifest
from gleanseg.errors import UserError

_MAX_CASES = 64  # whose voxels are read; shapes and spacings come from all headers
_MAX_VOXELS = 10_000  # sampled per case
_COARSE = 3.0  # an axis this much coarser than the finest is a stack of thick slices
_MANY_ZEROS = 0.25  # share of exact zeros above which the background was removed
_AIR_HU = -500.0
_MEASURED = ("auto", "ct", "zscore")  # intensities that depend on the training cases
T = TypeVar("T")


class Intensity(BaseModel):
    """How one channel is brought onto a common scale.

    ``ct_window`` clips to [low, high] and then subtracts ``mean`` and divides by ``std``, both of the whole training
    set; ``zscore`` uses each case's own mean and standard deviation, of its nonzero voxels only when ``nonzero`` (the
    others become 0); ``none`` leaves values alone. Of published benchmarks: ``volume_zscore`` uses mean and standard
    deviation of the volume before cropping; ``window_zscore`` clips to [low, high] first; ``brain_zscore`` clips at the
    gray level below which 99.9 % of the voxels lie, and uses those of the voxels above 0 for all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ct_window", "zscore", "none", "volume_zscore", "window_zscore", "brain_zscore"]
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    nonzero: bool = False


class LabelBox(BaseModel):
    """Crop in x and y to the box of a case's labels; z stays whole. Reads the labels of test cases too.

    Attributes:
        margin: kept on each side, in voxels of the plan's spacing.
        least: size that the box is filled up to before, half on each side.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["labels"] = "labels"
    margin: int
    least: int

    def __str__(self) -> str:
        return f"labels (also of test cases) + {self.margin} voxels"


class Plan(BaseModel):
    """Everything that turns a native volume into a stored one; equal plans make equal volumes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    spacing_ZYX_mm: tuple[float, float, float]
    intensity: tuple[Intensity, ...]
    resample: Literal["linear", "cubic"]
    crop: Literal["none", "nonzero", "body"] | LabelBox
    orientation: Literal["RAS"] = "RAS"
    rois: tuple[str, ...]
    channels: tuple[Channel, ...]

    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    def difference(self, other: "Plan") -> str:
        """Name the first setting that differs, with both values; empty for equal plans."""
        for name in Plan.model_fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name} is {mine!r} there and {theirs!r} here"
        return ""


class CaseShape(NamedTuple):
    """Size of a case in RAS order."""

    id: str
    shape_ZYX: tuple[int, int, int]
    spacing_ZYX_mm: tuple[float, float, float]


class Fingerprint(NamedTuple):
    """What the training cases are like.

    Attributes:
        cases: shape and spacing of each.
        foreground: sampled intensities of each channel; of annotated voxels where there are any, else of the body in
            CT and of the whole volume otherwise.
        zeros: per channel, the median over cases of the share of voxels that are exactly 0.
    """

    cases: tuple[CaseShape, ...]
    foreground: tuple[Float32[np.ndarray, " N"], ...]
    zeros: tuple[float, ...]


def measure(
    manifest: Manifest,
    *,
    voxels: bool = True,
    num_workers: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> Fingerprint:
    """Measure the training cases; the same manifest always gives the same result.

    Args:
        manifest: all cases; those of other splits are not opened.
        voxels: whether to read voxels (of at most 64 cases, annotated ones first) or headers only.
        num_workers: cases read at a time.
        progress: called with (0, number of cases, "measuring <id>").

    Raises:
        UserError: no training case, or a file that cannot be read.
    """
    training = [case for case in manifest.cases if case.split == "train"]
    if not training:
        raise UserError(f"{manifest.name}: no case has split 'train'; preparation is planned from training cases only")
    shapes = tuple(case_shape(manifest, case) for case in training)
    if not voxels:
        return Fingerprint(shapes, (), ())
    labelled = [case for case in training if case.labels is not None and case.annotated]
    chosen = sorted(labelled or training, key=lambda case: hashlib.sha256(case.id.encode()).digest())[:_MAX_CASES]
    samples = []
    with ThreadPoolExecutor(num_workers) as pool:
        for done, sample in enumerate(pool.map(lambda case: _sample(manifest, case), chosen), start=1):
            samples.append(sample)
            if progress is not None:
                progress(0, len(chosen), f"measuring {chosen[done - 1].id}")
    channels = range(len(manifest.channels))
    return Fingerprint(
        shapes,
        tuple(np.concatenate([values[c] for values, _ in samples]) for c in channels),
        tuple(float(np.median([zeros[c] for _, zeros in samples])) for c in channels),
    )


def make_plan(manifest: Manifest, config: PrepareConfig, fingerprint: Fingerprint) -> Plan:
    """Settle whatever the configuration leaves open."""
    intensity = tuple(
        _intensity(channel, config, _at(fingerprint.foreground, c), _at(fingerprint.zeros, c))
        for c, channel in enumerate(manifest.channels)
    )
    spacing = _auto_spacing(fingerprint.cases) if config.spacing == "auto" else config.spacing[::-1]
    return Plan(
        spacing_ZYX_mm=(_rounded(spacing[0]), _rounded(spacing[1]), _rounded(spacing[2])),
        intensity=intensity,
        resample=config.resample,
        crop=_crop(manifest, config, fingerprint),
        rois=manifest.rois,
        channels=manifest.channels,
    )


def plan(
    manifest: Manifest,
    config: PrepareConfig,
    *,
    num_workers: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> Plan:
    """Measure the training cases as far as the configuration needs it, and settle the plan.

    Raises:
        UserError: see ``measure``.
    """
    voxels = config.intensity in _MEASURED or config.crop == "auto"
    return make_plan(manifest, config, measure(manifest, voxels=voxels, num_workers=num_workers, progress=progress))


def _at(values: Sequence[T], index: int) -> T | None:
    return values[index] if values else None


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _is_ct(channel: Channel) -> bool:
    return channel.modality.casefold() == "ct"


def _auto_spacing(cases: Sequence[CaseShape]) -> tuple[float, float, float]:
    """Median of each axis; a coarse one takes its 10th percentile, so that thin-sliced cases keep their detail."""
    spacings = np.array([case.spacing_ZYX_mm for case in cases])
    median = np.median(spacings, axis=0)
    finest = median.min()
    fine = np.maximum(np.percentile(spacings, 10, axis=0), finest)
    z, y, x = np.where(median > _COARSE * finest, fine, median)
    return float(z), float(y), float(x)


def _crop(
    manifest: Manifest, config: PrepareConfig, fingerprint: Fingerprint
) -> Literal["none", "nonzero", "body"] | LabelBox:
    if config.crop == "labels":
        return LabelBox(margin=config.label_margin, least=config.label_least)
    if config.crop != "auto":
        return config.crop
    if all(_is_ct(channel) for channel in manifest.channels):
        return "body"
    return "nonzero" if fingerprint.zeros and min(fingerprint.zeros) > _MANY_ZEROS else "none"


def _intensity(
    channel: Channel, config: PrepareConfig, foreground: NDArray[np.float32] | None, zeros: float | None
) -> Intensity:
    if config.intensity == "none":
        return Intensity(kind="none")
    if config.intensity == "volume-zscore":
        return Intensity(kind="volume_zscore")
    if config.intensity == "brain-zscore":
        return Intensity(kind="brain_zscore")
    if config.intensity in ("window", "window-zscore"):
        assert config.window is not None, "checked with the recipe"
        low, high = config.window
        if config.intensity == "window-zscore":
            return Intensity(kind="window_zscore", low=low, high=high)
        return Intensity(kind="ct_window", low=low, high=high, mean=(low + high) / 2, std=(high - low) / 2)
    if config.intensity == "ct" or (config.intensity == "auto" and _is_ct(channel)):
        values = np.zeros(1, np.float32) if foreground is None or not len(foreground) else foreground
        low, high = config.window or (float(v) for v in np.percentile(values.astype(np.float64), [0.5, 99.5]))
        clipped = np.clip(values.astype(np.float64), low, high)
        std = _rounded(float(clipped.std()))
        return Intensity(
            kind="ct_window",
            low=_rounded(low),
            high=_rounded(high),
            mean=_rounded(float(clipped.mean())),
            std=std or 1.0,
        )
    return Intensity(kind="zscore", nonzero=zeros is not None and zeros > _MANY_ZEROS)


def case_shape(manifest: Manifest, case: Case) -> CaseShape:
    """Shape and spacing of a case in RAS order, from its header.

    Raises:
        UserError: the file is missing or broken; names the case.
    """
    try:
        grid, _ = images.read_grid(manifest.path(case.images[0]), spacing_mm=case.spacing_mm)
    except UserError as error:
        raise UserError(f"case {case.id!r}: {error}") from error
    ras, _ = images.grid_to_ras(grid)
    return CaseShape(case.id, ras.shape_ZYX, ras.spacing_ZYX_mm)


def _sample(manifest: Manifest, case: Case) -> tuple[list[NDArray[np.float32]], list[float]]:
    """Foreground intensities and share of zeros, per channel."""
    array = read_image(manifest, case).array
    labels = read_labels(manifest, case)
    seed = int.from_bytes(hashlib.sha256(case.id.encode()).digest()[:8])
    inside = None
    if labels is not None and labels.table.any():
        inside = np.flatnonzero(np.take(labels.table.any(axis=1), labels.codes))
    values, zeros = [], []
    for c, channel in enumerate(manifest.channels):
        flat = array[c].reshape(-1)
        index = inside
        if index is None or not len(index):
            every = max(1, flat.size // (20 * _MAX_VOXELS))
            index = np.arange(0, flat.size, every)
            body = index[flat[index] > _AIR_HU] if _is_ct(channel) else index
            index = body if len(body) else index
        if len(index) > _MAX_VOXELS:
            index = np.random.default_rng([seed, c]).choice(index, _MAX_VOXELS, replace=False)
        sample = flat[index]
        values.append(sample[np.isfinite(sample)].astype(np.float32))
        zeros.append(float(np.mean(flat == 0)))
    return values, zeros

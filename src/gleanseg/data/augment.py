"""Augmentation in two parts: ``draw`` decides, ``apply`` does it, on the training device and for a whole batch.

All views of a patch share one voxel grid: the spatial change is made once, and ``strong`` differs from ``weak`` only
by intensity. Axes: B rows, C channels, Z Y X voxels.

Strengths follow nnU-Net (Isensee et al., Nature Methods 2021, supplement 4).
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gleanseg.config import AugmentConfig

T = TypeVar("T")


class Draw(NamedTuple):
    """What was drawn for one patch; replaying it gives the same patch.

    Attributes:
        angles: rotation about the z, y and x axis in radians.
        zoom: factor above 1 shows the anatomy larger.
        flips: axes (Z, Y, X) that are mirrored.
        quarters: quarter turns about the z axis, before the flips; voxels stay voxels.
        scale: factor of all intensities.
        shift: added to all intensities, in standard deviations.
        noise: standard deviation of Gaussian noise (strong).
        blur: standard deviation of a Gaussian blur in voxels, 0 for none (strong).
        brightness: factor (strong).
        contrast: factor about the mean, within the old range (strong).
        low_resolution: share of voxels kept per axis, 1 for all (strong).
        gamma: exponent on intensities scaled to [0, 1], 1 for none (strong).
        invert: whether gamma acts on the negative (strong).
    """

    angles: tuple[float, float, float] = (0.0, 0.0, 0.0)
    zoom: float = 1.0
    flips: tuple[bool, bool, bool] = (False, False, False)
    scale: float = 1.0
    shift: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    low_resolution: float = 1.0
    gamma: float = 1.0
    invert: bool = False
    quarters: int = 0

    @property
    def moves(self) -> bool:
        """Whether voxels must be interpolated."""
        return self.angles != (0.0, 0.0, 0.0) or self.zoom != 1.0

    def turned(self, zyx: tuple[T, T, T]) -> tuple[T, T, T]:
        """What belongs to Z, Y, X on one side of the quarter turns, for the axes on the other side."""
        z, y, x = zyx
        return (z, x, y) if self.quarters % 2 else (z, y, x)

    def matrix(self, spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
        """3 x 3 map from offsets on the target grid to offsets on the source grid (both Z Y X voxels).

        The rotation is rigid in millimetres, whatever the voxels' shape.
        """
        rotation = np.eye(3)
        for axis, angle in enumerate(self.angles):
            i, j = [k for k in range(3) if k != axis]
            turn = np.eye(3)
            turn[i, i] = turn[j, j] = np.cos(angle)
            turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
            rotation = rotation @ turn
        spacing = np.array(spacing_mm)
        return np.diag(1 / spacing) @ rotation @ np.diag(spacing) / self.zoom

    def reach(self, patch_ZYX: NDArray[np.int64], spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
        """How far from its centre the source of a patch extends, in voxels (Z, Y, X)."""
        z, y, x = ((patch_ZYX - 1) / 2).tolist()
        half: NDArray[np.float64] = np.array(self.turned((z, y, x)))
        if not self.moves:
            return half
        reach: NDArray[np.float64] = np.abs(self.matrix(spacing_mm)) @ half
        return reach


def draw(rng: np.random.Generator, config: AugmentConfig, *, mirror_ZYX: tuple[bool, bool, bool]) -> Draw:
    """Decide one patch's augmentation. The generator advances by the same amount whatever is drawn."""
    u = rng.random(24)
    limit = np.deg2rad(config.rotation_degrees)
    rotates, zooms = u[0] < config.rotation_probability, u[1] < config.zoom_probability
    weak, strong = config.intensity, config.strong

    def between(i: int, low: float, high: float) -> float:
        return float(low + (high - low) * u[i])

    def maybe(i: int, probability: float, low: float, high: float, *, otherwise: float, on: bool) -> float:
        return between(i + 1, low, high) if on and u[i] < probability else otherwise

    return Draw(
        angles=(between(2, -limit, limit), between(3, -limit, limit), between(4, -limit, limit))
        if rotates and limit > 0
        else (0.0, 0.0, 0.0),
        zoom=between(5, *config.zoom) if zooms else 1.0,
        flips=(
            bool(mirror_ZYX[0] and u[6] < 0.5),
            bool(mirror_ZYX[1] and u[7] < 0.5),
            bool(mirror_ZYX[2] and u[8] < 0.5),
        ),
        scale=between(9, 0.9, 1.1) if weak else 1.0,
        shift=between(10, -0.1, 0.1) if weak else 0.0,
        noise=maybe(11, 0.1, 0.0, 0.32, otherwise=0.0, on=strong),
        blur=maybe(13, 0.2, 0.5, 1.0, otherwise=0.0, on=strong),
        brightness=maybe(15, 0.15, 0.75, 1.25, otherwise=1.0, on=strong),
        contrast=maybe(17, 0.15, 0.75, 1.25, otherwise=1.0, on=strong),
        low_resolution=maybe(19, 0.25, 0.5, 1.0, otherwise=1.0, on=strong),
        gamma=maybe(21, 0.3, 0.7, 1.5, otherwise=1.0, on=strong),
        invert=bool(u[23] < 1 / 3),
        # A draw of its own, so that recipes without it keep the patches they had.
        quarters=int(rng.integers(4)) if config.rotate90 else 0,
    )


def move(
    source: Tensor,
    center: NDArray[np.float64],
    size_ZYX: tuple[int, int, int],
    drawn: Draw,
    spacing_mm: tuple[float, float, float],
    *,
    nearest: bool,
) -> Tensor:
    """Cut a patch out of a C Z Y X source, rotated and zoomed about ``center``, turned, flipped; 0 outside of it."""
    cut_ZYX = drawn.turned(size_ZYX)
    if drawn.moves:
        patch = _interpolate(source, center, cut_ZYX, drawn.matrix(spacing_mm), nearest=nearest)
    else:
        start = [round(float(c - (s - 1) / 2)) for c, s in zip(center, cut_ZYX, strict=True)]
        z, y, x = (slice(a, a + s) for a, s in zip(start, cut_ZYX, strict=True))
        patch = source[:, z, y, x]
    if drawn.quarters:
        patch = patch.rot90(drawn.quarters, (2, 3))
    flipped = [axis + 1 for axis, flip in enumerate(drawn.flips) if flip]
    return patch.flip(flipped) if flipped else patch


def _interpolate(
    source: Tensor,
    center: NDArray[np.float64],
    size_ZYX: tuple[int, int, int],
    matrix: NDArray[np.float64],
    *,
    nearest: bool,
) -> Tensor:
    # grid_sample speaks x, y, z in [-1, 1] with align_corners; affine_grid has the same convention for the target.
    target_half = (np.array(size_ZYX) - 1) / 2
    source_half = np.maximum((np.array(source.shape[1:]) - 1) / 2, 0.5)
    linear = matrix * target_half[None, :] / source_half[:, None]
    offset = (center - (np.array(source.shape[1:]) - 1) / 2) / source_half
    theta = np.concatenate([linear[::-1, ::-1], offset[::-1, None]], axis=1)
    grid = F.affine_grid(
        torch.from_numpy(theta.copy()).to(source)[None], [1, len(source), *size_ZYX], align_corners=True
    )
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(source[None], grid, mode=mode, padding_mode="zeros", align_corners=True)[0]


def weak(patch_CZYX: Tensor, drawn: Draw) -> Tensor:
    """The weak view: intensities scaled and shifted a little."""
    return patch_CZYX if drawn.scale == 1.0 and drawn.shift == 0.0 else patch_CZYX * drawn.scale + drawn.shift


def strong(weak_CZYX: Tensor, drawn: Draw, *, key: int) -> Tensor:
    """The strong view: the weak one with further intensity changes; voxels stay where they are.

    Args:
        weak_CZYX: weak view.
        drawn: strengths.
        key: seed of the noise field.
    """
    x = weak_CZYX
    if drawn.noise > 0:
        generator = torch.Generator(x.device).manual_seed(key)
        x = x + drawn.noise * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    if drawn.blur > 0:
        x = blur(x, drawn.blur)
    if drawn.brightness != 1.0:
        x = x * drawn.brightness
    if drawn.contrast != 1.0:
        x = _per_channel(x, lambda c: ((c - c.mean()) * drawn.contrast + c.mean()).clamp(c.min(), c.max()))
    if drawn.low_resolution < 1.0:
        small = [max(2, round(n * drawn.low_resolution)) for n in x.shape[1:]]
        coarse = F.interpolate(x[None], size=small, mode="nearest-exact")
        x = F.interpolate(coarse, size=list(x.shape[1:]), mode="trilinear", align_corners=False)[0]
    if drawn.gamma != 1.0:
        sign = -1.0 if drawn.invert else 1.0
        x = sign * _per_channel(sign * x, lambda c: _gamma(c, drawn.gamma))
    return x


def blur(x_CZYX: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, separable, with edge values repeated; ``sigma`` in voxels, at most about 2."""
    radius = max(1, round(3 * sigma))
    taps = torch.arange(-radius, radius + 1, device=x_CZYX.device, dtype=x_CZYX.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    # Weighted sums of shifted views: for these short kernels faster than three 3D convolutions.
    for axis in (1, 2, 3):
        n = x_CZYX.shape[axis]
        edges = [0] * 6
        edges[2 * (3 - axis)] = edges[2 * (3 - axis) + 1] = radius
        padded = F.pad(x_CZYX[None], edges, mode="replicate")[0]
        x_CZYX = sum((w * padded.narrow(axis, i, n) for i, w in enumerate(kernel)), start=torch.zeros_like(x_CZYX))
    return x_CZYX


def _gamma(channel: Tensor, gamma: float) -> Tensor:
    """Gamma curve on the channel's own range; mean and standard deviation are kept."""
    low, span = channel.min(), channel.max() - channel.min()
    mean, deviation = channel.mean(), channel.std()
    curved = ((channel - low) / span.clamp_min(1e-7)).pow(gamma) * span + low
    return (curved - curved.mean()) * (deviation / curved.std().clamp_min(1e-7)) + mean


def _per_channel(x_CZYX: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([change(channel) for channel in x_CZYX])

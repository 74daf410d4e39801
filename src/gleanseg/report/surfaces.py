"""Shaded pictures of segmented structures in three dimensions.

Parallel rays are followed through the smoothed distance field of each mask until they meet its surface. Surfaces are
found between voxels, whatever the spacing, and no mesh is needed. Volumes come as in ``figures``: canonical RAS order
as (Z, Y, X). Points and directions are (Z, Y, X) too, in mm.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import edt
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from scipy import ndimage

from gleanseg.evaluate.surface import bounding_box, surface_voxels
from gleanseg.report.figures import Color, visible

Spacing = tuple[float, float, float]
_SMOOTH = 0.8  # standard deviation as a share of the largest spacing; hides the stairs of thick slices
_LEAST = 0.2  # shortest step along a ray, as a share of the smallest spacing
_MOST_STEPS = 400
_LIGHTS = (((-0.45, 0.6, 0.66), 0.78), ((0.8, -0.1, 0.35), 0.16))  # (right, up, toward the viewer), strength
_AMBIENT = 0.2
_GLOSS, _SHARPNESS = 0.2, 28


class Camera(NamedTuple):
    """The side from which structures are seen.

    Attributes:
        azimuth_deg: 0 from the front, with the patient's right at the left of the picture; 90 from the patient's left.
        elevation_deg: above the patient's front; 90 from the head.
    """

    azimuth_deg: float = 30.0
    elevation_deg: float = 20.0

    @property
    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Directions to the right of the picture, to its top, and to the viewer."""
        a, e = math.radians(self.azimuth_deg), math.radians(self.elevation_deg)
        level = np.array([0.0, math.cos(a), -math.sin(a)])
        right = np.array([0.0, -math.sin(a), -math.cos(a)])
        above = np.array([1.0, 0.0, 0.0])
        up = math.cos(e) * above - math.sin(e) * level
        return np.stack([right, up, math.cos(e) * level + math.sin(e) * above])


class Frame(NamedTuple):
    """What the picture shows.

    Attributes:
        center_ZYX_mm: of the picture, from the center of the volume's first voxel.
        size_mm: width and height.
    """

    center_ZYX_mm: tuple[float, float, float]
    size_mm: tuple[float, float]


def frame_of(
    mask: Bool[np.ndarray, "Z Y X"], *, spacing_ZYX_mm: Spacing, camera: Camera, margin: float = 0.05
) -> Frame:
    """The smallest frame that holds a mask with at least one voxel, and a margin as a share of its size."""
    spacing = np.array(spacing_ZYX_mm)
    points_N3 = np.argwhere(surface_voxels(mask)) * spacing
    seen_N3 = points_N3 @ camera.axes.T
    low, high = seen_N3.min(axis=0), seen_N3.max(axis=0)
    center = (low + high) / 2 @ camera.axes
    width, height = ((high - low)[:2] + np.abs(camera.axes[:2]) @ spacing) * (1 + 2 * margin)
    return Frame((float(center[0]), float(center[1]), float(center[2])), (float(width), float(height)))


def render(
    masks: Mapping[str, Bool[np.ndarray, "Z Y X"]],
    *,
    colors: Mapping[str, Color],
    spacing_ZYX_mm: Spacing,
    frame: Frame,
    size_px: tuple[int, int],
    camera: Camera | None = None,
    glass: Collection[str] = (),
) -> UInt8[np.ndarray, "H W 4"]:
    """Red, green, blue and opacity of a picture; empty masks leave it transparent.

    Args:
        masks: of each ROI; where two lie behind each other the nearer one is seen.
        colors: of each ROI.
        spacing_ZYX_mm: voxel size.
        frame: part that is shown; its pixels should be square.
        size_px: width and height.
        camera: side from which it is seen; default from the front, a little to the left and above.
        glass: ROIs that let others shine through, such as an organ around its tumor.
    """
    camera, (width, height) = camera or Camera(), (2 * size_px[0], 2 * size_px[1])  # twice as fine, then averaged
    rays_N3 = _rays(frame, camera, width, height)
    layers = []
    for roi, mask in masks.items():
        surface = _Surface.of(mask, spacing_ZYX_mm) if mask.any() else None
        if surface is not None:
            layers.append(_layer(surface, rays_N3, camera, colors[roi], clear=roi in glass))
    picture_NC = _joined(layers, len(rays_N3))
    fine = picture_NC.reshape(size_px[1], 2, size_px[0], 2, 4).mean(axis=(1, 3))
    opacity = np.maximum(fine[..., 3:], 1e-6)
    return (
        (np.concatenate([fine[..., :3] / opacity, fine[..., 3:]], axis=-1) * 255).round().clip(0, 255).astype(np.uint8)
    )


class _Layer(NamedTuple):
    """What the rays see of one ROI: depth (infinite where they miss it), color, opacity."""

    depth_N: NDArray[np.float64]
    color_N3: NDArray[np.float64]
    opacity_N: NDArray[np.float64]


class _Surface(NamedTuple):
    """Signed distance to a mask's surface, positive inside, on a grid around the mask."""

    inside_ZYX: NDArray[np.float32]
    origin_3: NDArray[np.float64]
    spacing_3: NDArray[np.float64]

    @classmethod
    def of(cls, mask: NDArray[np.bool_], spacing_ZYX_mm: Spacing) -> "_Surface":
        box = bounding_box(mask)
        assert box is not None, "an empty mask has no surface"
        pad, spacing = 3, np.array(spacing_ZYX_mm)
        part = np.pad(mask[box], pad)
        inside = edt.edt(part, anisotropy=spacing_ZYX_mm) - edt.edt(~part, anisotropy=spacing_ZYX_mm)
        sigma_mm = min(_SMOOTH * max(spacing_ZYX_mm), float(inside.max()) / 3)  # thin structures must not vanish
        smooth = ndimage.gaussian_filter(inside, sigma_mm / spacing, mode="nearest", truncate=3.0)
        return cls(smooth, (np.array([s.start for s in box]) - pad) * spacing, spacing)

    def at(self, points_N3: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distance inside at points; beyond the grid that of its edge, which is never more than the true one."""
        places = ((points_N3 - self.origin_3) / self.spacing_3).T
        found: NDArray[np.float64] = ndimage.map_coordinates(
            self.inside_ZYX, places, output=np.float64, order=1, mode="nearest"
        )
        return found

    def normals(self, points_N3: NDArray[np.float64]) -> NDArray[np.float64]:
        """Outward directions of length 1."""
        steps_33 = np.diag(self.spacing_3)
        slopes = [(self.at(points_N3 - step) - self.at(points_N3 + step)) / (2 * step.max()) for step in steps_33]
        normals: NDArray[np.float64] = np.stack(slopes, axis=1)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        return normals


def _rays(frame: Frame, camera: Camera, width: int, height: int) -> NDArray[np.float64]:
    """Points of all rays in the plane through the frame's center, from the upper left to the lower right pixel."""
    right = ((np.arange(width) + 0.5) / width - 0.5) * frame.size_mm[0]
    up = (0.5 - (np.arange(height) + 0.5) / height) * frame.size_mm[1]
    plane: NDArray[np.float64] = right[None, :, None] * camera.axes[0] + up[:, None, None] * camera.axes[1]
    plane += np.array(frame.center_ZYX_mm)
    return plane.reshape(-1, 3)


def _layer(surface: _Surface, rays_N3: NDArray[np.float64], camera: Camera, color: Color, *, clear: bool) -> _Layer:
    depth_N = _follow(surface, rays_N3, -camera.axes[2])
    hit_N = np.isfinite(depth_N)
    normals_H3 = surface.normals(rays_N3[hit_N] - depth_N[hit_N, None] * camera.axes[2]) @ camera.axes.T
    color_N3, opacity_N = np.zeros_like(rays_N3), np.zeros(len(rays_N3))
    color_N3[hit_N] = _shaded(normals_H3, np.array(visible(color)) / 255)
    facing_H = np.clip(normals_H3[:, 2], 0, 1)
    opacity_N[hit_N] = 0.38 + 0.45 * (1 - facing_H) ** 1.5 if clear else 1.0
    return _Layer(depth_N, color_N3, opacity_N)


def _follow(surface: _Surface, rays_N3: NDArray[np.float64], ahead_3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Depth along ``ahead_3`` at which each ray meets the surface, from its point; infinite where it does not."""
    size_3 = np.array(surface.inside_ZYX.shape) * surface.spacing_3
    radius = float(np.linalg.norm(size_3)) / 2
    to_center_N3 = surface.origin_3 + size_3 / 2 - rays_N3
    middle_N = to_center_N3 @ ahead_3
    aside_N = np.linalg.norm(to_center_N3 - middle_N[:, None] * ahead_3, axis=1)
    depth_N = np.full(len(rays_N3), np.inf)
    left = np.flatnonzero(aside_N < radius)
    near, before = middle_N[left] - radius, middle_N[left] - radius
    distance_before = np.full(len(left), -np.inf)
    for _ in range(_MOST_STEPS):
        distance = surface.at(rays_N3[left] + near[:, None] * ahead_3)
        inside = distance >= 0
        share = distance[inside] / (distance[inside] - distance_before[inside])  # the surface is where 0 is crossed
        depth_N[left[inside]] = near[inside] - share * (near[inside] - before[inside])
        on = ~inside & (near < middle_N[left] + radius)
        left, before, distance_before = left[on], near[on], distance[on]
        if not left.size:
            break
        near = before + np.maximum(-0.7 * distance_before, _LEAST * surface.spacing_3.min())
    return depth_N


def _shaded(normals_H3: NDArray[np.float64], color_3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matt color with a little gloss under a main and a side light; edges are darker, which shows their shape."""
    light_H, gloss_H = np.full(len(normals_H3), _AMBIENT), np.zeros(len(normals_H3))
    for direction, strength in _LIGHTS:
        toward = np.array(direction) / np.linalg.norm(direction)
        light_H += strength * np.clip(normals_H3 @ toward, 0, None)
        half = toward + np.array([0.0, 0.0, 1.0])
        gloss_H += strength * np.clip(normals_H3 @ (half / np.linalg.norm(half)), 0, None) ** _SHARPNESS
    light_H *= 0.7 + 0.3 * np.clip(normals_H3[:, 2], 0, 1)
    return np.clip(light_H[:, None] * color_3 + _GLOSS * gloss_H[:, None], 0, 1)


def _joined(layers: Sequence[_Layer], num: int) -> NDArray[np.float64]:
    """Colors (weighted by opacity) and opacity of each ray, the nearer layers over the farther ones."""
    picture_NC: NDArray[np.float64] = np.zeros((num, 4))
    if not layers:
        return picture_NC
    depth_LN = np.stack([layer.depth_N for layer in layers])
    color_LNC = np.stack([np.column_stack([x.color_N3, np.ones(num)]) * x.opacity_N[:, None] for x in layers])
    for farthest_N in np.argsort(-depth_LN, axis=0):  # one place in the order per turn, with another layer for each ray
        over_NC = color_LNC[farthest_N, np.arange(num)]
        picture_NC = over_NC + (1 - over_NC[:, 3:]) * picture_NC
    return picture_NC

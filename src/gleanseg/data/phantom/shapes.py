"""Implicit shapes: how far is a point from the surface of an organ, in mm and negative inside.

The distances are approximate away from the surface, which is where nothing needs them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import final

import numpy as np
from jaxtyping import Float32, Float64
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

Real = float | int
Triple = tuple[Real, Real, Real]
Node = tuple[Real, Real, Real, Real]  # x, y, z, radius
Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]


def rotation(turn_deg: Triple) -> Float64[np.ndarray, "3 3"]:
    """Rotation about x, then y, then z by the given angles in degrees."""
    x, y, z = np.deg2rad(turn_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, dtype=np.float64)


class Shape(ABC):
    """A solid in the phantom's own coordinates: x to the right, y to the front, z to the head, mm."""

    @abstractmethod
    def bounds(self) -> Bounds:
        """Lowest and highest corner of a box that holds the solid."""

    @abstractmethod
    def distance(self, points: Float32[np.ndarray, "3 *grid"]) -> Float32[np.ndarray, "*grid"]:  # noqa: F821
        """Signed distance in mm of each point to the surface, negative inside."""


@final
@dataclass(frozen=True, kw_only=True)
class Ellipsoid(Shape):
    """Ellipsoid, or a superquadric with flatter sides where ``power`` is above 2."""

    center: Triple
    radii: Triple
    turn_deg: Triple = (0.0, 0.0, 0.0)
    power: Real = 2.0

    def bounds(self) -> Bounds:
        """Box around the turned ellipsoid."""
        turned = np.abs(rotation(self.turn_deg)) * np.asarray(self.radii)
        reach = turned.sum(axis=1) if self.power > 2 else np.sqrt((turned**2).sum(axis=1))
        return np.asarray(self.center) - reach, np.asarray(self.center) + reach

    def distance(self, points: Float32[np.ndarray, "3 *grid"]) -> Float32[np.ndarray, "*grid"]:  # noqa: F821
        """Distance along the ray from the center."""
        flat = points.reshape(3, -1) - np.asarray(self.center, np.float32)[:, None]
        local = rotation(self.turn_deg).T.astype(np.float32) @ flat
        local /= np.asarray(self.radii, np.float32)[:, None]
        if self.power == 2:
            radius = np.sqrt(np.einsum("ip,ip->p", local, local))
        else:
            radius = (np.abs(local) ** np.float32(self.power)).sum(axis=0) ** np.float32(1 / self.power)
        reach = np.sqrt(np.einsum("ip,ip->p", flat, flat))
        inside = -np.float32(min(self.radii))  # the ray's length is undefined in the very center
        result = np.where(radius > 1e-3, reach * (1 - 1 / np.maximum(radius, np.float32(1e-3))), inside)
        return np.maximum(result, inside).reshape(points.shape[1:])


@final
@dataclass(frozen=True)
class Tube(Shape):
    """Bent tube of varying width: a chain of ``(x, y, z, radius)`` joined by cones."""

    nodes: tuple[Node, ...]

    @classmethod
    def through(cls, nodes: Sequence[Node], *, num_nodes: int = 10) -> "Tube":
        """Smooth curve through a few ``(x, y, z, radius)``."""
        spline = CubicSpline(np.linspace(0, 1, len(nodes)), np.asarray(nodes, dtype=np.float64))
        fine = spline(np.linspace(0, 1, num_nodes))
        return cls(tuple((float(x), float(y), float(z), float(r)) for x, y, z, r in fine))

    def bounds(self) -> Bounds:
        """Box around all nodes."""
        array = np.asarray(self.nodes)
        return (array[:, :3] - array[:, 3:]).min(axis=0), (array[:, :3] + array[:, 3:]).max(axis=0)

    def distance(self, points: Float32[np.ndarray, "3 *grid"]) -> Float32[np.ndarray, "*grid"]:  # noqa: F821
        """Distance to the nearest piece."""
        flat = points.reshape(3, -1)
        nodes = np.asarray(self.nodes, dtype=np.float32)
        best = np.full(flat.shape[1], np.inf, dtype=np.float32)
        for start, stop in pairwise(nodes):
            axis = stop[:3] - start[:3]
            offset = flat - start[:3, None]
            along = np.clip(axis @ offset / np.float32(axis @ axis), 0, 1)
            offset -= along * axis[:, None]
            radius = start[3] + along * (stop[3] - start[3])
            np.minimum(best, np.sqrt(np.einsum("ip,ip->p", offset, offset)) - radius, out=best)
        return best.reshape(points.shape[1:])


@final
@dataclass(frozen=True)
class Union(Shape):
    """Several solids grown together; ``blend_mm`` rounds the seams."""

    shapes: tuple[Shape, ...]
    blend_mm: Real = 6.0

    def bounds(self) -> Bounds:
        """Box around all of them."""
        boxes = [shape.bounds() for shape in self.shapes]
        low = np.min([box[0] for box in boxes], axis=0) - self.blend_mm / 4
        return low, np.max([box[1] for box in boxes], axis=0) + self.blend_mm / 4

    def distance(self, points: Float32[np.ndarray, "3 *grid"]) -> Float32[np.ndarray, "*grid"]:  # noqa: F821
        """Smooth minimum (quadratic polynomial) of the distances."""
        result = self.shapes[0].distance(points)
        blend = np.float32(self.blend_mm)
        for shape in self.shapes[1:]:
            other = shape.distance(points)
            seam = np.maximum(blend - np.abs(result - other), 0) / blend
            result = np.minimum(result, other) - seam * seam * blend / 4
        return result


@final
@dataclass(frozen=True)
class Cut(Shape):
    """What of ``solid`` lies outside ``hole`` (by ``gap_mm`` at least) and inside all of ``within``."""

    solid: Shape
    holes: tuple[Shape, ...] = ()
    within: tuple[Shape, ...] = ()
    gap_mm: Real = 0.0

    def bounds(self) -> Bounds:
        """Box around the uncut solid."""
        return self.solid.bounds()

    def distance(self, points: Float32[np.ndarray, "3 *grid"]) -> Float32[np.ndarray, "*grid"]:  # noqa: F821
        """Largest of the distances that bound the solid."""
        result = self.solid.distance(points)
        for hole in self.holes:
            np.maximum(result, np.float32(self.gap_mm) - hole.distance(points), out=result)
        for shape in self.within:
            np.maximum(result, np.float32(self.gap_mm) + shape.distance(points), out=result)
        return result


@final
@dataclass(frozen=True, kw_only=True)
class Trunk(Shape):
    """The body's outline: a flattened cylinder without ends, slimmer at the waist."""

    half_width_mm: Real
    half_depth_mm: Real
    waist: Real = 0.06
    power: Real = 2.5

    def bounds(self) -> Bounds:
        """Everything: the trunk has no ends."""
        return np.full(3, -np.inf), np.full(3, np.inf)

    @cached_property
    def _mean_mm(self) -> np.float32:
        return np.float32(0.5 * (self.half_width_mm + self.half_depth_mm))

    def distance(self, points: Float32[np.ndarray, "3 *grid"]) -> Float32[np.ndarray, "*grid"]:  # noqa: F821
        """Distance in the axial plane."""
        slim = 1 - np.float32(self.waist) * np.exp(-(((points[2] + 30) / 45) ** 2))
        x, y = np.abs(points[0]) / np.float32(self.half_width_mm), np.abs(points[1]) / np.float32(self.half_depth_mm)
        power = np.float32(self.power)
        radius = (x**power + y**power) ** (1 / power) / slim
        reach = np.hypot(points[0], points[1])
        return np.where(radius > 0.05, reach * (1 - 1 / np.maximum(radius, np.float32(0.05))), -self._mean_mm)

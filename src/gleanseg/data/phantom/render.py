"""A drawn patient becomes a CT-like volume and a code volume on any voxel grid.

Arrays here are (X, Y, Z) in RAS order, as the shapes are; ``layouts`` turns them into the files' own orientation.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, gaussian_filter, label

from gleanseg.data.phantom.anatomy import Body
from gleanseg.data.phantom.shapes import Real, Shape, Triple, rotation

# code -> every ROI that holds a voxel of that code
CODES: dict[int, tuple[str, ...]] = {
    1: ("liver",),
    2: ("liver", "liver_tumor"),
    3: ("spleen",),
    4: ("kidney_right",),
    5: ("kidney_left",),
    6: ("kidney_right", "kidney_tumor"),
    7: ("kidney_left", "kidney_tumor"),
    8: ("stomach",),
    9: ("aorta",),
    10: ("urinary_bladder",),
    11: ("lung_right",),
    12: ("lung_left",),
}
ORGAN_CODES = {rois[0]: code for code, rois in CODES.items() if len(rois) == 1}
AIR_HU, FAT_HU, MUSCLE_HU = -1000.0, -102.0, 55.0
MIN_VOXELS = 8  # smaller traces of a structure at the edge of the field of view count as absent


class Rendered(NamedTuple):
    """``hu`` int16 and ``codes`` uint8, both (X, Y, Z); a code is a key of ``CODES`` or 0."""

    hu: NDArray[np.int16]
    codes: NDArray[np.uint8]


class _Canvas:
    """Paints solids with soft edges (partial volume) in order; later ones cover earlier ones."""

    def __init__(self, points: NDArray[np.float32], edge_mm: float) -> None:
        self.points = points
        self.edge_mm = np.float32(edge_mm)
        self.hu = np.full(points.shape[1:], AIR_HU, dtype=np.float32)
        self.codes = np.zeros(points.shape[1:], dtype=np.uint8)
        others = ((1, 2), (0, 2), (0, 1))
        self.ranges = [(points[i].min(axis=o), points[i].max(axis=o)) for i, o in enumerate(others)]

    def box(self, shape: Shape, grow_mm: Real) -> tuple[slice, slice, slice]:
        """Voxels that may touch the solid."""
        low, high = shape.bounds()
        margin = grow_mm + float(self.edge_mm)
        slices = []
        for i, (least, most) in enumerate(self.ranges):
            (hit,) = np.nonzero((most >= low[i] - margin) & (least <= high[i] + margin))
            slices.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 0))
        return slices[0], slices[1], slices[2]

    def paint(
        self,
        shape: Shape,
        hu: Real | NDArray[np.float32],
        code: int | None = 0,
        *,
        grow_mm: Real = 0.0,
        only: NDArray[np.bool_] | None = None,
    ) -> None:
        """Paint a solid, grown by ``grow_mm``; ``code`` None leaves the codes, ``only`` limits the voxels."""
        box = self.box(shape, grow_mm)
        if any(s.start == s.stop for s in box):
            return
        distance = shape.distance(np.ascontiguousarray(self.points[(slice(None), *box)]))
        cover = np.clip(np.float32(0.5) - (distance - np.float32(grow_mm)) / self.edge_mm, 0, 1)
        if only is not None:
            cover *= only[box]
        value = hu[box] if isinstance(hu, np.ndarray) else np.float32(hu)
        self.hu[box] += cover * (value - self.hu[box])
        if code is not None:
            self.codes[box][cover > 0.5] = code


def _points(body: Body, shape: tuple[int, int, int], spacing_mm: Triple, start_mm: Triple) -> NDArray[np.float32]:
    """Coordinates, in the patient's own frame, of all voxel centers; (3, X, Y, Z)."""
    axes = [start + step * np.arange(num) for start, step, num in zip(start_mm, spacing_mm, shape, strict=True)]
    world = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).astype(np.float32)
    matrix = rotation(body.turn_deg) @ np.diag(body.scale)
    inverse = np.linalg.inv(matrix).astype(np.float32)
    points = (inverse @ (world - np.asarray(body.shift_mm, np.float32)[:, None])).reshape(3, *shape)
    amplitudes, frequencies, phases = body.waves
    for amplitude, frequency, phase in zip(amplitudes, frequencies, phases, strict=True):
        x, y, z = (np.cos(f * axis + p) for f, axis, p in zip(frequency, axes, phase, strict=True))
        wave = (x[:, None, None] * y[:, None] * z).astype(np.float32)
        for i in range(3):
            points[i] += np.float32(2 * amplitude[i]) * wave
    return np.ascontiguousarray(points, dtype=np.float32)


def _field(rng: np.random.Generator, shape: tuple[int, ...], sigma: tuple[float, ...]) -> NDArray[np.float32]:
    """Smooth noise with mean 0 and standard deviation 1; ``sigma`` in voxels."""
    noise = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap", truncate=3)
    return np.asarray((noise - noise.mean()) / noise.std(), dtype=np.float32)


def _paint_frame(canvas: _Canvas, body: Body, clumps: NDArray[np.float32]) -> None:
    """Skin, fat, muscle, ribs, bones, bowel and what fills the space between the organs."""
    s = body.shapes
    x, y, z = canvas.points
    canvas.paint(s["trunk"], FAT_HU)
    canvas.paint(s["trunk"], MUSCLE_HU, grow_mm=-body.fat_mm)
    for side in ("right", "left"):
        canvas.paint(s[f"back_{side}"], MUSCLE_HU + 5)
    depth = -s["trunk"].distance(canvas.points) - body.fat_mm
    shell = np.clip(0.5 + (3.4 - np.abs(depth - 5)) / canvas.edge_mm, 0, 1)
    rung = np.abs((z + 0.55 * y + 0.12 * np.abs(x)) / 25 % 1 - 0.5) * 25  # ribs fall towards the front
    ribs = shell * np.clip(0.5 + (rung - 7.5) / canvas.edge_mm, 0, 1) * (np.abs(x) > 12) * (z > 2 - 0.6 * y)
    canvas.hu += ribs.astype(np.float32) * (430 - canvas.hu)
    canvas.paint(s["cavity"], FAT_HU)
    canvas.paint(s["cavity"], 42, only=(z > 40) & (s["right_dome"].distance(canvas.points) > 0))  # mediastinum
    loops = np.where(clumps > 1.6, -650, np.where(np.abs(clumps) < 0.6, 38, FAT_HU)).astype(np.float32)
    canvas.paint(s["cavity"], loops, only=(z < 24 + 0.1 * y) & (y > -22))
    canvas.paint(s["left_dome"], FAT_HU, only=(z > 24) & (s["cavity"].distance(canvas.points) < 0))
    stool = np.where(clumps > 0.7, -500, 25 + 12 * clumps).astype(np.float32)
    for side in ("right", "left"):
        canvas.paint(s[f"colon_{side}"], 45, grow_mm=1.5)
        canvas.paint(s[f"colon_{side}"], stool, grow_mm=-1.5)
        canvas.paint(s[f"psoas_{side}"], MUSCLE_HU)
        for bone in ("hip", "femur"):
            canvas.paint(s[f"{bone}_{side}"], 380)
    disc = np.abs((z + 6) / 28 % 1 - 0.5) * 28 > 11
    canvas.paint(s["arch"], 350)
    canvas.paint(s["vertebrae"], np.where(disc, 75, 330).astype(np.float32))
    canvas.paint(s["vertebrae"], np.where(disc, 85, 190).astype(np.float32), grow_mm=-3.5)
    canvas.paint(s["canal"], 35)
    canvas.paint(s["sacrum"], 300)
    canvas.paint(s["sternum"], 260, only=z > 45)


def _paint_organs(canvas: _Canvas, body: Body, clumps: NDArray[np.float32]) -> None:
    """The annotated organs and their vessels, the ones that win a dispute over a voxel last."""
    s, phase = body.shapes, body.phase
    code = ORGAN_CODES
    inside = s["cavity"].distance(canvas.points) < 1
    blood, vein = 195 + 120 * phase, 135 - 70 * phase
    canvas.paint(s["heart"], 45, grow_mm=3, only=inside)
    canvas.paint(s["heart"], 60 + 0.6 * blood, grow_mm=-4)
    for side in ("right", "left"):
        lung = np.where(clumps > 1.7, -560, -835).astype(np.float32)
        canvas.paint(s[f"lung_{side}"], lung, code[f"lung_{side}"], only=inside)
    meal = np.where(canvas.points[1] > 36, -820, 28 + 14 * clumps).astype(np.float32)  # the gas of a lying patient
    canvas.paint(s["stomach"], FAT_HU, grow_mm=5, only=inside)
    canvas.paint(s["stomach"], 68, code["stomach"], only=inside)
    canvas.paint(s["stomach"], meal, code=None, grow_mm=-4, only=canvas.codes == code["stomach"])
    canvas.paint(s["liver"], FAT_HU, grow_mm=2, only=inside & (canvas.points[2] < 20))
    canvas.paint(s["liver"], 114 - 26 * phase, code["liver"], only=inside)
    for name in ("portal_vein", "hepatic_vein"):
        canvas.paint(s[name], 165 - 60 * phase, code=None, only=canvas.codes == code["liver"])
    canvas.paint(s["gallbladder"], 12, only=inside)
    canvas.paint(s["spleen"], FAT_HU, grow_mm=2.5, only=inside)
    canvas.paint(s["spleen"], 122 + 4 * phase, code["spleen"], only=inside)
    canvas.paint(s["vena_cava"], FAT_HU, grow_mm=1.5)
    canvas.paint(s["vena_cava"], vein)
    for side in ("right", "left"):
        canvas.paint(s[f"iliac_{side}"], blood)
        kidney = s[f"kidney_{side}"]
        canvas.paint(kidney, FAT_HU, grow_mm=5, only=inside)
        canvas.paint(s[f"sinus_{side}"], FAT_HU)
        canvas.paint(kidney, 178 + 12 * phase, code[f"kidney_{side}"])
        canvas.paint(kidney, 168 - 60 * phase, code=None, grow_mm=-7)
    canvas.paint(s["aorta"], FAT_HU, grow_mm=1.5, only=inside)
    canvas.paint(s["aorta"], blood, code["aorta"])
    canvas.paint(s["urinary_bladder"], FAT_HU, grow_mm=8, only=inside)
    canvas.paint(s["urinary_bladder"], 42, code["urinary_bladder"])
    canvas.paint(s["urinary_bladder"], 6, code=None, grow_mm=-3.5)


def _paint_tumors(canvas: _Canvas, body: Body, clumps: NDArray[np.float32]) -> None:
    """Tumors: darker than their organ, darkest in the middle."""
    for tumor in body.liver_tumors:
        liver = (canvas.codes == 1) | (canvas.codes == 2)
        canvas.paint(tumor, 58 - 8 * body.phase, 2, only=liver)
        canvas.paint(tumor, 36 + 8 * clumps, code=None, grow_mm=-5, only=canvas.codes == 2)
    if body.kidney_tumor is not None:
        side, tumor = body.kidney_tumor
        free = np.isin(canvas.codes, (0, ORGAN_CODES[f"kidney_{side}"]))
        canvas.paint(tumor, 84 + 6 * body.phase, 6 if side == "right" else 7, only=free)
        canvas.paint(tumor, 62 + 8 * clumps, code=None, grow_mm=-6, only=np.isin(canvas.codes, (6, 7)))


def _remove_crumbs(canvas: _Canvas) -> None:
    """Pieces of an organ that other structures cut off, and traces at the edge of the field, become fat."""
    parent = np.zeros(max(CODES) + 1, dtype=np.uint8)
    for code, rois in CODES.items():
        parent[code] = ORGAN_CODES[rois[0]]
    organs = parent[canvas.codes]
    for code in sorted(set(ORGAN_CODES.values())):
        (box,) = find_objects(organs == code, max_label=1)
        if box is None:
            continue
        pieces, _ = label(organs[box] == code)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        crumbs = (sizes < max(MIN_VOXELS, int(0.05 * sizes.max())))[pieces] & (pieces > 0)
        canvas.codes[box][crumbs] = 0
        canvas.hu[box][crumbs] = FAT_HU
    for code, rois in CODES.items():
        if len(rois) > 1 and 0 < np.count_nonzero(canvas.codes == code) < MIN_VOXELS:
            canvas.codes[canvas.codes == code] = parent[code]


def _paint_table(hu: NDArray[np.float32], spacing_mm: Triple, start_mm: Triple) -> None:
    """The scanner's couch, a thin curved shell under the patient."""
    x = start_mm[0] + spacing_mm[0] * np.arange(hu.shape[0])
    y = start_mm[1] + spacing_mm[1] * np.arange(hu.shape[1])
    height = np.abs(y + 101 - 0.0012 * x[:, None] ** 2)
    cover = np.clip(0.5 + (2.5 - height) / spacing_mm[1], 0, 1) * (np.abs(x[:, None]) < 95)
    air = hu < -900
    hu += np.where(air, cover[:, :, None].astype(np.float32) * (AIR_HU * -0.93), 0)


def _scanner(
    hu: NDArray[np.float32], spacing_mm: Triple, noise_hu: float, rng: np.random.Generator
) -> NDArray[np.int16]:
    """What the scanner adds: blur, shading, streaks, noise, the round field of reconstruction."""
    hu = gaussian_filter(hu, [min(0.5, 1.6 / step) for step in spacing_mm], truncate=3)
    num_x, num_y, num_z = hu.shape
    x = np.linspace(-1, 1, num_x, dtype=np.float32)[:, None, None]
    y = np.linspace(-1, 1, num_y, dtype=np.float32)[:, None]
    tissue = np.clip((hu + 900) / 900, 0, 1)
    cupping = -14 * np.exp(-(x**2 + y**2) / 0.3)
    slope = rng.uniform(-8, 8, 3).astype(np.float32)
    z = np.linspace(-1, 1, num_z, dtype=np.float32)
    hu = hu + tissue * (cupping + slope[0] * x + slope[1] * y + slope[2] * z)
    streaks = gaussian_filter(rng.standard_normal((num_y, num_z), dtype=np.float32), (0.7, 0.5))
    grain = _field(rng, hu.shape, (0.55, 0.55, 0.35))
    hu = hu + np.float32(noise_hu) * (grain + np.float32(0.6) * streaks[None]) * (0.45 + 0.55 * tissue)
    radius = np.hypot(x * num_x * spacing_mm[0] / 2, y * num_y * spacing_mm[1] / 2)
    outside = np.broadcast_to(radius > 1.06 * num_x * spacing_mm[0] / 2, hu.shape)
    return np.clip(np.rint(np.where(outside, -1024, hu)), -1024, 1800).astype(np.int16)


def render(
    body: Body,
    rng: np.random.Generator,
    *,
    shape: tuple[int, int, int],
    spacing_mm: Triple,
    start_mm: Triple,
    noise_hu: float = 14.0,
) -> Rendered:
    """Scan a patient.

    Args:
        body: the patient.
        rng: for texture and noise.
        shape: voxels along x, y, z.
        spacing_mm: their size.
        start_mm: center of the first voxel in the scanner's frame, whose origin is the middle of the average trunk.
        noise_hu: standard deviation of the noise in soft tissue.

    Returns:
        Hounsfield units and codes, (X, Y, Z).
    """
    canvas = _Canvas(_points(body, shape, spacing_mm, start_mm), float(np.mean(spacing_mm)) * 0.8)
    clumps = _field(rng, shape, tuple(8.0 / step for step in spacing_mm))
    _paint_frame(canvas, body, clumps)
    _paint_organs(canvas, body, clumps)
    _paint_tumors(canvas, body, clumps)
    _paint_table(canvas.hu, spacing_mm, start_mm)
    _remove_crumbs(canvas)
    return Rendered(hu=_scanner(canvas.hu, spacing_mm, noise_hu, rng), codes=canvas.codes)

"""What is drawn by chance for one phantom patient: shapes, pose, tumors, contrast phase.  Nothing is rendered here.

Coordinates are the phantom's own: x to the patient's right, y to the front, z to the head, mm, the spine near x = 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gleanseg.data.phantom.shapes import Cut, Ellipsoid, Node, Real, Shape, Triple, Trunk, Tube, Union

NUM_WAVES = 5
HEIGHT_MM = (-130.0, 130.0)  # of the trunk


@dataclass(frozen=True, kw_only=True)
class Body:
    """One patient.

    Attributes:
        scale: size against the average along x, y, z.
        turn_deg: how the patient lies.
        shift_mm: where the patient lies.
        waves: smooth deformation: per wave an amplitude vector (mm), a frequency vector (1/mm) and a phase vector.
        fat_mm: thickness of the fat under the skin.
        wall_mm: thickness of the wall of muscle and ribs.
        phase: contrast, from 0 (portal venous) to 1 (late arterial).
        shapes: every organ, by name; includes structures that nobody annotates (spine, bowel, heart).
        liver_tumors: none, one or several.
        kidney_tumor: which kidney, and the solid; None in the healthy.
    """

    scale: Triple
    turn_deg: Triple
    shift_mm: Triple
    waves: NDArray[np.float64]
    fat_mm: float
    wall_mm: float
    phase: float
    shapes: dict[str, Shape]
    liver_tumors: tuple[Shape, ...]
    kidney_tumor: tuple[str, Shape] | None


class _Dice:
    """Small random changes around an average anatomy, never more than two standard deviations."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def near(self, value: Real, sd: Real) -> float:
        return float(value + sd * np.clip(self.rng.standard_normal(), -2, 2))

    def place(self, center: Triple, sd_mm: Real = 3.0) -> Triple:
        x, y, z = center
        return self.near(x, sd_mm), self.near(y, sd_mm), self.near(z, sd_mm)

    def size(self, radii: Triple, sd: Real = 0.06) -> Triple:
        common = self.near(1.0, sd)
        x, y, z = radii
        return x * common * self.near(1, sd / 2), y * common * self.near(1, sd / 2), z * common * self.near(1, sd / 2)

    def turn(self, turn_deg: Triple = (0.0, 0.0, 0.0), sd_deg: Real = 5.0) -> Triple:
        return self.place(turn_deg, sd_deg)

    def blob(self, center: Triple, radii: Triple, turn_deg: Triple = (0.0, 0.0, 0.0), power: Real = 2.0) -> Ellipsoid:
        return Ellipsoid(center=self.place(center), radii=self.size(radii), turn_deg=self.turn(turn_deg), power=power)

    def tube(self, nodes: list[Node], sd_mm: Real = 2.0, num_nodes: int = 10) -> Tube:
        moved = [(*self.place((x, y, z), sd_mm), r * self.near(1, 0.05)) for x, y, z, r in nodes]
        return Tube.through(moved, num_nodes=num_nodes)


def _kidney(dice: _Dice, sign: Real, center: Triple) -> tuple[Shape, Shape]:
    """A bean and its sinus; ``sign`` is +1 on the right, -1 on the left."""
    x, y, z = dice.place(center)
    radii = dice.size((18.5, 20.5, 36.0))
    turn = dice.turn((8.0, -sign * 10.0, sign * 20.0))
    bean = Ellipsoid(center=(x, y, z), radii=radii, turn_deg=turn, power=2.2)
    sinus = Ellipsoid(center=(x - sign * 15, y + 5, z), radii=(13.0, 8.0, 15.0), turn_deg=turn)
    return Cut(bean, holes=(sinus,)), sinus


def _upper_shapes(dice: _Dice, trunk: Trunk, inner_mm: Real) -> dict[str, Shape]:
    right_dome = dice.blob((44, 0, 10), (64, 72, 64))
    left_dome = dice.blob((-46, 0, 5), (62, 72, 58))
    heart = dice.blob((-16, 20, 96), (40, 33, 35), (0, 20, -25))
    cavity = Cut(trunk, within=(trunk,), gap_mm=inner_mm)
    domes = (right_dome, left_dome, heart)
    lung_right = dice.blob((46, -4, 112), (38, 57, 82), power=2.6)
    lung_left = dice.blob((-47, -6, 112), (37, 56, 80), power=2.6)
    lobe = dice.blob((-2, 30, 42), (36, 20, 19), (0, 8, -6))
    bulk = dice.blob((44, 2, 34), (57, 60, 56), (0, -12, 0), power=2.4)
    midline = Ellipsoid(center=(-2, -38, 30), radii=(30, 26, 120))  # spine and great vessels
    liver = Cut(Union((bulk, lobe), blend_mm=20), holes=(midline,), within=(right_dome,), gap_mm=2)
    hollow = Ellipsoid(center=dice.place((-40, -8, 28)), radii=(26, 30, 36))
    return {
        "cavity": cavity,
        "right_dome": right_dome,
        "left_dome": left_dome,
        "heart": heart,
        "lung_right": Cut(lung_right, holes=domes, gap_mm=3),
        "lung_left": Cut(lung_left, holes=domes, gap_mm=3),
        "liver": liver,
        "spleen": Cut(dice.blob((-66, -26, 30), (23, 36, 34), (0, 10, 20)), holes=(hollow,)),
        "gallbladder": dice.blob((30, 38, 0), (9, 13, 14), (30, 0, 0)),
        "stomach": dice.tube(
            [(-42, -8, 50, 18), (-50, 14, 40, 23), (-47, 32, 16, 20), (-26, 42, -2, 15), (4, 38, 2, 9)], sd_mm=3
        ),
    }


def _lower_shapes(dice: _Dice) -> dict[str, Shape]:
    kidney_right, sinus_right = _kidney(dice, 1, (46, -34, -20))
    kidney_left, sinus_left = _kidney(dice, -1, (-48, -36, -10))
    shapes: dict[str, Shape] = {
        "kidney_right": kidney_right,
        "sinus_right": sinus_right,
        "kidney_left": kidney_left,
        "sinus_left": sinus_left,
        "urinary_bladder": dice.blob((0, 14, -102), (34, 26, 22), power=2.3),
        "colon_right": dice.tube([(60, 14, -92, 15), (66, 12, -60, 16), (62, 16, -24, 15)], sd_mm=4),
        "colon_left": dice.tube([(-58, 8, -100, 12), (-68, 4, -60, 13), (-66, 2, -20, 13)], sd_mm=4),
    }
    for side, sign in (("right", 1.0), ("left", -1.0)):
        shapes[f"psoas_{side}"] = dice.tube(
            [(sign * 22, -38, 12, 8), (sign * 28, -36, -40, 13), (sign * 42, -20, -110, 14)], sd_mm=1
        )
        shapes[f"back_{side}"] = Ellipsoid(center=(sign * 27, -58, 0), radii=(23, 13, 400), power=2.5)
        wing = Ellipsoid(center=(sign * 50, -14, -112), radii=(38, 42, 52), turn_deg=(0, sign * 14, sign * -30))
        hollow = Ellipsoid(center=(sign * 42, -8, -108), radii=(36, 40, 56), turn_deg=(0, sign * 14, sign * -30))
        shapes[f"hip_{side}"] = Cut(wing, holes=(hollow,))
        shapes[f"femur_{side}"] = Ellipsoid(center=(sign * 72, -8, -128), radii=(17, 17, 17))
    return shapes


def _vessels(dice: _Dice) -> dict[str, Shape]:
    trunk = [(-17, -32, 140, 10.5), (-15, -33, 80, 10), (-9, -25, 30, 9.5), (-6, -21, -20, 8.8), (-3, -20, -62, 8.2)]
    aorta = dice.tube([(x, y, z, r) for x, y, z, r in trunk], sd_mm=1.5, num_nodes=14)
    x, y, z = -8.5, -22.0, dice.near(14, 4)
    branch = dice.tube([(x, y, z, 5.5), (x + 3, y + 14, z - 8, 5), (x + 5, y + 19, z - 34, 4.2)], sd_mm=0.8)
    end = aorta.nodes[-1]
    shapes: dict[str, Shape] = {
        "aorta": Union((aorta, branch), blend_mm=4),
        "vena_cava": dice.tube([(20, -18, 90, 9), (19, -24, 30, 9.5), (17, -24, -65, 9)], sd_mm=1.5),
        "portal_vein": dice.tube([(8, -4, 6, 6), (22, -4, 22, 7), (38, 4, 30, 5.5), (56, 10, 38, 4)], sd_mm=2),
        "hepatic_vein": dice.tube([(20, -18, 62, 6.5), (36, 4, 54, 5), (54, 22, 44, 3.8)], sd_mm=2),
    }
    for side, sign in (("right", 1), ("left", -1)):
        nodes = [(*end[:3], 6.0), (sign * 16 - 2, -16, -84, 5.8), (sign * 36, -6, -116, 5.5), (sign * 44, 4, -140, 5.5)]
        shapes[f"iliac_{side}"] = Tube.through(nodes)
    return shapes


def _bones(dice: _Dice) -> dict[str, Shape]:
    width = dice.near(17, 1)
    return {
        "vertebrae": Ellipsoid(center=(0, -50, 0), radii=(width, 13, 400), power=2.3),
        "canal": Ellipsoid(center=(0, -66, 0), radii=(8, 6, 400)),
        "arch": Ellipsoid(center=(0, -68, 0), radii=(15, 9, 400)),
        "sacrum": Ellipsoid(center=(0, -52, -118), radii=(40, 15, 36), turn_deg=(-18, 0, 0), power=2.5),
        "sternum": Ellipsoid(center=(0, 66, 110), radii=(16, 5, 70), power=3),
    }


def _inside(shape: Shape, rng: np.random.Generator, depth_mm: tuple[Real, Real]) -> Triple:
    """A random point whose depth under the surface lies between two bounds (or the nearest of many tries)."""
    low, high = shape.bounds()
    tries = (low[:, None] + (high - low)[:, None] * rng.random((3, 4000))).astype(np.float32)
    depth = -shape.distance(tries)
    miss = np.maximum(depth_mm[0] - depth, 0) + np.maximum(depth - depth_mm[1], 0)
    x, y, z = tries[:, int(np.argmin(miss))].tolist()
    return x, y, z


def _lumps(dice: _Dice, center: Triple, radius_mm: Real, num: int) -> Shape:
    """A tumor: a round mass with a few lumps."""
    x, y, z = center
    main = Ellipsoid(center=center, radii=dice.size((radius_mm, radius_mm, radius_mm), 0.08))
    sides = []
    for _ in range(num):
        way = dice.rng.standard_normal(3)
        dx, dy, dz = (0.6 * radius_mm * way / np.linalg.norm(way)).tolist()
        small = 0.65 * radius_mm
        sides.append(Ellipsoid(center=(x + dx, y + dy, z + dz), radii=dice.size((small, small, small), 0.1)))
    return Union((main, *sides), blend_mm=5)


def draw_body(
    rng: np.random.Generator,
    *,
    num_liver_tumors: int,
    kidney_tumor: str | None,
    phase: Real,
    half_width_mm: Real = 106,
) -> Body:
    """Draw one patient.

    Args:
        rng: all chance comes from it.
        num_liver_tumors: how many tumors the liver holds.
        kidney_tumor: ``left``, ``right`` or None.
        phase: contrast phase in [0, 1].
        half_width_mm: of the average patient.

    Returns:
        The patient, in the phantom's own coordinates.
    """
    dice = _Dice(rng)
    fat_mm, wall_mm = dice.near(10, 2.5), dice.near(9, 0.8)
    trunk = Trunk(half_width_mm=dice.near(half_width_mm, 3), half_depth_mm=dice.near(79, 2.5))
    shapes: dict[str, Shape] = {"trunk": trunk} | _bones(dice) | _upper_shapes(dice, trunk, fat_mm + wall_mm)
    shapes |= _lower_shapes(dice) | _vessels(dice)
    deep = Cut(
        shapes["liver"], holes=(shapes["vena_cava"], shapes["kidney_right"]), within=(shapes["cavity"],), gap_mm=3
    )
    lesions: list[Shape] = []
    for _ in range(num_liver_tumors):
        radius = float(rng.uniform(9, 16))
        lesions.append(_lumps(dice, _inside(deep, rng, (0.7 * radius, 60)), radius, 3))
    kidney: tuple[str, Shape] | None = None
    if kidney_tumor is not None:
        radius = float(rng.uniform(10.5, 15))
        center = _inside(shapes[f"kidney_{kidney_tumor}"], rng, (3.0, 7.0))
        kidney = kidney_tumor, _lumps(dice, center, radius, 2)
    waves = np.stack(
        [
            rng.normal(0, 1.6, (NUM_WAVES, 3)),
            rng.uniform(0.5, 1.6, (NUM_WAVES, 3)) * 2 * np.pi / 220,
            rng.uniform(0, 2 * np.pi, (NUM_WAVES, 3)),
        ]
    )
    return Body(
        scale=(dice.near(1.06, 0.025), dice.near(1.08, 0.025), dice.near(1, 0.02)),
        turn_deg=dice.turn(sd_deg=2.0),
        shift_mm=(dice.near(0, 3), dice.near(0, 3), dice.near(0, 5)),
        waves=waves,
        fat_mm=fat_mm,
        wall_mm=wall_mm,
        phase=phase,
        shapes=shapes,
        liver_tumors=tuple(lesions),
        kidney_tumor=kidney,
    )

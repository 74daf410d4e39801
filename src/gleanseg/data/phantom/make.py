"""Plan the phantom's cases, write them, and import them back as one manifest."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from gleanseg.data.manifest import Case, Channel, Manifest
from gleanseg.data.phantom import layouts
from gleanseg.data.phantom.anatomy import HEIGHT_MM, draw_body
from gleanseg.data.phantom.layouts import Geometry
from gleanseg.data.phantom.render import CODES, Rendered, render
from gleanseg.data.phantom.shapes import Triple
from gleanseg.data.sources import msd, nnunet, totalsegmentator
from gleanseg.errors import UserError, nearest

ROIS = tuple(sorted({roi for rois in CODES.values() for roi in rois}))
"""Ids of all ROIs that the phantom holds."""
FIELDS_MM = {"full": HEIGHT_MM, "upper": (-62.0, HEIGHT_MM[1]), "lower": (HEIGHT_MM[0], 26.0)}
"""Lowest and highest z of the fields of view: all, chest and upper abdomen, lower abdomen and pelvis."""
MIN_CASES = 6
_WIDTH_MM, _DEPTH_MM = 252.0, 224.0
_INDEX = "phantom.json"


class _Site(NamedTuple):
    """How one site scans: voxel size against the average, orientations and fields of view in turn, contrast."""

    factor: Triple
    orientations: tuple[str, ...]
    fields: tuple[str, ...]
    phase: float
    noise_hu: float
    origin_mm: Triple


_SITES = {
    "site_a": _Site((1.0, 1.0, 1.0), ("LPS",), ("full", "upper", "lower"), 0.4, 13.0, (0.0, 60.0, -640.0)),
    "site_b": _Site((0.95, 0.95, 1.12), ("RAS",), ("full", "lower", "upper"), 0.5, 15.0, (4.0, 0.0, 0.0)),
    "site_c": _Site((1.08, 1.08, 0.9), ("PIR",), ("full", "upper", "lower"), 0.6, 12.0, (-6.0, 180.0, 1310.0)),
    "unlabelled": _Site((1.0, 1.0, 1.08), ("LAS",), ("full", "upper", "lower"), 0.5, 15.0, (0.0, -40.0, 90.0)),
    "validation": _Site((1.0, 1.0, 1.0), ("RAS", "LPS", "PIR"), ("full", "lower", "upper"), 0.5, 14.0, (2.0, 0.0, 0.0)),
    "test": _Site(
        (1.0, 1.0, 1.0), ("LPS", "RAS", "PIR"), ("full", "upper", "full", "lower"), 0.5, 14.0, (3.0, 9.0, -80.0)
    ),
}


class PhantomCase(NamedTuple):
    """One case on disk.

    Attributes:
        id: unique; also the name of its truth folder.
        site: ``site_a``, ``site_b``, ``site_c``, ``unlabelled`` or ``held_out``.
        split: train, validation or test.
        image: path relative to the phantom's root.
        orientation: axis codes of its files.
        spacing_mm: x (right to left), y (front to back), z (head to foot), whatever the orientation.
        field: name of the field of view, see ``FIELDS_MM``.
        rois: ROIs that occur in the image, annotated or not.
    """

    id: str
    site: str
    split: Literal["train", "validation", "test"]
    image: str
    orientation: str
    spacing_mm: Triple
    field: str
    rois: tuple[str, ...]


class Phantom(NamedTuple):
    """A phantom data set on disk: its folder and its cases."""

    root: Path
    cases: tuple[PhantomCase, ...]

    @classmethod
    def load(cls, root: Path) -> "Phantom":
        """Read the index of a phantom.

        Raises:
            UserError: there is none in this folder.
        """
        path = root / _INDEX
        if not path.is_file():
            raise UserError(f"{path}: no phantom here; make one with 'gleanseg demo'")
        rows = json.loads(path.read_text(encoding="utf-8"))["cases"]
        cases = (row | {"spacing_mm": tuple(row["spacing_mm"]), "rois": tuple(row["rois"])} for row in rows)
        return cls(root, tuple(PhantomCase(**case) for case in cases))


class _Spec(NamedTuple):
    """One case to make: ``number`` counts from 0 within its group, ``stream`` over all."""

    id: str
    group: str
    number: int
    stream: int


def _plan(num_cases: int) -> list[_Spec]:
    """Share the cases out: 2/9 test, 1/12 validation, 1/7 unlabelled, 30 / 30 / 40 % of the rest to the three sites."""
    counts = {"test": round(num_cases * 8 / 36), "validation": round(num_cases * 3 / 36)}
    counts = {group: max(1, n) for group, n in counts.items()}
    counts["unlabelled"] = max(1, round(num_cases * 5 / 36))
    rest = num_cases - sum(counts.values())
    few = max(1, round(0.3 * rest))
    counts |= {"site_a": few, "site_b": few, "site_c": rest - 2 * few}
    letters = {"site_a": "a", "site_b": "b", "site_c": "c", "unlabelled": "u", "validation": "v", "test": "t"}
    specs: list[_Spec] = []
    for group, letter in letters.items():
        specs += [_Spec(f"{letter}_{n + 1:03d}", group, n, len(specs) + n) for n in range(counts[group])]
    return specs


def _scan(spec: _Spec, seed: int, shape_xyz: tuple[int, int, int]) -> tuple[Rendered, Geometry, str]:
    """Draw and scan one patient; depends on the seed and the case alone."""
    site, n = _SITES[spec.group], spec.number
    rng = np.random.default_rng([seed, spec.stream])
    field = site.fields[n % len(site.fields)]
    sides = ("right", None, "left", "right")
    body = draw_body(
        rng,
        num_liver_tumors=(1, 2, 0)[n % 3],
        kidney_tumor=sides[n % 4],
        phase=float(np.clip(rng.normal(site.phase, 0.25), 0, 1)),
    )
    low, high = FIELDS_MM[field]
    extent = (_WIDTH_MM, _DEPTH_MM, HEIGHT_MM[1] - HEIGHT_MM[0])
    fx, fy, fz = (round(e / num * f, 2) for e, num, f in zip(extent, shape_xyz, site.factor, strict=True))
    spacing = (fx, fy, fz)
    nx, ny, nz = (round(e / step) for e, step in zip((_WIDTH_MM, _DEPTH_MM, high - low), spacing, strict=True))
    start = (-(nx - 1) / 2 * fx, -(ny - 1) / 2 * fy, low + fz / 2)
    scan = render(body, rng, shape=(nx, ny, nz), spacing_mm=spacing, start_mm=start, noise_hu=site.noise_hu)
    table = (0.0, 0.0, float(rng.integers(-30, 30)))
    ox, oy, oz = (float(s + o + t) for s, o, t in zip(start, site.origin_mm, table, strict=True))
    return scan, Geometry(spacing, (ox, oy, oz), site.orientations[n % len(site.orientations)]), field


_MSD_FOLDER, _NNUNET_FOLDER = "site_a/Task81_PhantomLiver", "site_b/Dataset082_PhantomKidney"


def _write(root: Path, spec: _Spec, scan: Rendered, geometry: Geometry) -> Path:
    """Write one case in the layout of its group; returns the image's path."""
    match spec.group:
        case "site_a":
            return layouts.write_msd(root / _MSD_FOLDER, spec.id, scan, geometry)
        case "site_b":
            return layouts.write_nnunet(root / _NNUNET_FOLDER, spec.id, scan, geometry)
        case "site_c":
            return layouts.write_totalsegmentator(root / "site_c", spec.id, scan, geometry, layouts.STRUCTURES)
        case "unlabelled":
            return layouts.write_plain(root / "unlabelled" / "images", spec.id, scan, geometry)
        case split:
            return layouts.write_totalsegmentator(root / "held_out" / split, spec.id, scan, geometry)


def _make_case(root: Path, spec: _Spec, seed: int, shape_xyz: tuple[int, int, int]) -> PhantomCase:
    scan, geometry, field = _scan(spec, seed, shape_xyz)
    image = _write(root, spec, scan, geometry)
    layouts.write_truth(root / "truth", spec.id, scan, geometry)
    held_out = spec.group in ("validation", "test")
    return PhantomCase(
        id=spec.id,
        site="held_out" if held_out else spec.group,
        split="test" if spec.group == "test" else "validation" if spec.group == "validation" else "train",
        image=image.relative_to(root).as_posix(),
        orientation=geometry.orientation,
        spacing_mm=geometry.spacing_mm,
        field=field,
        rois=tuple(layouts.roi_masks(scan.codes)),
    )


def make_phantom(
    root: Path,
    *,
    num_cases: int = 36,
    seed: int = 0,
    shape_xyz: tuple[int, int, int] = (72, 64, 56),
    on_case: Callable[[int, int], object] | None = None,
) -> Phantom:
    """Write the phantom data set; the same arguments give the same bytes.

    Args:
        root: a new or empty folder. It appears when everything is written; a complete phantom made with the same
            arguments is kept as it is.
        num_cases: at least 6.
        seed: of everything that is drawn.
        shape_xyz: voxels of a full scan at the average spacing; the field of 252 x 224 x 260 mm stays, so that fewer
            voxels are larger ones. Sites deviate by up to 20 %.
        on_case: called with (number done, number of all) after each case.

    Returns:
        The folder and its cases.

    Raises:
        UserError: too few cases, or the folder holds something else.
    """
    if num_cases < MIN_CASES:
        raise UserError(f"{root}: a phantom of {num_cases} cases cannot fill every site; ask for {MIN_CASES} or more")
    settings = {"num_cases": num_cases, "seed": seed, "shape_xyz": list(shape_xyz)}
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        found = root / _INDEX
        if found.is_file() and json.loads(found.read_text(encoding="utf-8"))["settings"] == settings:
            return Phantom.load(root)
        raise UserError(
            f"{root}: expected a new folder for the phantom, found other files; choose another or delete it"
        )
    part = root.with_name(f"{root.name}.part")
    if part.exists():  # left by an interrupted call
        shutil.rmtree(part)
    specs = _plan(num_cases)
    cases: list[PhantomCase] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for case in pool.map(lambda spec: _make_case(part, spec, seed, shape_xyz), specs):
            cases.append(case)
            if on_case is not None:
                on_case(len(cases), num_cases)
    layouts.write_msd_index(part / _MSD_FOLDER, [s.id for s in specs if s.group == "site_a"])
    layouts.write_nnunet_index(part / _NNUNET_FOLDER, [s.id for s in specs if s.group == "site_b"])
    index = {"gleanseg_phantom": 1, "settings": settings, "cases": [case._asdict() for case in cases]}
    layouts.write_json(part / _INDEX, index)
    part.replace(root)
    return Phantom.load(root)


def _unlabelled(root: Path) -> Manifest:
    """Images alone say nothing of any ROI, so that their manifest is written out instead of imported."""
    images = sorted(path.relative_to(root).as_posix() for path in root.glob("images/*.nii.gz"))
    cases = tuple(Case(id=Path(name).name.removesuffix(".nii.gz"), site=root.name, images=(name,)) for name in images)
    return Manifest(name=root.name, rois=ROIS, channels=(Channel(name="ct", modality="CT"),), cases=cases, root=root)


def phantom_manifest(root: Path) -> Manifest:
    """Import every labelled folder of a phantom with the importer of its layout, add the unlabelled images, merge.

    Returns:
        Training cases with the annotations of their site only, and complete validation and test cases.

    Raises:
        UserError: the folder holds no phantom, or only a part of one.
    """
    held_out = {"validation": "0/rest/0", "test": "0/0/rest"}
    parts = [
        msd.to_manifest(root / _MSD_FOLDER, msd.Options(name="site_a", map=("cancer=liver_tumor",))),
        nnunet.to_manifest(root / _NNUNET_FOLDER, nnunet.Options(name="site_b")),
        totalsegmentator.to_manifest(
            root / "site_c", totalsegmentator.Options(name="site_c", version="v2", rois=layouts.STRUCTURES)
        ),
        _unlabelled(root / "unlabelled"),
    ]
    for split, sizes in held_out.items():
        options = totalsegmentator.Options(name="held_out", version="v2", rois=ROIS, split=sizes)
        parts.append(totalsegmentator.to_manifest(root / "held_out" / split, options))
    return Manifest.merge(parts, name="phantom")


def complete_manifest(root: Path) -> Manifest:
    """The same cases with every ROI annotated: what a recipe's ``data.annotate`` hides, diagnostics can look at.

    Raises:
        UserError: the folder holds no phantom, or only a part of one.
    """
    phantom = Phantom.load(root)
    cases = []
    for case in phantom.cases:
        files = {roi: path.relative_to(root).as_posix() for roi, path in phantom_truth(root, case.id).items()}
        absent = tuple(roi for roi in ROIS if roi not in files)
        cases.append(
            Case(
                id=case.id,
                site=case.site,
                split=case.split,
                images=(case.image,),
                labels=files,
                annotated=tuple(files),
                absent=absent,
            )
        )
    channels = (Channel(name="ct", modality="CT"),)
    return Manifest(name="phantom-complete", rois=ROIS, channels=channels, cases=tuple(cases), root=root)


def phantom_truth(root: Path, case_id: str) -> dict[str, Path]:
    """Mask files of every ROI that occurs in a case, hidden ones too; ROIs that are not named are not in the image.

    Raises:
        UserError: no such case.
    """
    folder = root / "truth" / case_id
    if not folder.is_dir():
        known = [path.name for path in (root / "truth").glob("*")]
        raise UserError(f"{folder}: no truth for case {case_id!r}{nearest(case_id, known)}")
    return {path.name.removesuffix(".nii.gz"): path for path in sorted(folder.glob("*.nii.gz"))}

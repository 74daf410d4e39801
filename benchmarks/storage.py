"""The store's format, the images' interpolation, the reader of NIfTI and the kind of workers: why they were chosen.

    python benchmarks/storage.py                      # about 6 minutes on 2 cores
    python benchmarks/storage.py --only resampling    # storage, resampling, decoding or workers

storage      reads random patches from blosc2 and zarr arrays of the same voxels; every read opens the array, as a
             loader that goes through many cases does
resampling   linear, linear with a triangle filter against aliasing, cubic: what is lost, and how long it takes
decoding     reads .nii.gz files, up to voxels in memory, by gleanseg (isal), nibabel and SimpleITK
workers      cases prepared by threads of one process against as many single-threaded processes

All sides take turns, round after round, so that a drifting machine hurts them alike; medians are reported. Real volumes
come from GLEANSEG_SHARED_DATA or ../shared/data. The result goes to benchmarks/results/storage.json.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import blosc2
import h5py
import nibabel as nib
import numpy as np
import SimpleITK
import zarr
from scipy import ndimage
from zarr.codecs import BloscCodec

from gleanseg.config import PrepareConfig
from gleanseg.data import images
from gleanseg.data.manifest import Manifest
from gleanseg.data.preprocess import prepare
from gleanseg.data.resample import AxisMap, apply_matrices, axis_map, axis_matrix, resample
from gleanseg.run.environment import processor

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GLEANSEG_SHARED_DATA", ROOT.parent / "shared" / "data"))
RESULT = ROOT / "benchmarks" / "results" / "storage.json"
PATCHES = (64, 96, 128)
FACTORS = (0.8, 1.25, 1.5, 2.0, 3.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("storage", "resampling", "decoding", "workers"))
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS, metavar=("MANIFEST", "CONFIG", "OUT"))
    arguments = parser.parse_args()
    if arguments.worker:
        path, config, out = arguments.worker
        prepare(Manifest.load(Path(path)), PrepareConfig.model_validate_json(config), Path(out), num_workers=1)
        return 0
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result |= {
        "command": "OMP_NUM_THREADS=1 python -P benchmarks/storage.py",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version()}
        | {
            name: version(name)
            for name in ("gleanseg", "numpy", "scipy", "blosc2", "zarr", "nibabel", "SimpleITK", "isal")
        },
        "note": "sides in turn, medians; other work ran on the machine at the same time where the load average says so",
    }
    sections = {"storage": storage, "resampling": resampling, "decoding": decoding, "workers": workers}
    for name, measure in sections.items():
        if arguments.only in (None, name):
            load = round(os.getloadavg()[0], 1)
            result[name] = {"load_average_before": load} | measure()
            print(json.dumps(result[name], indent=1), flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def storage() -> dict[str, Any]:
    """Size, writing time, and time of a random patch, per format and volume."""
    made: dict[str, Any] = {}
    for name, volume in stored_volumes().items():
        with tempfile.TemporaryDirectory() as folder:
            made[name] = {"shape_ZYX": volume.shape, "megabytes_raw": round(volume.nbytes / 1e6, 1)}
            made[name] |= compare_formats(volume, Path(folder))
    return made


def compare_formats(volume: np.ndarray, folder: Path, *, rounds: int = 12) -> dict[str, Any]:
    openers: dict[str, Callable[[], Any]] = {}
    rows: dict[str, Any] = {}
    for name, (write, opener) in formats().items():
        path = folder / name.replace(" ", "_").replace("/", "_")
        times = []
        for _ in range(3):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            start = time.perf_counter()
            write(volume, path)
            times.append(time.perf_counter() - start)
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        rows[name] = {
            "megabytes": round(sum(p.stat().st_size for p in files) / 1e6, 1),
            "files": len(files),
            "write_s": round(float(np.median(times)), 3),
        }
        openers[name] = lambda opener=opener, path=path: opener(path)
    rng = np.random.default_rng(0)
    for patch in PATCHES:
        size = np.minimum(patch, volume.shape)
        taken: dict[str, list[float]] = {name: [] for name in openers}
        for _ in range(rounds):
            start_ZYX = rng.integers(0, np.array(volume.shape) - size + 1)
            box = tuple(slice(int(a), int(a + n)) for a, n in zip(start_ZYX, size, strict=True))
            for name, opener in openers.items():
                start = time.perf_counter()
                found = opener()[box]
                taken[name].append(time.perf_counter() - start)
                assert np.array_equal(found, volume[box])
        for name, times in taken.items():
            rows[name][f"patch_{patch}_ms"] = round(float(np.median(times)) * 1e3, 2)
    return rows


def formats() -> dict[str, tuple[Callable[[np.ndarray, Path], None], Callable[[Path], Any]]]:
    """Name -> writer and opener."""

    def blosc(codec: str, *, chunk: int, block: int) -> Callable[[np.ndarray, Path], None]:
        def write(volume: np.ndarray, path: Path) -> None:
            settings = blosc2.CParams(
                codec=getattr(blosc2.Codec, codec), clevel=1, filters=[blosc2.Filter.SHUFFLE], nthreads=1
            )
            frame = blosc2.asarray(volume, chunks=(chunk,) * 3, blocks=(block,) * 3, cparams=settings)
            path.write_bytes(frame.to_cframe())

        return write

    def open_blosc(path: Path) -> Any:
        return blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))

    def zarr3(*, chunk: int, shard: int | None) -> Callable[[np.ndarray, Path], None]:
        def write(volume: np.ndarray, path: Path) -> None:
            array = zarr.create_array(
                path, shape=volume.shape, dtype=volume.dtype, chunks=(chunk,) * 3, shards=shard and (shard,) * 3,
                compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
            )  # fmt: skip
            array[:] = volume

        return write

    def open_zarr(path: Path) -> Any:
        return zarr.open_array(path, mode="r")

    return {
        "blosc2 zstd 128/32": (blosc("ZSTD", chunk=128, block=32), open_blosc),
        "blosc2 zstd 64/32": (blosc("ZSTD", chunk=64, block=32), open_blosc),
        "blosc2 lz4 128/32": (blosc("LZ4", chunk=128, block=32), open_blosc),
        "zarr zstd 32": (zarr3(chunk=32, shard=None), open_zarr),
        "zarr zstd 64": (zarr3(chunk=64, shard=None), open_zarr),
        "zarr zstd 128 shards of 32": (zarr3(chunk=32, shard=128), open_zarr),
    }


def resampling() -> dict[str, Any]:
    """Relative errors (root mean square over the standard deviation) and times."""
    made: dict[str, Any] = {"errors": {}, "seconds": times_of_resampling()}
    for name, volume in real_volumes().items():
        deviation = float(volume.std())
        row: dict[str, Any] = {"shape_ZYX": volume.shape}
        for order, label in ((1, "linear"), (3, "cubic")):
            row[f"held_out_{label}"] = [round(e / deviation, 4) for e in held_out(volume, order)]
        for factor in FACTORS:
            maps = [axis_map(n, 1.0, factor) for n in volume.shape]
            for label, matrices in operators(maps).items():
                back = resample(apply_matrices(volume, matrices), [m.inverse() for m in maps], order=3)
                error = float(np.sqrt(np.mean((back - volume) ** 2))) / deviation
                row.setdefault(f"there_and_back_{label}", {})[str(factor)] = round(error, 4)
        made["errors"][name] = row
    return made


def operators(maps: list[AxisMap]) -> dict[str, list[np.ndarray]]:
    return {
        "linear": [m.matrix(order=1) for m in maps],
        "linear_filtered": [triangle(m) for m in maps],
        "cubic": [m.matrix(order=3) for m in maps],
    }


def triangle(axis: AxisMap) -> np.ndarray:
    """Linear interpolation widened to the output spacing."""
    at = axis.offset + np.arange(axis.num_out) * axis.step
    distance = np.abs(at[:, None] - np.arange(axis.num_in))
    matrix = np.maximum(0, 1 - distance / max(1.0, axis.step))
    return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)


def held_out(volume: np.ndarray, order: int) -> list[float]:
    """Predict every second slice along each axis from the others."""
    errors = []
    for axis in range(3):
        even, odd = np.moveaxis(volume, axis, 0)[::2], np.moveaxis(volume, axis, 0)[1::2]
        num = min(len(odd), len(even) - 1)
        matrix = axis_matrix(len(even), num, step=1.0, offset=0.5, order=order)
        errors.append(float(np.sqrt(np.mean((np.tensordot(matrix, even, 1) - odd[:num]) ** 2))))
    return errors


def times_of_resampling(*, rounds: int = 3) -> dict[str, float]:
    volume = np.random.default_rng(0).normal(size=(256, 256, 256)).astype(np.float32)
    maps = [axis_map(256, 1.0, 1.25)] * 3
    shrink = maps[0].num_out / 256
    sides: dict[str, Callable[[], Any]] = {
        "linear": lambda: resample(volume, maps, order=1),
        "cubic": lambda: resample(volume, maps, order=3),
        "scipy zoom linear": lambda: ndimage.zoom(volume, shrink, order=1),
        "scipy zoom cubic": lambda: ndimage.zoom(volume, shrink, order=3),
    }
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            taken[name].append(time.perf_counter() - start)
    return {name: round(float(np.median(times)), 3) for name, times in taken.items()}


def decoding(*, rounds: int = 9) -> dict[str, Any]:
    """Milliseconds from a .nii.gz file to its voxels, as numbers of the file's type or float."""
    sides: dict[str, Callable[[Path], np.ndarray]] = {
        "gleanseg": lambda path: images.read(path).array,
        "nibabel": lambda path: np.asarray(nib.load(path).dataobj).T,
        "SimpleITK": lambda path: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)),
    }
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "ct.nii.gz"
        noisy = np.round(
            grown(nifti("ct_example/ct_torso.nii.gz"), 300) + np.random.default_rng(0).normal(0, 10, (300,) * 3)
        )
        nib.save(nib.Nifti1Image(noisy.astype(np.int16).T, np.eye(4)), large)
        first_la = sorted((DATA / "LA_half" / "imagesTr").glob("*.nii.gz"))[0]
        for name, path in (("CT-like 300^3, int16", large), ("MR left atrium 1.25 mm", first_la)):
            taken: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(rounds):
                voxels = {}
                for side, read in sides.items():
                    start = time.perf_counter()
                    voxels[side] = read(path)
                    taken[side].append(time.perf_counter() - start)
                assert all(np.array_equal(array, voxels["gleanseg"]) for array in voxels.values())
            made[name] = {"megabytes": round(path.stat().st_size / 1e6, 1), "shape_ZYX": voxels["gleanseg"].shape} | {
                f"{side}_ms": round(float(np.median(times)) * 1e3, 1) for side, times in taken.items()
            }
    return made


def workers(*, rounds: int = 3) -> dict[str, Any]:
    """Seconds to prepare all cases with as many workers as cores."""
    num = os.cpu_count() or 1
    made: dict[str, Any] = {"workers": num}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, manifest in (("many small MR", hippocampus()), ("few large CT", large_ct(folder / "ct"))):
            taken: dict[str, list[float]] = {"threads": [], "processes": []}
            for _ in range(rounds):
                for side in taken:
                    shutil.rmtree(folder / "out", ignore_errors=True)
                    taken[side].append(prepare_by(side, manifest, folder, num))
            made[label] = {"cases": len(manifest.cases)} | {
                f"{side}_s": round(float(np.median(times)), 2) for side, times in taken.items()
            }
    return made


def prepare_by(side: str, manifest: Manifest, folder: Path, num: int) -> float:
    # Intensities "none" need no measuring of the training cases, which every process would repeat.
    intensity = "none" if manifest.name == "large" else "zscore"
    config = PrepareConfig(spacing=(1.2, 1.2, 1.2), intensity=intensity, crop="none", resample="cubic")
    parts = [manifest.model_copy(update={"cases": manifest.cases[i::num]}) for i in range(num)]
    for i, part in enumerate(parts):
        part.save(folder / f"{i}.json")
    start = time.perf_counter()
    if side == "threads":
        prepare(manifest, config, folder / "out", num_workers=num)
    else:
        tail = [[str(folder / f"{i}.json"), config.model_dump_json(), str(folder / "out" / str(i))] for i in range(num)]
        running = [subprocess.Popen([sys.executable, "-P", __file__, "--worker", *arguments]) for arguments in tail]
        if any(process.wait() for process in running):
            raise RuntimeError("a worker failed")
    return time.perf_counter() - start


def hippocampus() -> Manifest:
    rois = ("hippocampus_anterior", "hippocampus_posterior")
    cases = [
        {
            "id": file.name.removesuffix(".nii.gz"), "images": [str(file)],
            "labels": str(file.parents[1] / "labelsTr" / file.name),
            "values": {1: [rois[0]], 2: [rois[1]]}, "annotated": rois,
        }
        for file in sorted((DATA / "Task04_Hippocampus" / "imagesTr").glob("*.nii.gz"))
    ]  # fmt: skip
    return Manifest(name="small", rois=rois, channels=[{"name": "t1", "modality": "MR"}], cases=cases)


def large_ct(folder: Path, *, num: int = 4) -> Manifest:
    """CT-like files of 256^3 voxels, made from the real one and noise, with a many-ROI label map."""
    folder.mkdir()
    volume = grown(nifti("ct_example/ct_torso.nii.gz"), 256)
    labels = np.rint(ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(16,) * 3), 1) * 20).clip(0, 5)
    labels = np.kron(labels, np.ones((16, 16, 16))).astype(np.uint8)
    rois = ("liver", "spleen", "stomach", "pancreas", "aorta")
    cases = []
    for i in range(num):
        noisy = np.round(volume + np.random.default_rng(i).normal(0, 10, volume.shape)).astype(np.int16)
        for name, array in ((f"{i}.nii.gz", noisy), (f"{i}_seg.nii.gz", labels)):
            nib.save(nib.Nifti1Image(array.T, np.eye(4)), folder / name)
        values = {v + 1: [roi] for v, roi in enumerate(rois)}
        paths = {"images": [str(folder / f"{i}.nii.gz")], "labels": str(folder / f"{i}_seg.nii.gz")}
        cases.append({"id": str(i), "values": values, "annotated": rois} | paths)
    return Manifest(name="large", rois=rois, channels=[{"name": "ct", "modality": "CT"}], cases=cases)


def real_volumes() -> dict[str, np.ndarray]:
    """Real images, float32 ZYX, CT clipped to what scanners show."""
    first_la = sorted((DATA / "LA_h5").glob("*/*/mri_norm2.h5"))[0]
    with h5py.File(first_la) as file:
        la = np.ascontiguousarray(file["image"][()].T, dtype=np.float32)
    first_hippocampus = sorted((DATA / "Task04_Hippocampus" / "imagesTr").glob("*.nii.gz"))[0]
    return {
        "CT torso 3 mm": nifti("ct_example/ct_torso.nii.gz").clip(-1000, 1000),
        "MR torso": nifti("ct_example/mr_example.nii.gz"),
        "MR FLAIR 1 mm": nifti("brats2015_sample/brats_2013_pat0001_1/Flair_subtrMeanDivStd.nii.gz"),
        "MR left atrium 0.6 mm": la,
        "MR hippocampus 1 mm": nifti(str(first_hippocampus.relative_to(DATA))),
    }


def stored_volumes() -> dict[str, np.ndarray]:
    """Volumes as a store holds them: normalised, float16."""
    rng = np.random.default_rng(0)
    ct = np.round(grown(nifti("ct_example/ct_torso.nii.gz"), 300) + rng.normal(0, 10, (300,) * 3)).clip(-1000, 1000)
    volumes = {"CT-like 300^3": ct.astype(np.float32)} | {
        name: volume for name, volume in real_volumes().items() if "FLAIR" in name or "atrium" in name
    }
    return {name: ((v - v.mean()) / v.std()).astype(np.float16) for name, v in volumes.items()}


def grown(volume: np.ndarray, size: int) -> np.ndarray:
    maps = [AxisMap(n, size, n / size, (n / size - 1) / 2) for n in volume.shape]
    return resample(volume, maps, order=3)


def nifti(name: str) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(nib.load(DATA / name).dataobj, dtype=np.float32).T)


if __name__ == "__main__":
    sys.exit(main())

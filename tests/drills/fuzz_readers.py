"""Fuzz the readers: a damaged or hostile file is read, or refused by a UserError of one line; nothing else may happen.

    PYTHONPATH=tests python tests/drills/fuzz_readers.py --seconds 600 --kinds nifti gzip

Where atheris is installed it looks for inputs that reach new lines; elsewhere hypothesis mutates sound files at random.
What fails is written to ``--keep`` (atheris: to the current folder) and shown with its traceback.
"""

import argparse
import gzip
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType
from typing import NamedTuple

import h5py
import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gleanseg.config import Recipe
from gleanseg.data import images
from gleanseg.data.manifest import Manifest
from gleanseg.errors import UserError
from gleanseg.run import checkpoint
from support.data import RECIPE, write_cases
from support.dicom import series

VOXELS_ZYX = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)


class Kind(NamedTuple):
    """What is fuzzed.

    Attributes:
        name: file name within a folder of its own.
        seed: a sound file.
        read: what may only succeed or raise a UserError.
        wrap: what is done to the mutated bytes before they are written.
    """

    name: str
    seed: bytes
    read: Callable[[Path], object]
    wrap: Callable[[bytes], bytes] = bytes


def _volume(path: Path) -> None:
    images.read_grid(path)
    volume = images.read(path)
    assert volume.array.ndim in (3, 4)
    assert np.isfinite(volume.grid.affine).all()
    images.to_ras(volume)


def _h5(path: Path) -> None:
    _volume(path.with_name(f"{path.name}#image"))


def _dicom(path: Path) -> None:
    _volume(path.parent)


def seeds() -> dict[str, Kind]:
    """A sound file of every kind that is read."""
    with TemporaryDirectory() as made:
        folder = Path(made)
        nib.save(nib.Nifti1Image(VOXELS_ZYX.T, np.diag([1.0, 2, 3, 1])), folder / "a.nii")
        nib.save(nib.Nifti2Image(VOXELS_ZYX.T, np.diag([1.0, 2, 3, 1])), folder / "b.nii")
        for name in ("a.nrrd", "a.mha"):
            sitk.WriteImage(sitk.GetImageFromArray(VOXELS_ZYX), str(folder / name))
        with h5py.File(folder / "a.h5", "w") as file:
            file["image"] = VOXELS_ZYX.T
        slices = sorted(series(folder / "dicom", voxels=VOXELS_ZYX).iterdir())
        manifest = write_cases(folder).read_bytes()
        checkpoint.save(folder / "c.safetensors", {"w": torch.arange(6.0)}, {"step": 3, "stage": "main"})
        content = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        one_slice = slices[0].read_bytes()
    recipe = RECIPE.format(method="supervised", steps=3).encode()
    return {
        "nifti": Kind("a.nii", content["a.nii"], _volume),
        "nifti2": Kind("b.nii", content["b.nii"], _volume),
        "gzip": Kind("a.nii.gz", content["a.nii"], _volume, lambda data: gzip.compress(data, 1)),
        "archive": Kind("b.nii.gz", gzip.compress(content["a.nii"], 1), _volume),
        "nrrd": Kind("a.nrrd", content["a.nrrd"], _volume),
        "mha": Kind("a.mha", content["a.mha"], _volume),
        "h5": Kind("a.h5", content["a.h5"], _h5),
        "dicom": Kind("s.dcm", one_slice, _dicom),
        "manifest": Kind("m.json", manifest, Manifest.load),
        "recipe": Kind("r.toml", recipe, Recipe.load),
        "checkpoint": Kind("c.safetensors", content["c.safetensors"], checkpoint.load),
    }


def try_reading(kind: Kind, data: bytes, folder: Path) -> bool:
    """Whether the file is accepted; anything raised but a UserError of one line goes on."""
    path = folder / kind.name.replace(".", "-") / kind.name
    path.parent.mkdir(exist_ok=True)  # of its own, as all files of a folder make a DICOM series
    path.write_bytes(kind.wrap(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(path)
    except UserError as error:
        if "\n" in str(error):
            raise AssertionError(f"the message has several lines: {error}") from error
        return False
    return True


_TELLING = [
    b"\x00", b"\xff", b"\x7f\xff", b"\xff\x7f", b"\xff\xff\xff\x7f", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f",
    b"9" * 13, b"-1", b"nan", b"inf", b"1e308", b"[" * 3000, b'"', b"\\ud800", b"../", b"\n",
]  # fmt: skip
"""Ends of number ranges, NaN and infinity in binary and in text, deep nesting, broken text, ways out of a folder."""


@st.composite
def mutations(draw: st.DrawFn, seed: bytes) -> bytes:
    """The seed with a few bytes put in place of others or between them, most of them near its start, or cut off."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 5))):
        near = draw(st.booleans())
        at = draw(st.integers(0, min(len(data), 400) if near else len(data)))
        piece = draw(st.one_of(st.sampled_from(_TELLING), st.binary(min_size=1, max_size=8)))
        data[at : at + (len(piece) if draw(st.booleans()) else 0)] = piece
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data)


def mutated(
    kind: Kind, folder: Path, *, examples: int, derandomize: bool = False, keep: Path | None = None
) -> Counter[bool]:
    """Read so many mutations of a sound file; how many were read (True) and refused (False).

    Args:
        kind: what is mutated.
        folder: where the files are written.
        examples: how many.
        derandomize: always the same ones.
        keep: where the present one lies, should the process die.
    """
    counts: Counter[bool] = Counter()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              derandomize=derandomize)  # fmt: skip
    @given(mutations(kind.seed))
    def attack(data: bytes) -> None:
        if keep is not None:
            keep.write_bytes(kind.wrap(data))
        counts[try_reading(kind, data, folder)] += 1

    attack()
    return counts


def _with_hypothesis(kinds: Mapping[str, Kind], *, seconds: float, folder: Path, keep: Path) -> int:
    failures = 0
    for name, kind in kinds.items():
        counts: Counter[bool] = Counter()
        present, stop = keep / f"last-{kind.name}", time.monotonic() + seconds / len(kinds)
        try:
            while time.monotonic() < stop:
                counts += mutated(kind, folder, examples=1000, keep=present)
        except Exception:
            failures += 1
            traceback.print_exc()
            print(f"{name}: FAILED, the file is {present}")
        print(f"{name}: {counts[True]} read, {counts[False]} refused")
    return failures


_FOLLOWED = ("gleanseg", "nibabel", "pydicom")
"""Packages in whose functions new lines count; all that is imported would take minutes to prepare."""


def _with_atheris(kinds: Mapping[str, Kind], *, seconds: float, folder: Path) -> int:
    import atheris

    listed = list(kinds.values())
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, kind in enumerate(listed):
        (corpus / kind.name).write_bytes(bytes([number]) + kind.seed)

    def attack(data: bytes) -> None:
        if data:
            try_reading(listed[data[0] % len(listed)], data[1:], folder)

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _FOLLOWED:
            for function in vars(module).values():
                if isinstance(function, FunctionType) and function.__module__ == name:
                    atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=4096", str(corpus)], attack)
    atheris.Fuzz()  # ends the process, with the failing input beside it
    return 0


def main() -> int:
    """Exit code 1 when something else than reading or refusing happened."""
    everything = seeds()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kinds", nargs="+", choices=sorted(everything), default=sorted(everything))
    parser.add_argument("--keep", type=Path, default=Path(), help="folder for the file that was read last")
    parser.add_argument("--mutate", action="store_true", help="hypothesis, even where atheris is installed")
    arguments = parser.parse_args()
    kinds = {name: everything[name] for name in arguments.kinds}
    with TemporaryDirectory() as made:
        folder = Path(made)
        if find_spec("atheris") and not arguments.mutate:
            return _with_atheris(kinds, seconds=arguments.seconds, folder=folder)
        return 1 if _with_hypothesis(kinds, seconds=arguments.seconds, folder=folder, keep=arguments.keep) else 0


if __name__ == "__main__":
    sys.exit(main())

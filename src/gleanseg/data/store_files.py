"""Writing a store's files: each appears complete or not at all, also after a power cut.

Axes: C channels, V codes, R ROIs, N cases, Z Y X voxels.
"""

import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from gleanseg.data.plan import Plan
from gleanseg.data.volume import Grid
from gleanseg.errors import UserError
from gleanseg.reading import read_json

VERSION = 1
_CHUNK, _BLOCK = 128, 32  # measured on 64^3 to 128^3 patches; a block is what one read decompresses at least


@dataclass(frozen=True, kw_only=True)
class Head:
    """Contents of store.json.

    Attributes:
        plan: what is done to every volume.
        request: digest of the manifest and configuration that the plan was settled for.
        manifest_digest: of the manifest.
        manifest_file: SHA-256 of the manifest's file; empty when it never was one.
        own_rois: the manifest's definitions of ROIs that the built-in ontology lacks.
    """

    plan: Plan
    request: str
    manifest_digest: str
    manifest_file: str = ""
    own_rois: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def read_head(path: Path) -> Head | None:
    """store.json of a folder; None when there is none.

    Raises:
        UserError: broken, or of another version.
    """
    file = path / "store.json"
    if not file.is_file():
        return None
    try:
        found = read_json(file)
        version = found.get("gleanseg_store")
        if version != VERSION:
            raise UserError(f"{path}: a store of version {version}, expected {VERSION}; prepare into a new folder")
        return Head(
            plan=Plan.model_validate(found["plan"]),
            request=found["request"],
            manifest_digest=found["manifest_digest"],
            manifest_file=found.get("manifest_file", ""),
            own_rois=found.get("own_rois", {}),
        )
    except (ValueError, KeyError, AttributeError, ValidationError) as error:
        raise UserError(f"{file}: broken ({type(error).__name__}: {error}); prepare into a new folder") from None


def write_head(path: Path, head: Head) -> None:
    """Write store.json."""
    write_bytes(
        path / "store.json",
        json.dumps(
            {
                "gleanseg_store": VERSION,
                "plan": head.plan.model_dump(mode="json"),
                "plan_digest": head.plan.digest(),
                "request": head.request,
                "manifest_digest": head.manifest_digest,
                "manifest_file": head.manifest_file,
                "own_rois": dict(head.own_rois),
            },
            indent=1,
        ).encode(),
    )


def compressed(array: NDArray[Any]) -> bytes:
    """A blosc2 frame, the bytes of a ``.b2nd`` file. Byte shuffling and fast zstd: two thirds of lz4's size."""
    lead = (1,) * (array.ndim - 3)
    frame = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=(*lead, *(min(_CHUNK, n) for n in array.shape[-3:])),
        blocks=(*lead, *(min(_BLOCK, n) for n in array.shape[-3:])),
        cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1, filters=[blosc2.Filter.SHUFFLE], nthreads=1),
    )
    return bytes(frame.to_cframe())


def npy_bytes(array: NDArray[Any]) -> bytes:
    """The bytes of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_case(folder: Path, files: Mapping[str, bytes], description: Mapping[str, object]) -> None:
    """Write a case's folder, ``case.json`` last; it appears complete or not at all and replaces an older one."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        for name, data in files.items():
            write_bytes(part / name, data)
        write_bytes(part / "case.json", json.dumps(description).encode())
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears complete or not at all, also after a power cut."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def grid_json(grid: Grid) -> dict[str, object]:
    """A grid as JSON."""
    return {"shape_ZYX": list(grid.shape_ZYX), "affine": grid.affine.tolist()}

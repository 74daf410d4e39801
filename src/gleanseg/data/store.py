"""The store: prepared volumes on disk, chunked and compressed, read patch by patch.

Axes: C channels, V codes, R ROIs, N cases, Z Y X voxels.

Layout::

    store.json                 version, plan, digests
    index.npz                  one row per case; written last, so that a store without it is unfinished
    cases/<id>/image.b2nd      C Z Y X float16, normalised
    cases/<id>/codes.b2nd      Z Y X uint8 or uint16, rows of the case's table
    cases/<id>/foreground.npy  sampled voxels of each ROI, one ROI after another
    cases/<id>/case.json       geometry, table, states, hashes; written last

Normalised intensities are stored as float16: its 11 significant bits are finer than the noise of CT and MR (below
0.3 HU within two standard deviations of a CT window), at half the size and reading time of float32.
Arrays are blosc2 frames, which beat zarr on random patches (benchmarks/results/storage.json).
"""

import io
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote
from zipfile import BadZipFile

import blosc2
import numpy as np
from jaxtyping import Bool, Float16, Int64, UInt, UInt16
from numpy.typing import NDArray

from gleanseg.data.store_files import Head, read_head, write_bytes
from gleanseg.data.volume import Grid
from gleanseg.errors import UserError, nearest
from gleanseg.reading import read_json

_CACHED_CASES = 4096
Start = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class StoredCase:
    """One case of a store; voxels are read when asked for.

    Attributes:
        id: case id.
        site: where it comes from.
        split: train, validation or test.
        folder: where its files lie.
        grid: of the stored arrays.
        native: of the whole input, in RAS order.
        box: start and stop (Z, Y, X) of the part of ``native`` that was kept.
        table: which ROIs each code contains; row 0 is the empty set.
        annotated: whether the voxels of each ROI are given, unions concluded.
        known: annotated, or certainly absent.
        ignore_code: code of voxels that nobody judged (an empty row of the table); None when there are none.
        num_voxels: of each ROI on ``grid``.
        num_channels: of the image.
        content: hash of the input's voxels.
        offsets: where each ROI's sampled voxels start in ``foreground.npy``, and their end.
    """

    id: str
    site: str
    split: str
    folder: Path
    grid: Grid
    native: Grid
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    table: Bool[np.ndarray, "V R"]
    annotated: Bool[np.ndarray, " R"]
    known: Bool[np.ndarray, " R"]
    ignore_code: int | None
    num_voxels: Int64[np.ndarray, " R"]
    num_channels: int
    content: str
    offsets: Int64[np.ndarray, " S"]

    def read(
        self, start_ZYX: Start, stop_ZYX: Start
    ) -> tuple[Float16[np.ndarray, "C Z Y X"], UInt[np.ndarray, "Z Y X"]]:
        """Image and codes of a box inside the volume; only the touched blocks are decompressed. Thread-safe.

        Raises:
            ValueError: the box is empty or reaches outside.
            UserError: a file of the case is missing or broken.
        """
        for start, stop, n in zip(start_ZYX, stop_ZYX, self.grid.shape_ZYX, strict=True):
            if not 0 <= start < stop <= n:
                raise ValueError(f"box {start_ZYX} to {stop_ZYX} does not lie in {self.grid.shape_ZYX} of {self.id}")
        box = tuple(slice(int(start), int(stop)) for start, stop in zip(start_ZYX, stop_ZYX, strict=True))
        # The handle is not shared: Blosc's decompression context belongs to one thread. Opening takes 0.1 ms.
        return _part(self.folder / "image.b2nd", (slice(None), *box)), _part(self.folder / "codes.b2nd", box)

    def foreground(self, roi: int) -> UInt16[np.ndarray, "N 3"]:
        """Up to 20,000 voxels (Z, Y, X) of an ROI, all of them when it has no more; always the same ones.

        Args:
            roi: position in the store's ``rois``.

        Raises:
            UserError: the file is missing or broken.
        """
        file = self.folder / "foreground.npy"
        try:
            stored = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: missing or broken ({error}); run 'gleanseg prepare' again") from error
        return np.array(stored[self.offsets[roi] : self.offsets[roi + 1]])


class Store:
    """Prepared cases. Opening reads the plan and the case ids only.

    Attributes:
        path: the folder.
        plan: what was done to every volume.
        rois: columns of all tables.
        channels: of all images.
        manifest_digest: of the manifest it was made from.
        manifest_file: SHA-256 of that manifest's file; empty when it never was one.
        own_rois: that manifest's definitions of ROIs that the built-in ontology lacks.
    """

    def __init__(self, path: Path, head: Head) -> None:
        self.path, self.plan, self.own_rois = path, head.plan, head.own_rois
        self.manifest_digest, self.manifest_file = head.manifest_digest, head.manifest_file
        self.rois, self.channels = head.plan.rois, head.plan.channels
        self._cache: OrderedDict[str, StoredCase] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open a finished store.

        Raises:
            UserError: no store, an unfinished one, or one of another version.
        """
        head = read_head(path)
        if head is None:
            raise UserError(f"{path}: not a store (no store.json); make one with 'gleanseg prepare'")
        if not (path / "index.npz").is_file():
            raise UserError(f"{path}: preparation did not finish; run 'gleanseg prepare' again, it goes on from there")
        return cls(path, head)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Case ids in the manifest's order."""
        return tuple(str(name) for name in self._column("ids"))

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """Site of each case."""
        return tuple(str(name) for name in self._column("sites"))

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Split of each case."""
        return tuple(str(name) for name in self._column("splits"))

    @cached_property
    def annotated(self) -> Bool[np.ndarray, "N R"]:
        """Whether the voxels of each ROI are given, of all cases."""
        return self._column("annotated")

    @cached_property
    def known(self) -> Bool[np.ndarray, "N R"]:
        """Whether each ROI is annotated or certainly absent, of all cases."""
        return self._column("known")

    @cached_property
    def num_voxels(self) -> Int64[np.ndarray, "N R"]:
        """Voxels of each ROI, of all cases."""
        return self._column("num_voxels")

    @cached_property
    def shapes_ZYX(self) -> Int64[np.ndarray, "N 3"]:
        """Shape of each stored volume."""
        return self._column("shapes")

    @cached_property
    def overlaps(self) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, "P 2"]]:
        """Pairs of ROIs that share voxels: the case's row, and both columns."""
        return self._column("overlapping_rows"), self._column("overlapping_rois")

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """Hash of each input's voxels."""
        return tuple(str(name) for name in self._column("contents"))

    @cached_property
    def inputs(self) -> tuple[tuple[str, ...], str]:
        """Names of all images and labels as the manifest writes them, and the digest of their files' states."""
        names = self._column("input_names").tobytes().decode()
        return tuple(names.split("\n")), str(self._column("input_states"))

    def _column(self, name: str) -> NDArray[Any]:
        # Opened anew each time: a handle would not survive a fork, nor let 'prepare' replace the file on every system.
        again = "run 'gleanseg prepare' again, which writes the index anew and keeps the cases"
        try:
            with np.load(self.path / "index.npz", allow_pickle=False) as index:
                if name not in index:
                    raise UserError(f"{self.path}: an earlier version wrote its index, without {name!r}; {again}")
                return np.asarray(index[name])
        except (OSError, ValueError, EOFError, MemoryError, BadZipFile) as error:
            raise UserError(f"{self.path / 'index.npz'}: missing or broken ({error}); {again}") from error

    @cached_property
    def _row(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def split(self, id: str) -> str:
        """Split of a case.

        Raises:
            UserError: no such case; the nearest ids are offered.
        """
        return self.splits[self._find(id)]

    def case(self, id: str) -> StoredCase:
        """A case; what was read of recent ones is kept.

        Raises:
            UserError: no such case, or its files are gone.
        """
        with self._lock:
            if id in self._cache:
                self._cache.move_to_end(id)
                return self._cache[id]
        row = self._find(id)
        case = read_case(self.path / "cases" / folder_name(id), id, site=self.sites[row], split=self.splits[row])
        with self._lock:
            self._cache[id] = case
            if len(self._cache) > _CACHED_CASES:
                self._cache.popitem(last=False)
        return case

    def _find(self, id: str) -> int:
        if id not in self._row:
            raise UserError(f"{self.path}: no case {id!r}{nearest(id, self._row)}; run 'gleanseg prepare' if it is new")
        return self._row[id]


def folder_name(id: str) -> str:
    """Folder of a case: its id, with whatever a file system may refuse written as %XX."""
    name = quote(id, safe=" +,=@()[]")
    return name.replace(".", "%2E") if set(name) == {"."} else name


def read_case(folder: Path, id: str, *, site: str, split: str) -> StoredCase:
    """Read a case's description; site and split lie in the index, for they may change without the case.

    Raises:
        UserError: missing, broken, or of another case.
    """
    try:
        found = read_json(folder / "case.json")
        if found["id"] != id:
            raise UserError(f"{folder}: holds case {found['id']!r}, expected {id!r}; ids differ in more than case")
        num_rois = len(found["annotated"])
        return StoredCase(
            id=id,
            site=site,
            split=split,
            folder=folder,
            grid=_grid(found["grid"]),
            native=_grid(found["native"]),
            box=tuple((int(start), int(stop)) for start, stop in found["box"]),  # type: ignore[arg-type]  # three
            table=_table(found["sets"], num_rois),
            annotated=np.array(found["annotated"], dtype=np.bool_),
            known=np.array(found["known"], dtype=np.bool_),
            ignore_code=found["ignore_code"],
            num_voxels=np.array(found["num_voxels"], dtype=np.int64),
            num_channels=found["num_channels"],
            content=found["content"],
            offsets=np.array(found["offsets"], dtype=np.int64),
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: case {id!r} cannot be read ({error}); run 'gleanseg prepare' again") from None


def has_index(path: Path) -> bool:
    """Whether a store is complete, with a whole index of this version."""
    try:
        with np.load(path / "index.npz", allow_pickle=False) as index:
            return "input_states" in index  # the newest column
    except (OSError, ValueError, EOFError, BadZipFile):  # missing or damaged
        return False


def write_index(path: Path, cases: Sequence[StoredCase], *, input_names: Sequence[str], input_states: str) -> None:
    """Write index.npz, which makes a store complete.

    Args:
        path: folder of the store.
        cases: in the manifest's order.
        input_names: names of all images and labels as the manifest writes them.
        input_states: digest of the states of their files when they were prepared.
    """
    num_rois = len(cases[0].known) if cases else 0
    pairs = [_overlapping(case.table) for case in cases]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        ids=np.array([case.id for case in cases]),
        sites=np.array([case.site for case in cases]),
        splits=np.array([case.split for case in cases]),
        contents=np.array([case.content for case in cases]),
        shapes=np.array([case.grid.shape_ZYX for case in cases], dtype=np.int64).reshape(-1, 3),
        annotated=np.array([case.annotated for case in cases], dtype=np.bool_).reshape(-1, num_rois),
        known=np.array([case.known for case in cases], dtype=np.bool_).reshape(-1, num_rois),
        num_voxels=np.array([case.num_voxels for case in cases], dtype=np.int64).reshape(-1, num_rois),
        overlapping_rows=np.repeat(np.arange(len(cases)), [len(found) for found in pairs]),
        overlapping_rois=np.concatenate([np.empty((0, 2), np.int64), *pairs]),
        input_names=np.frombuffer("\n".join(input_names).encode(), dtype=np.uint8),  # not padded to the longest
        input_states=np.array(input_states),
    )
    write_bytes(path / "index.npz", buffer.getvalue())


def _overlapping(table: Bool[np.ndarray, "V R"]) -> Int64[np.ndarray, "P 2"]:
    """Pairs of ROIs that some code of a table holds together."""
    together = table.T.astype(np.int32) @ table.astype(np.int32) > 0
    pairs: Int64[np.ndarray, "P 2"] = np.argwhere(np.triu(together, 1))
    return pairs


def _grid(found: dict[str, Any]) -> Grid:
    z, y, x = found["shape_ZYX"]
    return Grid((int(z), int(y), int(x)), np.array(found["affine"], dtype=np.float64))


def _table(sets: list[list[int]], num_rois: int) -> NDArray[np.bool_]:
    table = np.zeros((len(sets), num_rois), dtype=np.bool_)
    for code, members in enumerate(sets):
        table[code, members] = True
    return table


def _part(path: Path, box: tuple[slice, ...]) -> Any:
    try:
        return blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))[box]
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: missing or broken ({error}); run 'gleanseg prepare' again") from error

"""From a manifest to a store: all cases in parallel, resumable, each one complete or not there at all.

Axes: R ROIs, V codes, Z Y X voxels.
"""

import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gleanseg.config import PrepareConfig
from gleanseg.data import images
from gleanseg.data.bounded import available_memory, bounded_map, num_cores
from gleanseg.data.case import Case, State
from gleanseg.data.crop import annotated_box
from gleanseg.data.foreground import sample_foreground
from gleanseg.data.labels import LabelMap, read_image, read_labels
from gleanseg.data.manifest import Manifest
from gleanseg.data.plan import Plan, case_shape
from gleanseg.data.plan import plan as settle
from gleanseg.data.recode import code_dtype, compact, count_codes, resample_codes
from gleanseg.data.standardize import Prepared, preprocess_image
from gleanseg.data.store import Store, folder_name, has_index, read_case, write_index
from gleanseg.data.store_files import (
    Head,
    compressed,
    grid_json,
    npy_bytes,
    read_head,
    write_case,
    write_head,
)
from gleanseg.data.unchanged import FileState, file_states, request_digest, states_digest
from gleanseg.errors import UserError
from gleanseg.files import discard
from gleanseg.lock import LOCK_FILE, alone_in
from gleanseg.reading import read_json

__all__ = ["Prepared", "prepare", "preprocess_image"]

Progress = Callable[[int, int, str], None]
_CHANNEL_BYTES, _LABEL_BYTES = 12, 12  # peak per voxel, measured with tracemalloc
_READER_BYTES = 24 << 20  # buffers of the decompressor
_LARGEST_HALF = 65504.0
_FILES = ("image.b2nd", "codes.b2nd", "foreground.npy")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class _Input(NamedTuple):
    """What a stored case was made from: hash of the voxels, and states of the files."""

    content: str
    states: list[FileState]


def prepare(
    manifest: Manifest,
    config: PrepareConfig,
    out: Path,
    *,
    manifest_file: str = "",
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Store:
    """Make or finish a store.

    Cases that are already there, made by the same plan from the same files and labels, are kept, so an interrupted run
    goes on where it stopped, and new cases of a manifest are added. While another process prepares the same store, this
    one waits.

    Args:
        manifest: all cases; the plan is settled from its training cases only.
        config: the recipe's ``[prepare]`` table.
        out: folder of the store.
        manifest_file: SHA-256 of the manifest's file, by which ``is_unchanged`` knows it again; empty when it has none.
        num_workers: cases worked on at a time, fewer when memory is short; default one per core.
        progress: called with (done, total, case id) for each case, also for those that were there; while the plan is
            measured with (0, total, what is being measured).

    Raises:
        UserError: a file that cannot be read; a store made by another plan; one image under two ids; disk full.
            Finished cases stay.
    """
    workers = num_workers or num_cores()

    def waiting() -> None:
        if progress is not None:
            progress(0, len(manifest.cases), "waiting for another process")

    with _disk(out), _alone(out, on_wait=waiting):
        head = _head(manifest, config, out, manifest_file, num_workers=workers, progress=progress)
        _remove_leftovers(out)
        plan_digest = head.plan.digest()
        wanted = {case.id: _case_digest(manifest, case) for case in manifest.cases}
        found = ((case, _finished(manifest, case, out, plan_digest, wanted[case.id])) for case in manifest.cases)
        done = {case.id: kept for case, kept in found if kept is not None}
        todo = [case for case in manifest.cases if case.id not in done]
        if todo or not has_index(out):
            (out / "index.npz").unlink(missing_ok=True)
        contents: dict[str, Case] = {}
        for number, (id, kept) in enumerate(done.items(), start=1):
            _refuse_duplicate(manifest, manifest.case(id), kept.content, contents)
            if progress is not None:
                progress(number, len(manifest.cases), id)

        def work(case: Case) -> _Input:
            with _disk(out, f" writing case {case.id!r}"):
                return _prepare_case(manifest, case, head.plan, out, plan_digest, wanted[case.id])

        estimated = ((case, _affordable(manifest, case, head.plan)) for case in todo)
        num_kept = len(done)
        for number, (case, made) in enumerate(bounded_map(work, estimated, num_workers=workers), start=1):
            _refuse_duplicate(manifest, case, made.content, contents)
            done[case.id] = made
            if progress is not None:
                progress(num_kept + number, len(manifest.cases), case.id)
        if not (out / "index.npz").is_file():  # else nothing has changed, and the store may be read-only
            stored = [
                read_case(out / "cases" / folder_name(case.id), case.id, site=case.site, split=case.split)
                for case in manifest.cases
            ]
            names = [name for case in manifest.cases for name in _names(case)]
            states = states_digest(state for case in manifest.cases for state in done[case.id].states)
            write_index(out, stored, input_names=names, input_states=states)
    return Store.open(out)


def _head(
    manifest: Manifest,
    config: PrepareConfig,
    out: Path,
    manifest_file: str,
    *,
    num_workers: int,
    progress: Progress | None,
) -> Head:
    """The plan of the store that is there, or a new one; written to store.json."""
    request = request_digest(manifest.digest(), config)
    found = read_head(out)
    others = [path.name for path in out.iterdir() if path.name not in ("cases", LOCK_FILE)]
    if found is None and any(not name.endswith(".part") for name in others):
        raise UserError(f"{out}: holds other files and is not a store; choose a new or empty folder with --out")
    told: dict[str, Any] = {
        "manifest_digest": manifest.digest(),
        "manifest_file": manifest_file,
        "own_rois": manifest.own_rois,
    }
    if found is not None and found.request == request:
        head = replace(found, **told)
        if head != found:  # the same manifest, written in another way
            with suppress(OSError):  # a store that may only be read is as good, and looked at anew each time
                write_head(out, head)
        return head
    plan = settle(manifest, config, num_workers=num_workers, progress=progress)
    if found is not None and found.plan != plan:
        raise UserError(
            f"{out}: a store made by another recipe or other training cases ({found.plan.difference(plan)}); "
            "choose another --out, or delete it to prepare again"
        )
    head = Head(plan=plan, request=request, **told)
    (out / "cases").mkdir(parents=True, exist_ok=True)
    (out / "index.npz").unlink(missing_ok=True)
    write_head(out, head)
    return head


def _case_digest(manifest: Manifest, case: Case) -> str:
    """Changes with whatever of a case its stored form depends on; site and split lie in the index."""
    text = [case.model_dump(mode="json", exclude={"site", "split"}), manifest.states(case), manifest.rois]
    return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()


def _names(case: Case) -> tuple[str, ...]:
    return *case.images, *case.label_files()


def _finished(manifest: Manifest, case: Case, out: Path, plan_digest: str, digest: str) -> _Input | None:
    """Its input when the case is stored completely, as this plan and these files make it."""
    folder = out / "cases" / folder_name(case.id)
    try:
        found = read_json(folder / "case.json")
        if (found["id"], found["plan"], found["case"]) != (case.id, plan_digest, digest):
            return None
        if found["sizes"] != {name: (folder / name).stat().st_size for name in _FILES}:
            return None
        states = file_states(manifest.root, _names(case))
        return _Input(str(found["content"]), states) if found["sources"] == states else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refuse_duplicate(manifest: Manifest, case: Case, content: str, contents: dict[str, Case]) -> None:
    other = contents.setdefault(content, case)
    if other is not case:
        raise UserError(
            f"{manifest.path(case.images[0])}: cases {other.id!r} ({other.split}) and {case.id!r} ({case.split}) hold "
            "the same image, expected each once; remove one of them from the manifest"
        )


def _affordable(manifest: Manifest, case: Case, plan: Plan) -> int:
    """The estimate of a case that the machine can prepare.

    Raises:
        UserError: it needs more memory than is available.
    """
    needed, room = _estimate(manifest, case, plan), available_memory()
    if needed > room:
        raise UserError(
            f"{manifest.path(case.images[0])}: case {case.id!r} takes about {needed / 2**30:,.1f} GiB of memory to "
            f"prepare, and {room / 2**30:,.1f} GiB are available; check its header, set a coarser prepare.spacing, or "
            "prepare on a larger machine"
        )
    return needed


def _estimate(manifest: Manifest, case: Case, plan: Plan) -> int:
    """Peak memory of preparing a case in bytes, from its header."""
    shape = case_shape(manifest, case)
    native = np.prod(shape.shape_ZYX, dtype=np.float64)
    made = native * np.prod(shape.spacing_ZYX_mm) / np.prod(plan.spacing_ZYX_mm)
    return _READER_BYTES + int(max(native, made) * (_CHANNEL_BYTES * len(plan.channels) + _LABEL_BYTES))


def _prepare_case(manifest: Manifest, case: Case, plan: Plan, out: Path, plan_digest: str, digest: str) -> _Input:
    """Prepare and write one case; the folder appears complete or not at all.

    Returns:
        What it was made from.
    """
    states = file_states(manifest.root, _names(case))
    volume = read_image(manifest, case)
    content = images.content_hash(volume)
    labels = read_labels(manifest, case)
    prepared = preprocess_image(volume, plan, keep=annotated_box(labels))
    del volume
    image = _half(prepared.image, case)
    codes, table, ignore_code = _coded(labels, prepared, len(manifest.rois))
    voxels, offsets = sample_foreground(codes, table, case.id)
    given = manifest.states(case)
    files = {"image.b2nd": compressed(image), "codes.b2nd": compressed(codes), "foreground.npy": npy_bytes(voxels)}
    description = {
        "id": case.id,
        "plan": plan_digest,
        "case": digest,
        "sources": states,
        "sizes": {name: len(data) for name, data in files.items()},
        "content": content,
        "grid": grid_json(prepared.grid),
        "native": grid_json(prepared.native),
        "box": [[part.start, part.stop] for part in prepared.box],
        "num_channels": len(image),
        "sets": [np.flatnonzero(row).tolist() for row in table],
        "ignore_code": ignore_code,
        "annotated": [given[roi] is State.ANNOTATED for roi in manifest.rois],
        "known": [given[roi] is not State.UNKNOWN for roi in manifest.rois],
        "num_voxels": (count_codes(codes, len(table)) @ table).tolist(),
        "offsets": offsets.tolist(),
    }
    write_case(out / "cases" / folder_name(case.id), files, description)
    return _Input(content, states)


def _half(image: NDArray[np.float32], case: Case) -> NDArray[np.float16]:
    """The image as float16."""
    most = max(abs(float(image.min())), abs(float(image.max())))
    if most > _LARGEST_HALF:
        raise UserError(
            f"case {case.id!r}: intensities reach {most:.6g}, above {_LARGEST_HALF:.0f} which a store can hold; "
            "set prepare.intensity to 'zscore'"
        )
    return image.astype(np.float16)


def _coded(
    labels: LabelMap | None, prepared: Prepared, num_rois: int
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.bool_], int | None]:
    """Codes on the prepared grid, their table, and the code of voxels that nobody judged."""
    if labels is None:
        return np.zeros(prepared.grid.shape_ZYX, dtype=np.uint8), np.zeros((1, num_rois), dtype=np.bool_), None
    native = np.ascontiguousarray(prepared.axes.apply(labels.codes)[prepared.box])
    codes, table = resample_codes(native, labels.table, prepared.maps)
    if labels.valid is None:
        return codes, table, None
    valid = prepared.axes.apply(labels.valid)[prepared.box][np.ix_(*(m.nearest() for m in prepared.maps))]
    if valid.all():
        return codes, table, None
    codes, table = compact(np.where(valid, codes, 0), table)
    ignore_code = len(table)
    codes = codes.astype(code_dtype(len(table) + 1), copy=False)
    codes[~valid] = ignore_code
    return codes, np.concatenate([table, np.zeros((1, num_rois), dtype=np.bool_)]), ignore_code


@contextmanager
def _disk(out: Path, doing: str = "") -> Iterator[None]:
    """Say what to do when the disk is full, memory is short, or the folder cannot be written."""
    try:
        yield
    except MemoryError as error:
        raise UserError(f"{out}: out of memory{doing}; use fewer --workers, finished cases are kept") from error
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise UserError(
                f"{out}: disk full{doing}; free space and run the same command again, finished cases are kept"
            ) from error
        raise UserError(f"{out}: cannot write{doing} ({error}); mend it and run the same command again") from error


@contextmanager
def _alone(out: Path, *, on_wait: Callable[[], None]) -> Iterator[None]:
    """No other process prepares the store meanwhile. One that may only be read is complete, or refused later."""
    with ExitStack() as held:
        try:
            held.enter_context(alone_in(out, on_wait=on_wait))
        except OSError as error:
            if error.errno not in _READ_ONLY or not out.exists():
                raise
        yield


def _remove_leftovers(out: Path) -> None:
    """Remove what a killed run had half written."""
    for part in (*out.glob(".*.part"), *(out / "cases").glob(".*.part")):
        discard(part)

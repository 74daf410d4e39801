"""Predictions as files: one flat label map per case, layers where ROIs overlap, and what the values mean.

```
labels.json                  what each value means, in each layer and in the flat map
prediction.json              which run, checkpoint and settings made this folder
<case>.nii.gz                flat map; written last, so a case that has it is complete
layers/<case>_layer1.nii.gz  only where one layer does not hold all ROIs
probabilities/<case>_<roi>.nii.gz   only of ROIs that were asked for
```
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gleanseg import __version__
from gleanseg.data import images
from gleanseg.data.crop import Box, annotated_box
from gleanseg.data.labels import read_image, read_labels
from gleanseg.data.manifest import Case, Manifest, Split
from gleanseg.data.volume import Grid, Volume
from gleanseg.errors import UserError, names_memory, ran_out_of_memory
from gleanseg.evaluate.predictions import LABELS_FILE
from gleanseg.files import discard, whole
from gleanseg.predict.forecast import ADVICE, predict_need
from gleanseg.predict.layers import Layering
from gleanseg.predict.memory import gib, resident, room_on
from gleanseg.predict.predictor import Prediction, Predictor
from gleanseg.reading import read_json
from gleanseg.types import ProgressBar

ORIGIN_FILE = "prediction.json"
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


class Item(NamedTuple):
    """One case to predict.

    Attributes:
        id: what its files are named after.
        read: gives the image.
        sources: files that must not be overwritten.
        suffix: format of the label maps.
        annotated: gives the box of its labels in RAS order, None without any; asked only where the plan crops around
            labels.
        measure: gives the grid of the image from its header.
    """

    id: str
    read: Callable[[], Volume]
    sources: tuple[Path, ...]
    suffix: str = ".nii.gz"
    annotated: Callable[[], Box | None] = lambda: None
    measure: Callable[[], Grid] | None = None


def manifest_items(manifest: Manifest, *, split: Split | None = None, channels: Sequence[str] = ()) -> list[Item]:
    """Cases of a manifest, as NIfTI.

    Args:
        manifest: names the images.
        split: only these cases; None: all.
        channels: the order in which the network wants channels, where the manifest has the same ones in another.

    Raises:
        UserError: no such case.
    """
    cases = [case for case in manifest.cases if split is None or case.split == split]
    if not cases:
        raise UserError(f"{manifest.name}: no case with split = {split!r} to predict")
    names = [channel.name for channel in manifest.channels]
    order = [names.index(c) for c in channels] if sorted(names) == sorted(channels) and len(set(names)) > 1 else None

    def reader(case: Case) -> Callable[[], Volume]:
        def read() -> Volume:
            volume = read_image(manifest, case)
            return volume if order is None else volume._replace(array=volume.array[order])

        return read

    def annotated(case: Case) -> Callable[[], Box | None]:
        return lambda: annotated_box(read_labels(manifest, case))

    def measure(case: Case) -> Callable[[], Grid]:
        return lambda: images.read_grid(manifest.path(case.images[0]), spacing_mm=case.spacing_mm)[0]

    return [
        Item(
            case.id,
            reader(case),
            tuple(manifest.path(name) for name in case.images),
            annotated=annotated(case),
            measure=measure(case),
        )
        for case in cases
    ]


def file_items(inputs: Path, *, num_channels: int = 1) -> list[Item]:
    """An image file, a DICOM series, or a folder of these.

    Files named ``<case>_0000.nii.gz``, ``<case>_0001.nii.gz`` ... are the channels of one case, as nnU-Net has them.

    Raises:
        UserError: nothing there that can be read, a channel is missing, or two inputs of one name.
    """
    if inputs.is_dir():
        inside = sorted(path for path in inputs.iterdir() if not path.name.startswith("."))
        files = [path for path in inside if path.is_file() and images.suffix(path)]
        folders = [path for path in inside if path.is_dir()]
        if not files and not folders:
            return [_item(inputs.resolve().name, [inputs])]  # a DICOM series; reading it says what is wrong
        items = _grouped(files, num_channels) + [_item(folder.name, [folder]) for folder in folders]
    else:
        if not inputs.exists() and "#" not in inputs.name:
            raise UserError(f"{inputs}: no such file or folder; expected an image, a folder of images or a manifest")
        items = _grouped([inputs], num_channels)
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UserError(
                f"{inputs}: two inputs are called {item.id!r}, and so would be their predictions; rename one"
            )
        seen.add(item.id)
    return items


def write_predictions(
    predictor: Predictor,
    items: Sequence[Item],
    out: Path,
    *,
    resume: bool = False,
    num_parts: int = 1,
    part_id: int = 0,
    progress: ProgressBar | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Predict cases and write each one atomically.

    Args:
        predictor: the networks and their settings.
        items: cases.
        out: folder; made when missing.
        resume: skip cases that are complete; the folder must come from the same run, checkpoint and settings.
        num_parts: of how many processes this is one; each takes every ``num_parts``-th case.
        part_id: which one, from 0.
        progress: called with (done, total, case).
        note: told what the largest case will take.

    Returns:
        Ids of the cases that were predicted now.

    Raises:
        UserError: the folder holds something else, a file cannot be read or written, no such part, or a case that the
            machine cannot hold.
    """
    if not 0 <= part_id < num_parts:
        raise UserError(f"--part-id {part_id}: expected 0 to {num_parts - 1}, as --num-parts is {num_parts}")
    if images.suffix(out):
        raise UserError(f"{out}: the output is a folder with a label map per case; give a name without a file ending")
    for item in items:
        if _flat_path(out, item).resolve() in [source.resolve() for source in item.sources]:
            raise UserError(
                f"{out}: the label map of {item.id!r} would overwrite its image; choose another output folder"
            )
    mine = list(items)[part_id::num_parts]
    _foresee(predictor, [item for item in mine if not (resume and _flat_path(out, item).is_file())], note)
    _claim(out, predictor, resume=resume)
    _remove_leftovers(out, mine, predictor)
    predicted = []
    for done, item in enumerate(mine):
        if progress is not None:
            progress(done, len(mine), item.id)
        if resume and _flat_path(out, item).is_file():
            continue
        poll = None if progress is None else _window_poll(progress, done, len(mine), item.id)
        with names_memory(f"case {item.id!r}", "free memory, then continue with --resume"):
            volume = item.read()
            keep = item.annotated() if predictor.reads_labels else None
            _write(predictor.predict_volume(volume, keep=keep, poll=poll), item, volume, out)
        predicted.append(item.id)
    if progress is not None and mine:
        progress(len(mine), len(mine), mine[-1].id)
    return predicted


def predict_manifest(
    predictor: Predictor,
    manifest: Manifest,
    out: Path,
    *,
    split: Split | None = None,
    resume: bool = False,
    num_parts: int = 1,
    part_id: int = 0,
    progress: ProgressBar | None = None,
) -> list[str]:
    """Predict a manifest's cases; see ``manifest_items`` and ``write_predictions``."""
    channels = [channel.name for channel in predictor.plan.channels]
    items = manifest_items(manifest, split=split, channels=channels)
    return write_predictions(
        predictor, items, out, resume=resume, num_parts=num_parts, part_id=part_id, progress=progress
    )


def _foresee(predictor: Predictor, items: Sequence[Item], note: Callable[[str], None]) -> None:
    """Say what the largest case will take, and stop where the machine has less."""
    grids: dict[str, Grid] = {}
    for item in items:
        if item.measure is not None:
            with suppress(UserError):  # reading it will say what is wrong
                grids[item.id] = item.measure()
    if grids:
        largest = max(grids, key=lambda id: _extent(grids[id]))
        what = f"case {largest!r}"
        try:
            need = predict_need(predictor, grids[largest], num_channels=len(predictor.plan.channels))
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            raise UserError(
                f"{what}: a single batch of windows takes more memory than there is ({error}), of which "
                f"{gib(room_on(predictor.device))} are free; {ADVICE}"
            ) from None
        need.refuse(predictor.device, what=what, advice=ADVICE)
        note(f"the largest case, {largest}, needs about {gib(need.total)} of memory beside {gib(resident())} held now")


def _extent(grid: Grid) -> float:
    """Voxels, and with them what grows with cubic millimetres once they are resampled."""
    return math.prod(grid.shape_ZYX) * (1 + math.prod(grid.spacing_ZYX_mm))


def _grouped(files: Sequence[Path], num_channels: int) -> list[Item]:
    """One item per file, or per group of channel files."""
    matches = [_CHANNEL.fullmatch(images.stem(path)) for path in files]
    if not files or not all(matches):
        return [_item(images.stem(path), [path]) for path in files]
    groups: dict[str, list[Path]] = {}
    for path, match in zip(files, matches, strict=True):
        assert match is not None
        groups.setdefault(match["case"], []).append(path)
    for case, paths in groups.items():
        if len(paths) != num_channels and len(paths) > 1:
            found = ", ".join(path.name for path in paths)
            raise UserError(f"case {case!r}: expected {num_channels} channel files, found {found}")
    return [_item(case, paths) for case, paths in groups.items()]


def _item(id: str, paths: Sequence[Path]) -> Item:
    def read() -> Volume:
        volumes = [images.read(path) for path in paths]
        first = volumes[0]
        for other in volumes[1:]:
            if not first.grid.same_as(other.grid, tolerance_mm=0.1 * min(first.grid.spacing_ZYX_mm)):
                raise UserError(f"case {id!r}: {other.source} lies on another grid than {first.source}; resample it")
        if len(volumes) == 1:
            return first
        return first._replace(array=np.stack([v.array.astype(np.float32) for v in volumes]))

    suffix = images.suffix(paths[0]) or ".nii.gz"
    return Item(id.replace("#", "_"), read, tuple(paths), suffix, measure=lambda: images.read_grid(paths[0])[0])


def _window_poll(progress: ProgressBar, done: int, total: int, id: str) -> Callable[[int, int], None]:
    return lambda window, windows: progress(done, total, f"{id} (window {window}/{windows})")


def _flat_path(out: Path, item: Item) -> Path:
    return out / f"{item.id}{item.suffix}"


def _paths(out: Path, item: Item, layering: Layering, probabilities: Iterable[str]) -> list[Path]:
    """Files of a case: layers, if there are several, probability maps, and the flat map last."""
    layers = layering.to_json()["layers"]
    suffixes = [table["file_suffix"] for table in layers] if len(layers) > 1 else []
    return [
        *(out / "layers" / f"{item.id}{suffix}{item.suffix}" for suffix in suffixes),
        *(out / "probabilities" / f"{item.id}_{roi}{item.suffix}" for roi in probabilities),
        _flat_path(out, item),
    ]


def _remove_leftovers(out: Path, items: Sequence[Item], predictor: Predictor) -> None:
    """Remove what a killed process had half written of these cases; of others, another process may be writing."""
    left = [part for folder in (out, out / "layers", out / "probabilities") for part in folder.glob(".*.part")]
    if left:
        shapes = predictor.layering, predictor.options.probabilities
        ours = {f".{path.name}" for item in items for path in _paths(out, item, *shapes)}
        ours |= {f".{LABELS_FILE}", f".{ORIGIN_FILE}"}
        for part in (part for part in left if part.name.removesuffix(".part").rpartition(".")[0] in ours):
            discard(part)


def _write(prediction: Prediction, item: Item, volume: Volume, out: Path) -> None:
    layers = prediction.layers if prediction.layering.num_layers > 1 else ()
    arrays: list[NDArray[Any]] = [*layers, *prediction.probabilities.values(), prediction.flat()]
    for path, array in zip(_paths(out, item, prediction.layering, prediction.probabilities), arrays, strict=True):
        try:
            images.write(path, array, volume)
        except OSError as error:
            raise UserError(
                f"case {item.id!r}: {path} could not be written ({error.strerror or error}); free disk space or choose "
                "another output folder, then continue with --resume"
            ) from None


def _claim(out: Path, predictor: Predictor, *, resume: bool) -> None:
    """Say in the folder what it holds, unless it holds something else."""
    labels, origin = predictor.layering.to_json(), _origin(predictor)
    there = _read_json(out / LABELS_FILE)
    if there is not None and there != labels:
        raise UserError(
            f"{out}: holds predictions of other ROIs, whose values mean something else; choose another output folder"
        )
    before = _read_json(out / ORIGIN_FILE)
    if resume and before is not None and before != origin:
        changed = next(k for k in {**origin, **before} if before.get(k) != origin.get(k))
        raise UserError(
            f"{out}: its predictions were made with {changed} = {before.get(changed)}, now it is "
            f"{origin.get(changed)}; leave --resume out to make all anew, or choose another output folder"
        )
    try:
        for name, content in ((LABELS_FILE, labels), (ORIGIN_FILE, origin)):
            with whole(out / name) as part:
                part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another output folder") from None


def _origin(predictor: Predictor) -> dict[str, Any]:
    settings = {**predictor.config.model_dump(mode="json"), **asdict(predictor.options)}
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return {"gleanseg": __version__, **predictor.provenance, "reads_labels": predictor.reads_labels, **plain}


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it or choose another output folder") from None

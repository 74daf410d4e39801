"""The doctor's checks of one case: files, geometry, label values, intensities."""

from collections.abc import Iterator

from gleanseg.data.facts import Facts, ImageFacts, LabelFacts, Role
from gleanseg.data.finding import Finding, error, note, warning
from gleanseg.data.labels import MAX_SHIFT
from gleanseg.data.manifest import Case, Manifest, State
from gleanseg.data.volume import MAX_COSINE_NOISE, Grid, laid_onto

_MIN_SHIFT_MM = 1e-3
_SHOWN = 6


def check_case(manifest: Manifest, case: Case, facts: Facts) -> list[Finding]:
    """All findings about one case."""
    found = list(_files(case, facts))
    pictures = [(name, facts.images[name]) for name in case.images if name in facts.images]
    if pictures:
        found += _channels(manifest, case, pictures)
        found += _intensities(case, pictures)
        found += _axes(case, pictures[0][1].grid)
        for name in case.label_files():
            if name in facts.labels:
                found += _geometry(case, name, facts.labels[name], pictures[0][1].grid, case.images[0])
    labels = {name: facts.labels[name] for name in case.label_files() if name in facts.labels}
    for name, label in labels.items():
        found += _values(case, name, label)
    if case.labels is not None and len(labels) == len(set(case.label_files())):
        found += _rois(manifest, case, labels)
    return found


def _files(case: Case, facts: Facts) -> Iterator[Finding]:
    roles: tuple[tuple[Role, tuple[str, ...]], ...] = (("image", case.images), ("label", case.label_files()))
    for role, names in roles:
        for name in names:
            trouble = facts.troubles.get((role, name))
            if trouble is not None and trouble.missing:
                yield error(
                    "missing-file",
                    case.id,
                    f"{name}: there is no such {role} file",
                    "restore the file, correct the path, or remove the case",
                )
            elif trouble is not None:
                message, _, remedy = trouble.message.partition("; ")
                yield error("unreadable-file", case.id, message, remedy or "copy the file again")


def _channels(manifest: Manifest, case: Case, pictures: list[tuple[str, ImageFacts]]) -> Iterator[Finding]:
    found = sum(image.channels for _, image in pictures)
    wanted = len(manifest.channels)
    if len(pictures) == len(case.images) and found != wanted:
        name, image = pictures[0]
        kind = "is 4D with" if image.channels > 1 else "has"
        yield error(
            "channel-count",
            case.id,
            f"{name}: {kind} {image.channels} channel(s), {found} in all; the manifest declares {wanted}",
            "list every channel under 'channels', or extract the one that is meant (a 4D file may be a time series)",
        )
    first_name, first = pictures[0]
    for name, image in pictures[1:]:
        yield from _compare(case, name, image.grid, first.grid, first_name, "channel")
        if image.content == first.content:
            yield warning(
                "same-channels",
                case.id,
                f"{name}: has the same voxels as {first_name}",
                "name the right file for each channel",
            )


def _intensities(case: Case, pictures: list[tuple[str, ImageFacts]]) -> Iterator[Finding]:
    for name, image in pictures:
        if image.nonfinite:
            yield error(
                "not-finite",
                case.id,
                f"{name}: holds {image.nonfinite:,} NaN or infinite voxels",
                "replace them, for example by the smallest finite value, or leave the case out",
            )
        if any(low == high for low, *_, high in image.ranges):
            yield warning(
                "constant-image",
                case.id,
                f"{name}: all voxels of a channel are alike",
                "check the export; an empty image teaches nothing",
            )


def _axes(case: Case, grid: Grid) -> Iterator[Finding]:
    if grid.skew > MAX_COSINE_NOISE:
        yield warning(
            "skewed-axes",
            case.id,
            f"{case.images[0]}: voxel axes are not at right angles (largest cosine between two {grid.skew:.4f})",
            "resample to a straight grid; distances and volumes are computed as if the axes were straight",
        )


def _geometry(case: Case, name: str, label: LabelFacts, image: Grid, image_name: str) -> Iterator[Finding]:
    grid = laid_onto(label.grid, image)[0] if case.labels_follow == "orientation" else label.grid
    yield from _compare(case, name, grid, image, image_name, "label")
    if label.channels != 1:
        yield error(
            "label-channels",
            case.id,
            f"{name}: holds {label.channels} channels, expected one",
            "write one label map, or one mask file per ROI",
        )


def _compare(case: Case, name: str, grid: Grid, wanted: Grid, reference: str, what: str) -> Iterator[Finding]:
    """One grid against another that should be the same."""
    if grid.shape_ZYX != wanted.shape_ZYX:
        yield error(
            f"{what}-shape",
            case.id,
            f"{name}: shape {_xyz(grid)} differs from {_xyz(wanted)} of {reference}",
            "pair the right files, or resample one onto the other's grid",
        )
    elif grid.orientation != wanted.orientation:
        yield error(
            f"{what}-orientation",
            case.id,
            f"{name}: runs {grid.orientation}, but {reference} {wanted.orientation}",
            "copy the image's header if voxels match one to one; else reorient the file",
        )
    elif wanted.offset_mm(grid) > MAX_SHIFT * min(wanted.spacing_ZYX_mm):
        yield error(
            f"{what}-position",
            case.id,
            f"{name}: lies up to {wanted.offset_mm(grid):.3g} mm from {reference}",
            "copy the image's header if voxels match one to one; else resample the file",
        )
    elif wanted.offset_mm(grid) > _MIN_SHIFT_MM:
        yield note(
            f"{what}-position",
            case.id,
            f"{name}: lies up to {wanted.offset_mm(grid):.3g} mm from {reference}, as rounding of headers does",
            "nothing; the image's grid is used",
        )


def _xyz(grid: Grid) -> str:
    return "x".join(str(n) for n in grid.shape_ZYX[::-1])


def _values(case: Case, name: str, label: LabelFacts) -> Iterator[Finding]:
    if label.fractions:
        yield error(
            "label-fractions",
            case.id,
            f"{name}: {label.fractions:,} voxels are not whole numbers",
            "resample labels by nearest neighbor, and round only what is rounding error",
        )
    if isinstance(case.labels, str):
        declared = {0, *case.values} | ({case.ignore} if case.ignore is not None else set())
        strange = {v: n for v, n in label.counts.items() if v not in declared}
        if strange:
            said = ", ".join(f"{v} ({n:,} voxels)" for v, n in list(strange.items())[:_SHOWN])
            yield error(
                "undeclared-value",
                case.id,
                f"{name}: holds value {said}; declared are {', '.join(map(str, sorted(declared)))}",
                "add it to 'values' with its ROIs ([] for background), or mend the file",
            )
    elif any(v < 0 for v in label.counts):
        yield warning(
            "negative-mask",
            case.id,
            f"{name}: holds values below 0, which count as background",
            "check the mask; foreground is above 0",
        )


def voxels(case: Case, labels: dict[str, LabelFacts]) -> dict[str, tuple[int, float]]:
    """ROI -> number of voxels that the labels give it, and their mean position (left - to right +, mm)."""
    parts: dict[str, list[tuple[int, float]]] = {}
    if isinstance(case.labels, dict):
        for roi, name in case.labels.items():
            label = labels[name]
            parts[roi] = [(n, label.right_mm[v]) for v, n in label.counts.items() if v > 0 and v != case.ignore]
    elif isinstance(case.labels, str):
        label = labels[case.labels]
        for value, rois in case.values.items():
            for roi in rois:
                here = label.counts.get(value, 0)
                parts.setdefault(roi, []).append((here, label.right_mm.get(value, 0.0)))
    total = {roi: sum(n for n, _ in p) for roi, p in parts.items()}
    return {roi: (total[roi], sum(n * x for n, x in p) / max(1, total[roi])) for roi, p in parts.items()}


def _rois(manifest: Manifest, case: Case, labels: dict[str, LabelFacts]) -> Iterator[Finding]:
    given = voxels(case, labels)
    states = manifest.states(case)
    empty = [roi for roi in case.annotated if roi in given and given[roi][0] == 0]
    if empty:
        all_of = "all its annotated ROIs" if len(empty) == len(case.annotated) else _some(empty)
        yield warning(
            "empty-annotation",
            case.id,
            f"no voxel of {all_of}",
            "right when it is not in the image; when nobody looked, take it out of 'annotated'",
        )
    present = [roi for roi, (n, _) in given.items() if n and states.get(roi) is State.ABSENT]
    if present:
        yield error(
            "absent-but-present",
            case.id,
            f"{_some(present)}: stated as absent, but the labels hold {given[present[0]][0]:,} voxels of it",
            "move it from 'absent' to 'annotated', or mend the labels",
        )
    unlisted = [roi for roi, (n, _) in given.items() if n and states.get(roi) is State.UNKNOWN]
    if unlisted:
        yield note(
            "unused-labels",
            case.id,
            f"the labels hold {_some(unlisted)}, which 'annotated' does not list",
            "list it if it was annotated completely; it is not learnt from else",
        )
    yield from _sides(manifest, case, given)


def _sides(manifest: Manifest, case: Case, given: dict[str, tuple[int, float]]) -> Iterator[Finding]:
    """Left structures must lie left of their right counterparts, in the patient."""
    if any("#" in name for name in case.images):  # no geometry: nobody knows where left is
        return
    ontology = manifest.ontology()
    pairs = [
        (roi, ontology.mirror(roi))
        for roi in given
        if ontology[roi].side == "left" and given[roi][0] and given.get(ontology.mirror(roi), (0, 0.0))[0]
    ]
    swapped = [left for left, right in pairs if left != right and given[left][1] > given[right][1]]
    if swapped:
        say = error if len(swapped) == len(pairs) and len(pairs) > 1 else warning
        yield say(
            "sides-swapped",
            case.id,
            f"{_some(swapped)}: lies to the patient's right of its counterpart",
            "the header's left and right, or the label names, are exchanged; mend the one that is wrong",
        )


def _some(rois: list[str]) -> str:
    more = f" and {len(rois) - _SHOWN} more" if len(rois) > _SHOWN else ""
    return ", ".join(rois[:_SHOWN]) + more

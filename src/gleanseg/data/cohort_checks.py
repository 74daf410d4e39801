"""The doctor's checks of a whole data set: duplicates, leaks, intensity scales, spacings, coverage."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from gleanseg.data.case_checks import voxels
from gleanseg.data.facts import Facts
from gleanseg.data.finding import Finding, error, note, warning
from gleanseg.data.manifest import Case, Manifest, State

MIN_GROUP = 8
"""Cases that it takes to say what is usual at a site, or in the set."""
SCALE_FLOOR = 1.25
"""Decades from the usual intensity range that are tolerated even where the other cases agree closely (18-fold)."""
SCALE_CEILING = 2.0
_SPREADS = 6.0
_WIDE = 1.5
"""Decades between the smallest and the largest intensity range from which the whole set gets a finding."""
_ODD_SPACING = 8.0
_ENOUGH = 3
"""Annotating cases from which an ROI without a voxel is a finding about the whole set."""


def check_cohort(manifest: Manifest, facts: Facts, contents: Mapping[str, str]) -> list[Finding]:
    """All findings that take more than one case to see.

    Args:
        manifest: names the cases.
        facts: of all files.
        contents: case id -> hash of its images.
    """
    return [
        *_shared_files(manifest),
        *_duplicates(manifest, contents),
        *_scales(manifest, facts),
        *_spacings(manifest, facts),
        *_coverage(manifest, facts),
    ]


def _shared_files(manifest: Manifest) -> Iterator[Finding]:
    """One file under two ids."""
    for what in ("image", "label"):
        owner: dict[str, Case] = {}
        for case in manifest.cases:
            for name in case.images if what == "image" else set(case.label_files()):
                other = owner.setdefault(name, case)
                if other is not case:
                    yield error(
                        f"shared-{what}-file",
                        case.id,
                        f"{name}: is the {what} of case {other.id} ({other.split}) and of {case.id} ({case.split})",
                        "remove one of the cases, or correct the path",
                    )


def _duplicates(manifest: Manifest, contents: Mapping[str, str]) -> Iterator[Finding]:
    """The same voxels under two ids: a leak when the splits differ, double weight when not."""
    first: dict[str, Case] = {}
    for case in manifest.cases:
        if case.id not in contents:
            continue
        other = first.setdefault(contents[case.id], case)
        if other is not case and other.images != case.images:
            leak = f"; a {other.split} case leaks into {case.split}" if other.split != case.split else ""
            yield error(
                "duplicate-image",
                case.id,
                f"{case.images[0]}: same voxels as {other.images[0]} of case {other.id}{leak}",
                "keep one of them (merge their labels into it)",
            )


def _scales(manifest: Manifest, facts: Facts) -> Iterator[Finding]:
    """Intensity ranges against what is usual, per channel, in decades."""
    for index, channel in enumerate(manifest.channels):
        ranges = {c.id: r for c in manifest.cases if (r := _range(c, index, facts)) is not None}
        scales = {id: float(np.log10(r[3] - r[1])) for id, r in ranges.items() if r[3] > r[1]}
        yield from _outliers(manifest, channel.name, scales)
        if len(scales) > 1 and max(scales.values()) - min(scales.values()) > _WIDE:
            fold = 10 ** (max(scales.values()) - min(scales.values()))
            low, high = min(scales, key=scales.__getitem__), max(scales, key=scales.__getitem__)
            yield warning(
                "intensity-scales",
                "",
                f"channel {channel.name!r}: intensity ranges differ up to {fold:,.0f}-fold between cases"
                f" ({low} {10 ** scales[low]:.3g}, {high} {10 ** scales[high]:.3g})",
                'normalize each case by itself (prepare.intensity = "zscore", which "auto" chooses for MR)',
            )
        if channel.modality.upper() == "CT":
            yield from _hounsfield(manifest, channel.name, ranges)


def _range(case: Case, index: int, facts: Facts) -> tuple[float, float, float, float, float] | None:
    """Intensities of the channel at this position, over the case's files."""
    for name in case.images:
        if name not in facts.images:
            return None
        inside = facts.images[name].ranges
        if index < len(inside):
            return inside[index]
        index -= len(inside)
    return None


def _outliers(manifest: Manifest, channel: str, scales: Mapping[str, float]) -> Iterator[Finding]:
    """Cases far from the median of their site (or of the set, where a site has few), by robust spread."""
    groups: dict[str, list[str]] = defaultdict(list)
    for case in manifest.cases:
        if case.id in scales:
            groups[case.site].append(case.id)
    everyone = np.array(list(scales.values()))
    for site, ids in groups.items():
        local = len(ids) >= MIN_GROUP
        usual = np.array([scales[id] for id in ids]) if local else everyone
        if len(usual) < MIN_GROUP:
            continue
        middle = float(np.median(usual))
        spread = 1.4826 * float(np.median(np.abs(usual - middle)))
        limit = min(SCALE_CEILING, max(SCALE_FLOOR, _SPREADS * spread))
        where = f"of site {site}" if local and len(groups) > 1 else "of the set"
        for id in ids:
            away = scales[id] - middle
            if abs(away) > limit:
                yield warning(
                    "intensity-outlier",
                    id,
                    f"channel {channel!r}: intensity range {10 ** scales[id]:.3g} is {10 ** abs(away):,.0f}-fold"
                    f" {'above' if away > 0 else 'below'} the median {10**middle:.3g} {where}",
                    "check the export (rescale slope, units); harmless where each case is normalized by itself",
                )


def _hounsfield(
    manifest: Manifest, channel: str, ranges: Mapping[str, tuple[float, float, float, float, float]]
) -> Iterator[Finding]:
    """CT without air below -200 and with values beyond bone is stored with an offset, as a rule of +1000 or +1024."""
    for case in manifest.cases:
        if case.id in ranges and ranges[case.id][0] >= 0 and ranges[case.id][3] > 900:
            low, _, _, high, _ = ranges[case.id]
            yield warning(
                "not-hounsfield",
                case.id,
                f"channel {channel!r} is CT, but its values run from {low:g} to about {high:g} with none below 0",
                "apply the rescale intercept (as a rule -1024) when exporting",
            )


def _spacings(manifest: Manifest, facts: Facts) -> Iterator[Finding]:
    """Voxel sizes far from the usual: units mixed up, or a header without spacing."""
    sizes = {c.id: facts.images[c.images[0]].grid.spacing_ZYX_mm for c in manifest.cases if c.images[0] in facts.images}
    if len(sizes) < 3:
        return
    usual = np.median(np.array(list(sizes.values())), axis=0)
    for id, size in sizes.items():
        ratio = np.array(size) / usual
        if ratio.max() > _ODD_SPACING or ratio.min() < 1 / _ODD_SPACING:
            found, wanted = (" x ".join(f"{v:.3g}" for v in s[::-1]) for s in (size, usual.tolist()))
            yield warning(
                "odd-spacing",
                id,
                f"voxels of {found} mm (x, y, z), usual in the set {wanted} mm",
                "check the header's spacing and its unit",
            )


def _coverage(manifest: Manifest, facts: Facts) -> Iterator[Finding]:
    """ROIs that nobody annotates, labelled values that never occur, cases that cannot be evaluated."""
    training = [c for c in manifest.cases if c.split == "train"]
    annotated = {roi for c in training for roi, s in manifest.states(c).items() if s is State.ANNOTATED}
    if not annotated:
        yield warning(
            "nothing-annotated",
            "",
            "no training case annotates anything",
            "add labels, or use the manifest for prediction only",
        )
    elif never := [roi for roi in manifest.rois if roi not in annotated]:
        yield warning(
            "never-annotated",
            "",
            f"no training case annotates {', '.join(never[:6])}"
            + (f" and {len(never) - 6} more" if len(never) > 6 else ""),
            "take it out of 'rois', or add cases that annotate it",
        )
    total: dict[str, int] = defaultdict(int)
    asked: dict[str, int] = defaultdict(int)
    for case in manifest.cases:
        files = {name: facts.labels[name] for name in case.label_files() if name in facts.labels}
        if case.labels is not None and len(files) == len(set(case.label_files())):
            for roi, (n, _) in voxels(case, files).items():
                total[roi] += n if roi in case.annotated else 0
                asked[roi] += roi in case.annotated
    if nowhere := [roi for roi, n in total.items() if n == 0 and asked[roi] >= _ENOUGH]:
        yield warning(
            "always-empty",
            "",
            f"annotated, but without a voxel in any case: {', '.join(nowhere[:6])}"
            + (f" and {len(nowhere) - 6} more" if len(nowhere) > 6 else ""),
            "check the names and values of the labels; an ROI that never occurs cannot be learnt",
        )
    if blind := [c.id for c in manifest.cases if c.split != "train" and c.labels is None]:
        yield note(
            "unlabelled-evaluation",
            "",
            f"{len(blind)} validation or test case(s) have no labels, such as {blind[0]}",
            "they can be predicted, not evaluated",
        )

"""``gleanseg doctor``: examine a manifest and its files before anything is trained on them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from rich.table import Table

    from gleanseg.data.doctor import Diagnosis
    from gleanseg.data.finding import Finding

_MOST_PATTERNS = 6
_MOST_ROWS = 24
_MOST_NAMES = 4
_MOST_CASES = 5
_SIGN = {"annotated": "[green]●[/]", "absent": "[blue]○[/]", "unknown": "[dim]·[/]"}
_COLOR = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True, kw_only=True)
class Command:
    """Examine a manifest and all its files: states, geometry, values, intensities, duplicates. Exits 1 on an error.

    What was measured is kept beside the manifest, so that only changed files are read the next time.
    """

    manifest: tyro.conf.Positional[Path]
    """Manifest to examine."""
    json: Path | None = None
    """Write the diagnosis to this file. Default: MANIFEST.diagnosis.json beside the manifest, where reports look."""
    all: bool = False
    """Show every finding, not only the first cases of each kind."""
    fresh: bool = False
    """Read all files again, whatever was kept from the last time."""
    workers: Annotated[int | None, tyro.conf.arg(aliases=["-j"])] = None
    """Files read at a time. Default: one per core."""

    def run(self) -> int:
        """Examine, show and write the diagnosis."""
        import os

        from gleanseg.cli.progress import bar, console
        from gleanseg.data.doctor import examine
        from gleanseg.data.facts import hashes_path
        from gleanseg.data.manifest import Manifest
        from gleanseg.errors import UserError

        manifest = Manifest.load(self.manifest)
        kept = hashes_path(self.manifest)
        if self.fresh:
            kept.unlink(missing_ok=True)
        with bar("doctor") as progress:
            diagnosis = examine(manifest, hashes=kept, num_workers=self.workers, progress=progress)
        show_diagnosis(diagnosis, every=self.all)
        out = self.json or self.manifest.with_suffix(".diagnosis.json")
        if self.json is not None or os.access(out.parent, os.W_OK):
            try:
                diagnosis.save(out)
            except OSError as error:
                raise UserError(
                    f"{out}: cannot be written ({error.strerror}); name another place with --json"
                ) from None
            console.print(f"[dim]written to {out}[/]")
        return 0 if diagnosis.healthy else 1


def show_diagnosis(diagnosis: "Diagnosis", *, every: bool = False) -> None:
    """Print states and findings of a diagnosis.

    Args:
        diagnosis: of ``examine``.
        every: show each finding with its own message, not the first cases of each kind.
    """
    from rich.markup import escape

    from gleanseg.cli.progress import console

    splits = Counter(diagnosis.splits.values())
    said = ", ".join(f"{splits[s]} {s}" for s in ("train", "validation", "test") if splits[s])
    files = f"{diagnosis.num_files:,} files" + ("" if diagnosis.num_read else ", unchanged since the last time")
    console.print(f"[bold]{escape(diagnosis.name)}[/]: {_cases(len(diagnosis.states))} ({said}), {files}")
    console.print(_states(diagnosis))
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in diagnosis.findings:
        groups[finding.severity.value, finding.code].append(finding)
    for (severity, code), found in groups.items():
        mark = {"error": "✗", "warning": "!", "note": "i"}[severity]
        cases = list(dict.fromkeys(f.case for f in found if f.case))
        about = f"  {_cases(len(cases))}" if cases else ""
        console.print(f"[{_COLOR[severity]}]{mark} {severity}[/]  [bold]{code}[/]{about}")
        for finding in found if every else found[:1]:
            case = f"{finding.case}: " if finding.case else ""
            console.print(f"    {escape(case + finding.message)}")
        if not every and len(cases) > 1:
            more = f" and {len(cases) - 1 - _MOST_CASES} more" if len(cases) > 1 + _MOST_CASES else ""
            console.print(f"    [dim]also {escape(', '.join(cases[1 : 1 + _MOST_CASES]))}{more}[/]")
        console.print(f"    [dim]→ {escape(found[0].remedy)}[/]")
    counts = [f"[{_COLOR[s.value]}]{n} {s.value}{'s' if n != 1 else ''}[/]" for s, n in diagnosis.counts.items() if n]
    console.print(", ".join(counts) if counts else "[green]nothing to complain of[/]")


def _states(diagnosis: "Diagnosis") -> "Table":
    """ROIs down, kinds of cases across; or counts of cases, where cases differ too much."""
    rois = list(next(iter(diagnosis.states.values())))
    patterns = {case: tuple(state.value for state in row.values()) for case, row in diagnosis.states.items()}
    kinds = Counter((diagnosis.sites[case], pattern) for case, pattern in patterns.items())
    if len(kinds) > _MOST_PATTERNS:
        kinds = Counter(("", pattern) for pattern in patterns.values())
    if len(kinds) > _MOST_PATTERNS:
        return _count_table(rois, patterns.values())
    table = _table()
    for (site, _), n in kinds.items():
        table.add_column(f"{site}\n[not bold]{_cases(n)}[/]" if site else _cases(n), justify="center")
    rows: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for index, roi in enumerate(rois):
        row = tuple(_SIGN[pattern[index]] for _, pattern in kinds)
        rows[row if len(rois) > _MOST_ROWS else (*row, roi)].append(roi)
    for row, names in rows.items():
        table.add_row(_named(names), *row[: len(kinds)])
    table.caption = "  ".join(f"{sign} {state}" for state, sign in _SIGN.items())
    return table


def _count_table(rois: Sequence[str], patterns: Iterable[tuple[str, ...]]) -> "Table":
    counts = [Counter(column) for column in zip(*patterns, strict=True)]
    rows: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for roi, count in zip(rois, counts, strict=True):
        rows[tuple(count[state] for state in _SIGN)].append(roi)
    table = _table()
    for state, sign in _SIGN.items():
        table.add_column(f"{sign} {state}", justify="right")
    ordered = sorted(rows.items(), reverse=True)
    for row, names in ordered[:_MOST_ROWS]:
        table.add_row(_named(names), *(str(n) if n else "[dim]-[/]" for n in row))
    if len(ordered) > _MOST_ROWS:
        rest = sum(len(names) for _, names in ordered[_MOST_ROWS:])
        table.add_row(f"[dim]and {rest} more ROIs, in fewer cases[/]")
    table.caption = "number of cases in which each ROI is in each state"
    return table


def _cases(n: int) -> str:
    return f"{n} case{'s' if n != 1 else ''}"


def _table() -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption_justify="left", padding=(0, 1), pad_edge=False)
    table.add_column("ROI")
    return table


def _named(rois: Sequence[str]) -> str:
    more = f" [dim]and {len(rois) - _MOST_NAMES} more[/]" if len(rois) > _MOST_NAMES else ""
    return ", ".join(rois[:_MOST_NAMES]) + more

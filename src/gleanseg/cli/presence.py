"""``gleanseg presence``: which structures of a collection are there but unlabelled, and which labels look wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from gleanseg.predict.audit import Audit

_MOST_SUSPECTS = 10
_MOST_ROIS = 40


@dataclass(frozen=True, kw_only=True)
class Command:
    """Say for every case which ROIs are annotated, latent (there, but nobody labelled them), ambiguous or absent.

    Needs a run trained with method = "presence". Writes presence.json, presence.csv and presence.html.

    Example: gleanseg presence runs/presence collection.json -o audit/
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder of a presence training."""
    manifest: tyro.conf.Positional[Path]
    """Manifest of the collection."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Output folder."""
    split: Literal["train", "validation", "test"] | None = None
    """Only these cases. Default: all."""
    phi_high: float = 0.8
    """An ROI with a higher score is there."""
    phi_low: float = 0.1
    """An ROI with a lower score is not."""

    def run(self) -> int:
        """Scan, show and write."""
        from gleanseg.api import audit
        from gleanseg.cli.progress import bar, console

        with bar("presence") as progress:
            found = audit(
                self.folder,
                self.manifest,
                out=self.out,
                split=self.split,
                phi_high=self.phi_high,
                phi_low=self.phi_low,
                progress=progress,
            )
        show(found)
        console.print(f"[bold]audit[/bold] {self.out / 'presence.html'}")
        return 0


def show(found: "Audit") -> None:
    """Print counts per ROI and the labels that look wrong."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from gleanseg.cli.progress import console
    from gleanseg.predict.audit import Verdict

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("ROI")
    shown = [v for v in Verdict if any(found.number_of(roi, v) for roi in found.rois)]
    for verdict in shown:
        table.add_column(verdict.value, justify="right", style="bold" if verdict is Verdict.LATENT else "")
    ordered = sorted(found.rois, key=lambda roi: -found.number_of(roi, Verdict.LATENT))
    for roi in ordered[:_MOST_ROIS]:
        table.add_row(roi, *(str(found.number_of(roi, v) or "[dim]-[/]") for v in shown))
    console.print(f"[bold]{escape(found.name)}[/]: cases in which each ROI is")
    console.print(table)
    if len(ordered) > _MOST_ROIS:
        console.print(f"[dim]and {len(ordered) - _MOST_ROIS} more ROIs, in the files[/]")
    suspects = found.suspects
    if not suspects:
        console.print("[green]no label looks wrong[/]")
    for pair in suspects[:_MOST_SUSPECTS]:
        console.print(f"[yellow]![/] {escape(pair.case)}, {pair.roi}: {pair.suspect} (score {pair.score:.2f})")
    if len(suspects) > _MOST_SUSPECTS:
        console.print(f"[dim]and {len(suspects) - _MOST_SUSPECTS} more labels that look wrong, in the files[/]")

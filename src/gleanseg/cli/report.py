"""``gleanseg report``: one HTML file about a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Write one self-contained HTML file about a run: scores with intervals, pictures, curves, supervision, origin.

    Works at any time; what is not there yet is named in words. The file opens offline and loads nothing.

    Example: gleanseg report runs/first

    Example: gleanseg report runs/latent --beside runs/baseline runs/mean-teacher
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """Run folder of `gleanseg train`."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """HTML file; default: report.html in the run folder."""
    max_cases: int = 12
    """Most cases of which pictures are shown, worst first."""
    beside: tuple[Path, ...] = ()
    """Other runs with predictions of the same cases: shown on the same slices, the reference first."""

    def run(self) -> int:
        """Write it."""
        from gleanseg.cli.progress import console
        from gleanseg.report.html import write_report

        path = write_report(self.folder, output=self.out, max_cases=self.max_cases, others=self.beside)
        console.print(f"[bold]report[/bold] {path}")
        return 0

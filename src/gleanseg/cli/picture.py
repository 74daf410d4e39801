"""``gleanseg picture``: runs beside each other, case by case."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Draw what runs predict beside the reference: of each case a slice with outlines, and the surfaces below it.

    Without --cases the worst, the middle and the best case of the first run are shown, so that nobody picks them.

    Example: gleanseg picture runs/supervised runs/llm_segnet -o picture.png --cases case_03 case_11
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders with predictions of the split, trained on one manifest."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """PNG file."""
    names: tuple[str, ...] = ()
    """Headings of the runs' columns. Default: the folders' names."""
    cases: tuple[str, ...] = ()
    """Cases to show, by id."""
    rois: tuple[str, ...] = ()
    """ROIs to show. Default: all that the runs share."""
    split: Literal["train", "validation", "test"] = "test"
    """Whose predictions."""
    azimuth: float = 30.0
    """Side from which surfaces are seen, in degrees: 0 from the front, 90 from the patient's left."""
    elevation: float = 20.0
    """Degrees above the patient's front; 90 from the head."""
    width: int = 300
    """Pixels of a column."""

    def run(self) -> int:
        """Draw it."""
        from gleanseg.cli.progress import console
        from gleanseg.errors import UserError
        from gleanseg.report.picture import picture
        from gleanseg.report.surfaces import Camera

        if not self.runs:
            raise UserError("no run folder given; expected one or more")
        if self.width < 50:
            raise UserError(f"--width {self.width}: expected at least 50 pixels")
        if not self.out.parent.is_dir():
            raise UserError(f"{self.out}: the folder {self.out.parent} does not exist; make it first")
        camera = Camera(self.azimuth, self.elevation)
        drawn = picture(
            self.runs, names=self.names, cases=self.cases, rois=self.rois, split=self.split, camera=camera,
            width_px=self.width,
        )  # fmt: skip
        self.out.write_bytes(drawn)
        console.print(f"[bold]picture[/bold] {self.out}")
        return 0

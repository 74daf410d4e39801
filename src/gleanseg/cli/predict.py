"""``gleanseg predict``: label maps of new images, or of a split of the run's manifest."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Segment images with a trained run. Label maps lie on exactly the grids of the images.

    Writes one flat label map per case, layers where ROIs overlap, and labels.json, which says what the values mean.

    Example: gleanseg predict runs/first -i scans/ -o segmented/

    Example: gleanseg predict runs/first --split test
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder, the --out of `gleanseg train`."""
    inputs: Annotated[Path | None, tyro.conf.arg(aliases=["-i"])] = None
    """Image file, folder with a DICOM series, folder of images, or manifest (.json). Default: the run's manifest."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Output folder. Default for the run's own manifest: predictions/SPLIT in the run."""
    split: Literal["train", "validation", "test"] | None = None
    """Cases of a manifest. Default: test of the run's own manifest, all cases of another."""
    checkpoint: str | None = None
    """last, best, or a checkpoint file. Default: what the recipe selects."""
    deploy: str | None = None
    """Which of the method's networks, or average of them. Default: the method's first."""
    overlap: float | None = None
    """Part of a window that its neighbor shares, 0 to below 1. Default: the recipe's."""
    stride: tuple[int, int, int] | None = None
    """Voxels x, y, z from one window to the next, in place of --overlap. Default: the recipe's."""
    window_batch: int | None = None
    """Windows per forward pass. Default: the recipe's."""
    mirror: tuple[Literal["x", "y", "z"], ...] = ()
    """Average over flips of these axes; sides are swapped along x. Default: what the recipe says."""
    probabilities: tuple[str, ...] = ()
    """ROIs whose probability maps are written too."""
    keep_largest: tuple[str, ...] = ()
    """ROIs of which only the largest component is kept. Default: the recipe's."""
    min_component_mm3: float | None = None
    """Components of any ROI smaller than this are removed. Default: the recipe's."""
    repair: Literal["leave", "remove", "extend"] | None = None
    """Voxels of a part outside its parent: leave, remove, or give to the parent. Default: what the recipe says."""
    gate: float | None = None
    """Look for an ROI only in windows that the ROI-aware network scores at this or more, 0 to 1. Default: the
    recipe's."""
    keep_air: bool = False
    """Run the network on windows of air too."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the hardware multiplies it."""
    backend: Literal["auto", "eager", "openvino"] = "auto"
    """What computes the network. auto: OpenVINO where it is installed, for large volumes on processors."""
    num_parts: int = 1
    """Divide the cases among so many processes, each started with its own --part-id."""
    part_id: int = 0
    """This process, from 0."""
    resume: bool = False
    """Skip cases that the output folder has already."""

    def run(self) -> int:
        """Predict."""
        from gleanseg.cli.progress import bar, console
        from gleanseg.config import PredictConfig
        from gleanseg.errors import UserError
        from gleanseg.predict.inputs import predict_inputs
        from gleanseg.predict.predictor import Options, Predictor
        from gleanseg.run.folder import Run
        from gleanseg.strict import validate

        opened = Run.open(self.folder)
        changes: dict[str, Any] = {
            "overlap": self.overlap,
            "stride": self.stride,
            "window_batch": self.window_batch,
            "gate": self.gate,
            "min_component_mm3": self.min_component_mm3,
            "mirror": True if self.mirror else None,
            "keep_largest": tuple(opened.ontology.find(roi).id for roi in self.keep_largest) or None,
        }
        recipe = opened.recipe.predict.model_dump()
        if self.overlap is not None:
            if self.stride is not None:
                raise UserError("--overlap and --stride both say how windows lie; give one of them")
            recipe["stride"] = None
        given = {key: value for key, value in changes.items() if value is not None}
        options = Options(
            mirror_ZYX=("z" in self.mirror, "y" in self.mirror, "x" in self.mirror) if self.mirror else None,
            skip_air=not self.keep_air,
            probabilities=tuple(opened.ontology.find(roi).id for roi in self.probabilities),
            backend=self.backend,
            repair=self.repair,
        )
        predictor = Predictor.from_run(
            self.folder,
            checkpoint=self.checkpoint,
            deploy=self.deploy,
            config=validate(PredictConfig, {**recipe, **given}, where="gleanseg predict"),
            options=options,
            precision=self.precision,
        )
        with bar("predict") as progress:
            out = predict_inputs(
                predictor,
                opened,
                inputs=self.inputs,
                out=self.out,
                split=self.split,
                resume=self.resume,
                num_parts=self.num_parts,
                part_id=self.part_id,
                progress=progress,
                note=console.print,
            )
        console.print(f"[bold]predictions[/bold] {out}; what the values mean: {out / 'labels.json'}")
        return 0

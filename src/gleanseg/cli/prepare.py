"""``gleanseg prepare``: a manifest's volumes to a store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Bring all volumes of a recipe's manifest onto one grid and intensity scale.

    Finished cases are kept: after an interruption, or with new cases in the manifest, the same command goes on from
    there. 'gleanseg train' does this by itself when needed.

    Example: gleanseg prepare recipes/smoke/supervised.toml --workers 4
    """

    recipe: tyro.conf.Positional[Path]
    """TOML recipe; its [prepare] table says how."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Store folder. Default: the recipe's, else <manifest's name>.store beside the manifest."""
    workers: Annotated[int | None, tyro.conf.arg(aliases=["-j"])] = None
    """Cases worked on at a time. Default: one per core; fewer when memory is short."""
    override: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """table.key=value, may be given several times; an unknown key is an error that names the nearest."""

    def run(self) -> int:
        """Prepare, and say what was planned."""
        from gleanseg import api
        from gleanseg.cli.progress import bar, console
        from gleanseg.config import Recipe

        recipe = Recipe.load(self.recipe, overrides=self.override)
        with bar("prepare") as progress:
            store = api.prepare(recipe, out=self.out, num_workers=self.workers, progress=progress)
        plan = store.plan
        spacing = " x ".join(f"{mm:g}" for mm in reversed(plan.spacing_ZYX_mm))
        treatments = ", ".join(
            f"{channel.name} {intensity.kind}"
            + (f" [{intensity.low:g}, {intensity.high:g}] HU" if "window" in intensity.kind else "")
            for channel, intensity in zip(plan.channels, plan.intensity, strict=True)
        )
        console.print(f"[bold]store[/bold] {store.path}: {len(store.ids)} cases, {len(store.rois)} ROIs")
        console.print(
            f"voxels {spacing} mm ({plan.resample}), crop {plan.crop}, intensities: {treatments}", markup=False
        )
        return 0

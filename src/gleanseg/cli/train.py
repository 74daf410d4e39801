"""``gleanseg train``: a recipe to a run folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train a recipe. The run folder holds all that is needed to resume, predict and report.

    The manifest's volumes are prepared first when they are not yet.

    Example: gleanseg train recipes/smoke/supervised.toml -o runs/first --override train.steps=50
    """

    recipe: tyro.conf.Positional[Path]
    """TOML recipe: manifest, method, network, schedule."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Run folder; must be new, unless --resume."""
    override: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """table.key=value, may be given several times; an unknown key is an error that names the nearest."""
    resume: bool = False
    """Continue from the newest checkpoint in --out; its recipe must equal this one."""

    def run(self) -> int:
        """Train."""
        from gleanseg import api
        from gleanseg.cli.progress import TrainingBar, bar, console
        from gleanseg.config import Recipe

        recipe = Recipe.load(self.recipe, overrides=self.override)
        if not api.is_prepared(recipe):
            with bar("prepare") as progress:
                api.prepare(recipe, progress=progress)
        with TrainingBar() as watching:
            run = api.fit(recipe, out=self.out, resume=self.resume, listener=watching)
        console.print(f"[bold]run[/bold] {run.path} is finished; next: gleanseg predict {run.path} --split test")
        return 0

"""``gleanseg demo``: the whole way, from partly labelled folders to a report, on a phantom made on the spot."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Make a small CT-like data set of three partly labelled sites, and walk through every step. Needs no network."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("demo")
    """Folder for the data, the run and the report; must be new or empty."""
    steps: int = 450
    """Training steps."""
    method: str = "supervised"
    """Learning method; mean_teacher also learns from the scans that nobody labelled, in about twice the time."""
    seed: int = 0
    """Seed of data and training."""

    def run(self) -> int:
        """Run the demo."""
        import time

        from gleanseg import api
        from gleanseg.cli.doctor import show_diagnosis
        from gleanseg.cli.evaluate import show_evaluation
        from gleanseg.cli.progress import TrainingBar, bar, console
        from gleanseg.config import Recipe
        from gleanseg.data.phantom import make_phantom, phantom_manifest
        from gleanseg.errors import UserError

        if self.out.exists() and any(self.out.iterdir()):
            raise UserError(f"{self.out}: exists and is not empty; remove it or choose another --out")
        start = time.perf_counter()
        console.rule("1 of 6  three hospitals, each labels something else")
        with bar("phantom") as progress:
            make_phantom(self.out / "data", seed=self.seed, on_case=lambda done, total: progress(done, total, ""))
        manifest = phantom_manifest(self.out / "data")
        manifest.save(self.out / "manifest.json")
        console.rule("2 of 6  doctor")
        diagnosis = api.diagnose(manifest)
        diagnosis.save(self.out / "manifest.diagnosis.json")
        show_diagnosis(diagnosis)
        recipe_path = self.out / "recipe.toml"
        recipe_path.write_text(_RECIPE.format(method=self.method, steps=self.steps, seed=self.seed))
        recipe = Recipe.load(recipe_path)
        console.rule("3 of 6  prepare")
        with bar("prepare") as progress:
            api.prepare(recipe, progress=progress)
        console.rule("4 of 6  train")
        with TrainingBar() as watching:
            run = api.fit(recipe, out=self.out / "run", listener=watching)
        console.rule("5 of 6  predict and evaluate the test split")
        with bar("predict") as progress:
            api.predict(run.path, progress=progress)
        with bar("evaluate") as progress:
            result = api.evaluate(run.path, progress=progress)
        show_evaluation(result)
        console.rule("6 of 6  report")
        page = api.report(run.path)
        console.print(f"report: [bold]{page.resolve()}[/bold]   ({time.perf_counter() - start:.0f} s in all)")
        return 0


_RECIPE = """\
# Three sites that label different structures, in one model. Small and coarse, so that two processor cores suffice.
manifest = "manifest.json"
seed = {seed}

[prepare]
spacing = [7.0, 7.0, 7.0]
intensity = "ct"
window = [-200, 300]

[network]
name = "unet3d"
levels = 4
dropout = 0.0

[method]
name = "{method}"

[sampling]
patch = [40, 32, 24]       # the whole width, so that sides are told by where they are; not the whole height, or
                           # lungs are expected at the top of every scan
batch = 2

[augment]
mirror = []
strong = false

[optimizer]
lr = 2e-3
warmup = 20

[train]
steps = {steps}
validate_every = 225

[predict]
min_component_mm3 = 1000   # stray voxels of a lung in a scan without lungs would count as one found
"""

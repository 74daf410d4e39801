"""The hippocampus data as two sites, of which one is said to draw only the anterior part, the other only the posterior.

    python benchmarks/make_hippocampus_halves.py Task04_Hippocampus data/hippocampus-halves.json

Labels stay complete in the manifest; recipes hide them (``[data.annotate]``), so that the log can compare decisions
with the truth, and development and test cases are scored on both parts. The split is that of the other hippocampus
recipes.
"""

import argparse
from pathlib import Path

import numpy as np

from gleanseg.data.manifest import Manifest
from gleanseg.data.sources import msd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Task04_Hippocampus")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="draws which training case belongs to which site")
    arguments = parser.parse_args()
    whole = msd.to_manifest(arguments.folder, msd.Options(split="160/20/20", seed=0))
    manifest = halves(whole, seed=arguments.seed)
    manifest.save(arguments.manifest)
    print(arguments.manifest)


def halves(whole: Manifest, *, seed: int) -> Manifest:
    """Half of the training cases at site ``anterior``, half at site ``posterior``."""
    train = [case.id for case in whole.cases if case.split == "train"]
    anterior = set(np.random.default_rng(seed).permutation(train)[: len(train) // 2].tolist())
    cases = [
        case.model_copy(update={"site": "anterior" if case.id in anterior else "posterior"})
        if case.split == "train"
        else case
        for case in whole.cases
    ]
    return whole.model_copy(update={"cases": tuple(cases), "name": "hippocampus-halves"})


if __name__ == "__main__":
    main()

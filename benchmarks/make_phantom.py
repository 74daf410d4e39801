"""The phantom of the experiments: 60 cases, every ROI annotated; recipes hide what each site would not have labelled.

python benchmarks/make_phantom.py data/phantom
"""

import argparse
from pathlib import Path

from gleanseg.data.phantom import complete_manifest, make_phantom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder; the manifest is written beside it")
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_phantom(arguments.folder, num_cases=arguments.cases, seed=arguments.seed)
    path = arguments.folder.with_suffix(".json")
    complete_manifest(arguments.folder).save(path)
    print(path)


if __name__ == "__main__":
    main()

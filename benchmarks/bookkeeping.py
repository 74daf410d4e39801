"""What 100,000 cases cost: manifest, selection, sampling, `gleanseg train` to its first step; and `gleanseg --help`.

    python benchmarks/bookkeeping.py

The cases are one prepared case under as many names, so that no hour goes into writing voxels: the manifest, the index
and every case's description are those of as many cases. The same is done with a hundredth of them, each size in a fresh
process: what differs is what grows.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from end_to_end import write
from peak import peak_mib

T = TypeVar("T")
DRAWN = 1000
ROIS = ("liver", "spleen", "kidney_left", "kidney_right")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5, help="of `gleanseg --help`")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(Path(arguments.side[0]))))
        return
    sides = {}
    for number in (max(1, arguments.cases // 100), arguments.cases):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), number)
            words = [sys.executable, __file__, "--side", folder, str(number)]
            sides[str(number)] = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
            sides[str(number)]["train_to_first_step_s"] = first_step(Path(folder))
    helps = [timed(lambda: subprocess.run([gleanseg(), "--help"], check=True, capture_output=True))[0]
             for _ in range(arguments.repeats)]  # fmt: skip
    write(
        "bookkeeping",
        {
            "command": shlex.join(["python", "benchmarks/bookkeeping.py", *sys.argv[1:]]),
            "patches_drawn": DRAWN,
            "cases": sides,
            "help_s": {"min": min(helps), "median": statistics.median(helps), "max": max(helps)},
        },
    )


def gleanseg() -> str:
    return str(Path(sys.executable).with_name("gleanseg"))


def make(folder: Path, number: int) -> None:
    """A manifest and a store of ``number`` cases, of which one in ten has no labels and as many validate."""
    import nibabel
    import numpy as np

    from gleanseg.config import PrepareConfig
    from gleanseg.data import preprocess
    from gleanseg.data.manifest import Manifest
    from gleanseg.data.store import Store, folder_name, write_index
    from gleanseg.data.store_files import Head, read_head, write_head
    from gleanseg.data.unchanged import FileState, file_states, is_unchanged, request_digest, states_digest
    from gleanseg.reading import file_digest

    rng = np.random.default_rng(0)
    codes = rng.integers(0, len(ROIS) + 1, (40, 40, 40)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(rng.normal(0, 100, codes.shape).astype(np.int16), np.eye(4)), folder / "i.nii.gz")
    nibabel.save(nibabel.Nifti1Image(codes, np.eye(4)), folder / "l.nii.gz")
    values = {str(i): [roi] for i, roi in enumerate(ROIS, start=1)}

    def case(i: int) -> dict[str, Any]:
        labels = {} if i % 10 == 9 else {"labels": "l.nii.gz", "values": values, "annotated": list(ROIS[: 1 + i % 4])}
        split = "validation" if i % 10 == 8 else "train"
        return {"id": f"case_{i:06d}", "site": f"site_{i % 7}", "split": split, "images": [f"i{i}.nii.gz"], **labels}

    channels = [{"name": "mr", "modality": "MR"}]
    one = Manifest(name="one", rois=ROIS, channels=channels, cases=[case(3) | {"images": ["i.nii.gz"]}], root=folder)
    store = folder / "manifest.store"
    config = PrepareConfig(spacing=(1, 1, 1))
    preprocess.prepare(one, config, store, num_workers=1)
    many = Manifest(name="many", rois=ROIS, channels=channels, cases=[case(i) for i in range(number)], root=folder)
    many.save(folder / "manifest.json")
    (source,) = (store / "cases").iterdir()
    states: list[FileState] = []
    told, files = json.loads((source / "case.json").read_text()), ("image.b2nd", "codes.b2nd", "foreground.npy")
    for i, one_of_many in enumerate(many.cases):
        os.symlink(folder / "i.nii.gz", folder / f"i{i}.nii.gz")
        place = os.path.join(store, "cases", folder_name(one_of_many.id))
        if place != str(source):
            os.mkdir(place)
            for name in files:
                os.symlink(source / name, os.path.join(place, name))
        states += (found := file_states(folder, preprocess._names(one_of_many)))
        about = {"case": preprocess._case_digest(many, one_of_many), "sources": found}
        with open(os.path.join(place, "case.json"), "w") as file:
            json.dump(told | {"id": one_of_many.id, "content": one_of_many.id} | about, file)
    head = read_head(store)
    assert head is not None, "prepare wrote it"
    file = file_digest(folder / "manifest.json")
    request = request_digest(many.digest(), config)
    write_head(store, Head(plan=head.plan, request=request, manifest_digest=many.digest(), manifest_file=file))
    first = Store.open(store).case("case_000003")
    given = [np.isin(ROIS, c.annotated) for c in many.cases]
    write_index(
        store,
        [
            replace(first, id=c.id, site=c.site, split=c.split, annotated=a, known=a, content=c.id)
            for c, a in zip(many.cases, given, strict=True)
        ],
        input_names=[name for c in many.cases for name in preprocess._names(c)],
        input_states=states_digest(states),
    )
    assert is_unchanged(folder / "manifest.json", config, store), "or else every case would be looked at"


def measure(folder: Path) -> dict[str, Any]:
    """One side, in this process."""
    from gleanseg.config import AugmentConfig, DataConfig
    from gleanseg.data.manifest import Manifest
    from gleanseg.data.sampler import Sampler
    from gleanseg.data.selection import overlaps, select
    from gleanseg.data.store import Store

    before = peak_mib()
    load_s, manifest = timed(lambda: Manifest.load(folder / "manifest.json"))
    digest_s, digest = timed(manifest.digest)
    open_s, store = timed(lambda: Store.open(folder / "manifest.store"))
    assert digest == store.manifest_digest, "the store is that of the manifest"
    select_s, selection = timed(lambda: select(store, DataConfig()))
    overlaps_s, _ = timed(lambda: overlaps(store, selection))
    sampler = Sampler(store, selection, patch_ZYX=(16, 16, 16), foreground=0.5, augment=AugmentConfig(),
                      mirror_ZYX=(False, False, False), seed=0)  # fmt: skip
    first_s, _ = timed(lambda: sampler.patch("labelled", 0))
    drawn_s, _ = timed(lambda: [sampler.patch("labelled", i) for i in range(1, DRAWN)])
    return {
        "load_and_check_manifest_s": load_s,
        "hash_manifest_s": digest_s,
        "open_store_s": open_s,
        "select_s": select_s,
        "overlaps_s": overlaps_s,
        "first_patch_s": first_s,
        "patch_s": round(drawn_s / (DRAWN - 1), 5),
        "peak_mib": round(peak_mib()),
        "before_mib": round(before),
    }


def first_step(folder: Path) -> float:
    """Seconds from the command to the first step's line in the log; a small network, so that its step takes no time."""
    recipe, log = folder / "recipe.toml", folder / "run" / "log.jsonl"
    recipe.write_text(
        'manifest = "manifest.json"\n[prepare]\nspacing = [1, 1, 1]\n[network]\nname = "vnet"\nwidth = 4\n'
        "[sampling]\npatch = [32, 32, 32]\nbatch = 2\n[train]\nsteps = 1\n"
    )
    start = time.perf_counter()
    with subprocess.Popen([gleanseg(), "train", recipe, "-o", log.parent], stdout=subprocess.DEVNULL) as training:
        while not (log.exists() and log.read_text()):
            if training.poll():
                sys.exit(f"gleanseg train ended with {training.returncode}")
            time.sleep(0.01)
        taken = time.perf_counter() - start
        training.kill()
    return round(taken, 2)


def timed(what: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    found = what()
    return round(time.perf_counter() - start, 4), found


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()

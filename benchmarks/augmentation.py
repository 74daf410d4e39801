"""Augmented patches a second on one core: gleanseg against nnU-Net v2 (batchgeneratorsv2) and MONAI.

    pip install '.[bench]'
    python benchmarks/augmentation.py --image ../shared/data/ct_example/ct_torso.nii.gz

The same transforms at the same rates and strengths, those of nnU-Net's default trainer: rotation, zoom, Gaussian noise
and blur, brightness, contrast, low resolution, gamma, mirroring. Each side cuts random patches from the same volume
with a label map in memory, in a process of its own with one thread, in turns. gleanseg cuts as much as the drawn
rotation reaches, nnU-Net as much as the largest one could; MONAI is given what nnU-Net cuts.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from end_to_end import write

PATCH_ZYX = (80, 112, 112)
SHAPE_XYZ = [224, 224, 160]
"""Of the volume: the largest crop fits into it."""
SIDES = ("gleanseg", "nnunet", "monai")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--patches", type=int, default=40, help="of a round")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(patches_per_second(arguments.side, arguments.image, arguments.patches))
        return
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(arguments.repeats):
        for side, rates in found.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            alone = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=alone)
            rates.append(float(done.stdout.splitlines()[-1]))
    median = {side: statistics.median(rates) for side, rates in found.items()}
    write(
        "augmentation",
        {
            "command": shlex.join(["python", "benchmarks/augmentation.py", *sys.argv[1:]]),
            "patch_zyx": PATCH_ZYX,
            "patches_per_second": {
                side: {"min": min(rates), "median": median[side], "max": max(rates)} for side, rates in found.items()
            },
            "times_faster": {side: round(median["gleanseg"] / rate, 2) for side, rate in median.items()},
        },
    )


def patches_per_second(side: str, path: Path, num: int) -> float:
    """In this process, after some patches that warm up."""
    import torch
    from inference import prepared

    torch.manual_seed(0)
    image = prepared(path, SHAPE_XYZ)
    labels = (image > 0.5).astype(np.int16)
    patch = {"gleanseg": gleanseg_patches, "nnunet": nnunet_patches, "monai": monai_patches}[side](image, labels)
    rng = np.random.default_rng(0)
    for _ in range(5):
        patch(rng)
    start = time.perf_counter()
    for _ in range(num):
        patch(rng)
    return num / (time.perf_counter() - start)


def gleanseg_patches(image: Any, labels: Any) -> Callable[[np.random.Generator], None]:
    """What `Sampler` and `collate` do to a patch."""
    import torch

    from gleanseg.config import AugmentConfig
    from gleanseg.data.augment import draw, move, strong, weak

    config, shape, size = (
        AugmentConfig(rotation_degrees=30, zoom=(0.7, 1.4)),
        np.array(image.shape),
        np.array(PATCH_ZYX),
    )
    spacing = (1.0, 1.0, 1.0)

    def patch(rng: np.random.Generator) -> None:
        drawn = draw(rng, config, mirror_ZYX=(True, True, True))
        center = rng.uniform(size / 2, shape - size / 2)
        reach = drawn.reach(size, spacing)
        low = np.clip(np.floor(center - reach).astype(int), 0, shape)
        high = np.clip(np.ceil(center + reach).astype(int) + 1, 0, shape)
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        cut, codes = torch.from_numpy(image[inside].copy())[None], torch.from_numpy(labels[inside].astype(np.int32))
        moved = move(cut, center - low, PATCH_ZYX, drawn, spacing, nearest=False)
        move(codes[None].float(), center - low, PATCH_ZYX, drawn, spacing, nearest=True).to(torch.int32)
        strong(weak(moved, drawn), drawn, key=int(rng.integers(2**62)))

    return patch


def crops(image: Any, labels: Any) -> Callable[[np.random.Generator], tuple[Any, Any]]:
    """Random crops as large as nnU-Net reads them for its patches."""
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size

    turn = (-np.pi / 6, np.pi / 6)
    size = np.minimum(get_patch_size(PATCH_ZYX, turn, turn, turn, (0.85, 1.25)), image.shape)

    def crop(rng: np.random.Generator) -> tuple[Any, Any]:
        low = [int(rng.integers(0, n - s + 1)) for n, s in zip(image.shape, size, strict=True)]
        inside = tuple(slice(a, a + s) for a, s in zip(low, size, strict=True))
        return image[inside][None].copy(), labels[inside][None].copy()

    return crop


def nnunet_patches(image: Any, labels: Any) -> Callable[[np.random.Generator], None]:
    """nnU-Net's default training transforms."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    turn = (-np.pi / 6, np.pi / 6)
    transforms, crop = (
        nnUNetTrainer.get_training_transforms(PATCH_ZYX, turn, None, (0, 1, 2), False),
        crops(image, labels),
    )

    def patch(rng: np.random.Generator) -> None:
        x, y = crop(rng)
        transforms(image=torch.from_numpy(x), segmentation=torch.from_numpy(y))

    return patch


def monai_patches(image: Any, labels: Any) -> Callable[[np.random.Generator], None]:
    """The same transforms by MONAI's dictionary transforms."""
    from monai import transforms as t

    turn, keys = (-np.pi / 6, np.pi / 6), ["image", "label"]
    both = {
        "keys": keys,
        "spatial_size": PATCH_ZYX,
        "mode": ("bilinear", "nearest"),
        "padding_mode": "zeros",
    }
    chain = t.Compose(
        [
            t.RandAffined(prob=0.36, rotate_range=(turn, turn, turn), scale_range=(-0.3, 0.4), **both),
            *(t.RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
            t.RandGaussianNoised(["image"], prob=0.1, std=0.32),
            t.RandGaussianSmoothd(["image"], (0.5, 1.0), (0.5, 1.0), (0.5, 1.0), prob=0.2),
            t.RandScaleIntensityd(["image"], factors=0.25, prob=0.15),
            t.RandScaleIntensityFixedMeand(["image"], factors=0.25, prob=0.15),
            t.RandSimulateLowResolutiond(["image"], prob=0.25, zoom_range=(0.5, 1.0)),
            t.RandAdjustContrastd(["image"], prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            t.RandAdjustContrastd(["image"], prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        ]
    ).set_random_state(0)
    crop = crops(image, labels)

    def patch(rng: np.random.Generator) -> None:
        x, y = crop(rng)
        chain({"image": x, "label": y})

    return patch


if __name__ == "__main__":
    main()

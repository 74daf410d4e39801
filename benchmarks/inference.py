"""Whole volumes: gleanseg's predictor against MONAI's and nnU-Net v2's sliding windows, same network and weights.

    pip install '.[bench]'
    python benchmarks/inference.py --image ../shared/data/ct_example/ct_torso.nii.gz
    python benchmarks/inference.py --image CT --shape 512 512 300 --rois 2 11 104      # a clinical CT; hours

Each side runs in a fresh process, in turns, and ends with a label map: probabilities above one half, as each library's
users write it. Peak memory is the process's own. The volume is the image, resampled to ``--shape``, in units of its
standard deviation. Weights are random; the last bias makes about one voxel in ten foreground.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from peak import peak_mib

if TYPE_CHECKING:
    from gleanseg.networks.network import Network

SIDES = ("gleanseg", "monai", "nnunet")
PATCH_ZYX = (80, 112, 112)
OVERLAP = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--shape", type=int, nargs=3, help="x y z; default: as the image is")
    parser.add_argument("--network", default="vnet")
    parser.add_argument("--rois", type=int, nargs="+", default=[2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        name, volume, rois = arguments.side
        print(json.dumps(side(name, Path(volume), int(rois), arguments.network)))
        return
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder) / "volume.npy"
        np.save(volume, prepared(arguments.image, arguments.shape))
        rows = [row for rois in arguments.rois for row in compare(arguments, volume, rois)]
    from end_to_end import write

    write(
        "inference",
        {
            "command": shlex.join(["python", "benchmarks/inference.py", *sys.argv[1:]]),
            "network": arguments.network,
            "patch_zyx": PATCH_ZYX,
            "overlap": OVERLAP,
            "repeats": arguments.repeats,
            "sides": rows,
        },
    )


def prepared(path: Path, shape_XYZ: list[int] | None) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Z Y X."""
    import torch

    from gleanseg.data import images

    image = torch.from_numpy(images.read(path).array.astype(np.float32))
    if shape_XYZ:
        image = torch.nn.functional.interpolate(image[None, None], shape_XYZ[::-1], mode="trilinear")[0, 0]
    return ((image - image.mean()) / image.std()).numpy()


def compare(arguments: argparse.Namespace, volume: Path, rois: int) -> list[dict[str, Any]]:
    """All sides in turns, and how far each one's label map is from ours."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.sides}
    for _ in range(arguments.repeats):
        for name in arguments.sides:
            words = [sys.executable, __file__, "--image", str(arguments.image), "--network", arguments.network]
            words += ["--side", name, str(volume), str(rois)]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, rois, found[name][-1], file=sys.stderr)
    ours = np.load(volume.with_name("gleanseg.npy")) if "gleanseg" in found else None
    rows = []
    for name, runs in found.items():
        theirs = np.load(volume.with_name(f"{name}.npy"))
        agree = None if ours is None else 2 * int((ours & theirs).sum()) / max(1, int(ours.sum() + theirs.sum()))
        times = [run["seconds"] for run in runs]
        rows.append(
            {
                "side": name,
                "rois": rois,
                "min_s": min(times),
                "median_s": statistics.median(times),
                "max_s": max(times),
                "peak_mib": max(run["peak_mib"] for run in runs),
                "dice_with_gleanseg": agree,
                "foreground": float(theirs.mean()),
                "shape_zyx": list(theirs.shape[1:]),
            }
        )
    return rows


def side(name: str, volume: Path, rois: int, network: str) -> dict[str, Any]:
    """One side in this process: seconds from prepared image to label map."""
    import torch

    torch.manual_seed(0)
    image = np.load(volume)
    from gleanseg.networks import build

    net = build(network, {}, in_channels=1, num_rois=rois, patch_ZYX=PATCH_ZYX, spacing_ZYX_mm=(1.0, 1.0, 1.0)).eval()
    with torch.no_grad():
        sample = net(torch.from_numpy(image[None, None, : PATCH_ZYX[0], : PATCH_ZYX[1], : PATCH_ZYX[2]]))
        net.head.classifier.bias -= torch.quantile(sample.flatten(2)[0, :, ::50], 0.9, dim=1)  # type: ignore[union-attr]
    masks, seconds = {"gleanseg": by_gleanseg, "monai": by_monai, "nnunet": by_nnunet}[name](net, image, rois)
    np.save(volume.with_name(f"{name}.npy"), masks)
    return {"seconds": round(seconds, 2), "peak_mib": round(peak_mib())}


def by_gleanseg(net: "Network", image: Any, rois: int) -> tuple[Any, float]:
    """Label layers, as `gleanseg predict` writes them."""
    import torch

    from gleanseg.config import PredictConfig
    from gleanseg.data.manifest import Channel
    from gleanseg.data.plan import Intensity, Plan
    from gleanseg.predict.hardware import channels_last, has_fast_bf16
    from gleanseg.predict.predictor import Options, Predictor
    from gleanseg.rois.ontology import builtin

    names = tuple(builtin().scheme("totalsegmentator-v1").values())[:rois]
    plan = Plan(
        spacing_ZYX_mm=(1.0, 1.0, 1.0),
        intensity=(Intensity(kind="none"),),
        resample="linear",
        crop="none",
        rois=names,
        channels=(Channel(name="ct", modality="CT"),),
    )
    channels_last(net.requires_grad_(False))
    pairs = frozenset(frozenset((a, b)) for a in names for b in names if a != b)  # random ROIs share voxels
    predictor = Predictor(
        [net],
        plan=plan,
        rois=names,
        ontology=builtin(),
        patch_ZYX=PATCH_ZYX,
        overlaps=pairs,
        config=PredictConfig(overlap=OVERLAP),
        options=Options(skip_air=False),
        bf16=has_fast_bf16(torch.device("cpu")),
    )
    start = time.perf_counter()
    prediction = predictor.segment_prepared(image[None])
    seconds = time.perf_counter() - start
    return np.stack([prediction.mask(name) for name in names]), seconds


def by_monai(net: "Network", image: Any, rois: int) -> tuple[Any, float]:
    """Gaussian blending with nnU-Net's width, fp32."""
    import torch
    from monai.inferers import sliding_window_inference

    start = time.perf_counter()
    with torch.inference_mode():
        x = torch.from_numpy(image)[None, None]
        z = sliding_window_inference(x, PATCH_ZYX, 1, net, overlap=OVERLAP, mode="gaussian", sigma_scale=0.125)
        masks = (z[0] > 0).numpy()
    return masks, time.perf_counter() - start


def by_nnunet(net: "Network", image: Any, rois: int) -> tuple[Any, float]:
    """The predictor without test-time flips."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=1 - OVERLAP,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        verbose=False,
        allow_tqdm=False,
    )
    predictor.network = net
    predictor.configuration_manager = SimpleNamespace(patch_size=PATCH_ZYX)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=rois)
    predictor.allowed_mirroring_axes = None
    start = time.perf_counter()
    z = predictor.predict_sliding_window_return_logits(torch.from_numpy(image)[None])
    masks = (z > 0).numpy()
    return masks, time.perf_counter() - start


if __name__ == "__main__":
    main()

"""Whole volumes: gleanseg's predictor against MONAI's and nnU-Net v2's sliding windows, same network and weights.

    pip install '.[bench]'
    python benchmarks/inference.py --image ../shared/data/ct_example/ct_torso.nii.gz
    python benchmarks/inference.py --image CT --shape 280 280 160 --rois 2 11 104

Each side runs in a fresh process, in turns, and ends with a label map: the class with the largest score above 0, as
each library's users take it. Where that took less than ``BRIEF_S`` it is done once more: the first volume of a process
pays for kernels to be built, those that follow do not. Peak memory is the process's own. The volume is the image,
resampled to ``--shape``, in units of its standard deviation. The network first learns for ``--steps`` steps to cut the
smoothed image into as many bands of equal size as there are ROIs: random weights score all classes alike, and no two
precisions agree on them.

    gleanseg         as `gleanseg predict` does it: OpenVINO where it is installed
    gleanseg, eager  without OpenVINO
    gleanseg, fp32   as `gleanseg predict --precision fp32` does it: tells what bf16 changes from what libraries do
    gleanseg, gated  with a presence network (ResNet-18) that leaves each window one ROI in eight; its labels are others
                     by design
    gleanseg, lightly gated  the same with a quarter of its channels and a stem of stride 2
    monai, nnunet    Gaussian blending with nnU-Net's width, fp32, no flips

nnU-Net spreads windows evenly, the others take full steps and put the last one flush with the end: they coincide where
the shape is the patch and a number of half patches, as 280x280x160 is.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from peak import peak_mib

if TYPE_CHECKING:
    from torch import Tensor

    from gleanseg.networks.network import Network
    from gleanseg.parts.presence import RoiAware

OURS, EAGER, SINGLE = "gleanseg", "gleanseg, eager", "gleanseg, fp32"
GATES = {"gleanseg, gated": {}, "gleanseg, lightly gated": {"width": 16, "stem_stride": 2}}
"""Options of the presence network."""
SIDES = (OURS, EAGER, SINGLE, *GATES, "monai", "nnunet")
OVERLAP = 0.5
BRIEF_S = 10.0
"""A volume that takes less is predicted twice."""
KEPT = 1 / 8
"""Share of ROIs that the gate leaves a window."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--shape", type=int, nargs=3, help="x y z; default: as the image is")
    parser.add_argument("--network", default="vnet")
    parser.add_argument("--patch", type=int, nargs=3, default=(112, 112, 80), help="x y z")
    parser.add_argument("--rois", type=int, nargs="+", default=[2])
    parser.add_argument("--steps", type=int, default=120, help="of training")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--name", default="inference", help="of the result's file")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        name, folder = arguments.side
        print(json.dumps(side(name, Path(folder), arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        volume = prepared(arguments.image, arguments.shape)
        np.save(Path(folder) / "volume.npy", volume)
        rows = [row for rois in arguments.rois for row in compare(arguments, volume, Path(folder), rois)]
    from end_to_end import write

    write(
        arguments.name,
        {
            "command": shlex.join(["python", "benchmarks/inference.py", *sys.argv[1:]]),
            "image": arguments.image.name,
            "shape_zyx": volume.shape,
            "network": arguments.network,
            "patch_zyx": arguments.patch[::-1],
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


def compare(
    arguments: argparse.Namespace, volume: np.ndarray[Any, np.dtype[np.float32]], folder: Path, rois: int
) -> list[dict[str, Any]]:
    """All sides in turns, and how far each one's label map is from ours."""
    train(network_of(arguments, rois), volume, rois, arguments, folder / "weights.pt")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.sides}
    for _ in range(arguments.repeats):
        for name in arguments.sides:
            words = [sys.executable, __file__, "--image", str(arguments.image), "--network", arguments.network]
            words += ["--patch", *map(str, arguments.patch), "--rois", str(rois), "--side", name, str(folder)]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
            if done.returncode:  # of what this machine's memory does not hold
                print(f"{name}, {rois} ROIs: ended with {done.returncode}", file=sys.stderr)
                found[name] = []
                break
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, rois, found[name][-1], file=sys.stderr)
    return [row(name, rois, runs, folder, single=bool(found.get(SINGLE))) for name, runs in found.items()]


def row(name: str, rois: int, runs: list[dict[str, Any]], folder: Path, *, single: bool) -> dict[str, Any]:
    """A side's times; without any where it did not end. ``single``: whether a map in single precision is there."""
    if not runs:
        return {"side": name, "rois": rois, "ended": False}
    times, again = [run["seconds"] for run in runs], [run["again"] for run in runs if "again" in run]
    theirs, same = np.load(folder / f"{name}.npy"), name not in GATES
    return {
        "side": name,
        "rois": rois,
        "ended": True,
        "min_s": min(times),
        "median_s": statistics.median(times),
        "max_s": max(times),
        "next_volume_s": statistics.median(again) if again else None,
        "peak_mib": max(run["peak_mib"] for run in runs),
        "dice_with_gleanseg": agreement(theirs, np.load(folder / f"{OURS}.npy")) if same else None,
        "dice_with_fp32": agreement(theirs, np.load(folder / f"{SINGLE}.npy")) if same and single else None,
        "foreground": float((theirs > 0).mean()),
    }


def agreement(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Dice of voxels with the same label, all labels together."""
    return 2 * int(((a == b) & (a > 0)).sum()) / max(1, int((a > 0).sum() + (b > 0).sum()))


def network_of(arguments: argparse.Namespace, rois: int) -> "Network":
    import torch

    from gleanseg.networks import build

    torch.manual_seed(0)
    patch_ZYX = tuple(arguments.patch[::-1])
    return build(
        arguments.network, {}, in_channels=1, num_rois=rois, patch_ZYX=patch_ZYX, spacing_ZYX_mm=(1.0, 1.0, 1.0)
    )


def train(net: "Network", volume: Any, rois: int, arguments: argparse.Namespace, path: Path) -> None:
    """Teach the bands of the smoothed image above its mean; what is below, air, is background.

    The last third of the steps sees running statistics of norms, with which the network is used.
    """
    import torch
    from scipy.ndimage import gaussian_filter

    from gleanseg.predict.hardware import channels_last

    smooth = gaussian_filter(volume, 2.0)
    edges = np.quantile(smooth[smooth > smooth.mean()][::64], np.linspace(0, 1, rois + 1)[:-1])
    labels, rng = np.digitize(smooth, edges), np.random.default_rng(0)
    channels_last(net.train(), bf16=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, fused=True)
    decay = torch.optim.lr_scheduler.PolynomialLR(optimizer, arguments.steps, power=0.9)
    size = np.minimum(arguments.patch[::-1], volume.shape)
    for step in range(arguments.steps):
        net.train(step < 2 * arguments.steps // 3)
        box = tuple(
            slice(a, a + n) for a, n in zip(rng.integers(0, np.array(volume.shape) - size + 1), size, strict=True)
        )
        missing = [(0, n - m) for n, m in zip(arguments.patch[::-1], size, strict=True)]
        x, y = np.pad(volume[box], missing), np.pad(labels[box], missing)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = net(torch.from_numpy(x)[None, None])
        # An eighth of the patch, as 105 classes of every voxel take longer than the network; all phases of upsampling.
        part = tuple(
            slice(a, a + n // 2) for a, n in zip(rng.integers(0, np.array(y.shape) // 2 + 1), y.shape, strict=True)
        )
        z = z[(..., *part)]
        z = torch.cat([torch.zeros_like(z[:, :1]), z], 1).float()
        loss = torch.nn.functional.cross_entropy(z, torch.from_numpy(y[part])[None].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    torch.save(net.state_dict(), path)


def side(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One side in this process: seconds from prepared image to label map, and again where that was brief."""
    import torch

    image, (rois,) = np.load(folder / "volume.npy"), arguments.rois
    net = network_of(arguments, rois).eval()
    net.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    patch_ZYX = tuple(arguments.patch[::-1])
    by = {
        OURS: partial(by_gleanseg, rois=rois),
        EAGER: partial(by_gleanseg, rois=rois, backend="eager"),
        SINGLE: partial(by_gleanseg, rois=rois, precision="fp32"),
        **{gated: partial(by_gleanseg, rois=rois, presence=options) for gated, options in GATES.items()},
        "monai": by_monai,
        "nnunet": partial(by_nnunet, rois=rois),
    }[name]
    predict = by(net, patch_ZYX)
    found = {"seconds": timed(predict, image, folder / f"{name}.npy"), "peak_mib": round(peak_mib())}
    if found["seconds"] < BRIEF_S:
        found["again"] = timed(predict, image, folder / f"{name}.npy")
    return found


def timed(predict: Callable[[Any], Any], image: Any, path: Path) -> float:
    """Seconds that a label map takes, which is kept."""
    start = time.perf_counter()
    labels = predict(image)
    seconds = time.perf_counter() - start
    np.save(path, labels)
    return round(seconds, 3)


def by_gleanseg(
    net: "Network",
    patch_ZYX: Any,
    *,
    rois: int,
    backend: Any = "auto",
    precision: str = "auto",
    presence: dict[str, int] | None = None,
) -> Callable[[Any], Any]:
    """Gives the map that `gleanseg predict` writes; ``presence``: options of a gate, if any."""
    import torch

    from gleanseg.config import PredictConfig
    from gleanseg.data.manifest import Channel
    from gleanseg.data.plan import Intensity, Plan
    from gleanseg.networks.folding import fold_batch_norms
    from gleanseg.predict.hardware import channels_last, has_fast_bf16
    from gleanseg.predict.predictor import Options, Predictor
    from gleanseg.rois.ontology import Ontology
    from gleanseg.rois.stanzas import Roi

    names = tuple(f"class_{i}" for i in range(rois))
    plan = Plan(
        spacing_ZYX_mm=(1.0, 1.0, 1.0),
        intensity=(Intensity(kind="none"),),
        resample="linear",
        crop="none",
        rois=names,
        channels=(Channel(name="ct", modality="CT"),),
    )
    bf16 = precision == "auto" and has_fast_bf16(torch.device("cpu"))
    channels_last(fold_batch_norms(net.requires_grad_(False)), bf16=bf16)
    predictor = Predictor(
        [net],
        plan=plan,
        rois=names,
        ontology=Ontology([Roi(id=name, name=name, color=(0, 0, 0), exclusive=("classes",)) for name in names]),
        patch_ZYX=patch_ZYX,
        config=PredictConfig(overlap=OVERLAP, gate=0.0 if presence is None else 0.5),
        options=Options(skip_air=False, backend=backend),
        bf16=bf16,
        roi_aware=None if presence is None else gate(rois, presence),
    )
    return lambda image: predictor.segment_prepared(image[None]).layers[0]


def gate(rois: int, options: dict[str, int]) -> "RoiAware":
    """The time of a presence network, and an answer that is drawn: what the image holds is not known."""
    import torch

    from gleanseg.networks import classifiers
    from gleanseg.parts.presence import RoiAware
    from gleanseg.predict.hardware import channels_last, has_fast_bf16

    class Drawn(RoiAware):
        generator = torch.Generator().manual_seed(0)

        def scores(self, logits_BP: "Tensor") -> "Tensor":
            drawn = torch.rand(logits_BP.shape, generator=self.generator)
            return (drawn <= drawn.kthvalue(max(1, round(KEPT * rois)), dim=1, keepdim=True).values).float()

    classifier = classifiers.build("resnet18", options, in_channels=1, num_outputs=rois)
    channels_last(classifier, bf16=has_fast_bf16(torch.device("cpu")))
    return Drawn(classifier, [[r] for r in range(rois)])


def by_monai(net: "Network", patch_ZYX: Any) -> Callable[[Any], Any]:
    import torch
    from monai.inferers import sliding_window_inference

    from gleanseg.predict.sliding import importance_map

    # Its own Gaussian does not fall below 0.001, which gives the windows' borders more to say.
    weight_ZYX = importance_map(patch_ZYX, "gaussian")

    @torch.inference_mode()
    def predict(image: Any) -> Any:
        x = torch.from_numpy(image)[None, None]
        z = sliding_window_inference(x, patch_ZYX, 1, net, overlap=OVERLAP, roi_weight_map=weight_ZYX)
        return largest(z[0])

    return predict


def by_nnunet(net: "Network", patch_ZYX: Any, *, rois: int) -> Callable[[Any], Any]:
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
    predictor.configuration_manager = SimpleNamespace(patch_size=patch_ZYX)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=rois)
    predictor.allowed_mirroring_axes = None
    return lambda image: largest(predictor.predict_sliding_window_return_logits(torch.from_numpy(image)[None]))


def largest(z: "Tensor") -> Any:
    """R Z Y X -> the class with the largest score, 0 where none is above 0."""
    best = z.max(0)
    return ((best.indices + 1) * (best.values > 0)).to(dtype=best.indices.dtype).numpy().astype(np.uint8)


if __name__ == "__main__":
    main()

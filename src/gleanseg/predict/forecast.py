"""How much memory a prediction will take, told before it starts: one batch of windows is run, the rest is arithmetic.

Axes: C image channels, L layers, Z Y X voxels.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from gleanseg.data.standardize import target_grid
from gleanseg.data.volume import Grid, grid_to_ras
from gleanseg.predict.memory import Meter, refuse_beyond, room_on
from gleanseg.predict.predictor import Predictor, evaluating
from gleanseg.predict.restore import Axis
from gleanseg.predict.sliding import Size, Slider

_FLOAT = 4
_PREPARING = 12
"""Bytes per voxel and channel at the peak of preparing an image, measured with tracemalloc."""
_RESTORING = 4 * _FLOAT
"""Bytes per native voxel of a slab: scores in two stages of interpolation, the best so far, and a mask."""
_RUNTIME = 50 << 20
"""Bytes that the process gains whatever the image: kernels made on the spot, threads."""
_KEPT = 1.15
"""What allocators hold for each byte that is in use: freed blocks too small or too scattered to give back. Measured
(benchmarks/results/forecast.json)."""
ADVICE = "lower --window-batch, prepare with a coarser spacing, or predict on a larger machine"


class Need(NamedTuple):
    """Bytes that work adds to the process at its peak.

    Attributes:
        tensors: on the device.
        arrays: in main memory.
    """

    tensors: int
    arrays: int

    @property
    def total(self) -> int:
        """What both take where the device is the processor."""
        return self.tensors + self.arrays

    def with_kept(self) -> "Need":
        """The same with what allocators keep."""
        return Need(int(_KEPT * self.tensors), int(_KEPT * self.arrays))

    def refuse(self, device: torch.device, *, what: str, advice: str) -> None:
        """Stop before work starts that the machine cannot hold.

        Raises:
            UserError: it needs more than is free.
        """
        main = torch.device("cpu")
        if device.type != "cpu":
            refuse_beyond(self.tensors, device=device, what=what, advice=advice)
        refuse_beyond(self.total if device.type == "cpu" else self.arrays, device=main, what=what, advice=advice)


def predict_need(predictor: Predictor, grid: Grid, *, num_channels: int = 1) -> Need:
    """What ``predict_volume`` and writing its result will add.

    Args:
        predictor: its networks are on their device.
        grid: of the image.
        num_channels: of the image.

    Raises:
        MemoryError: one batch of windows is too much already.
    """
    native, _ = grid_to_ras(grid)
    made, maps = target_grid(native, predictor.plan.spacing_ZYX_mm)
    num_native, num_made = math.prod(native.shape_ZYX), math.prod(made.shape_ZYX)
    read, image = _FLOAT * num_channels * num_native, _FLOAT * num_channels * num_made
    layers = predictor.layering.num_layers * np.dtype(predictor.layering.dtype).itemsize * num_native
    kept = 2 * len(predictor.options.probabilities) * num_native
    tensors, slab = _sliding(predictor, made.shape_ZYX, halo=Axis(maps[0].inverse()).halo)
    preparing = read + _PREPARING * num_channels * max(num_native, num_made)
    restoring = read + image + layers + kept + slab * _RESTORING * num_native // num_made
    writing = read + image + 3 * layers + 2 * kept
    return Need(tensors, max(preparing - tensors, restoring, writing - tensors) + _RUNTIME).with_kept()


def _sliding(predictor: Predictor, made_ZYX: Size, *, halo: int) -> tuple[int, int]:
    """Bytes of tensors while windows slide over a volume, and voxels of the slabs that are scored at once.

    Rows of the volume's true extent are taken, and a single batch of windows is run and scored.
    """
    sliding = replace(predictor.sliding, is_air=None, may_hold=None)
    size_ZYX = (sliding.patch_ZYX[0], *made_ZYX[1:])
    networks = predictor.backends.networks
    with evaluating(networks), Meter(limit=room_on(predictor.device)) as meter:
        slider = Slider(
            networks,
            np.zeros((len(predictor.plan.channels), *size_ZYX), dtype=np.float32),
            num_rois=len(predictor.rois),
            sliding=sliding,
            device=predictor.device,
            halo=halo,
        )
        before, (_, y, x) = meter.live, slider.starts
        slider.starts = [(0,), (0,), (0,) * sliding.window_batch]
        for slab in slider.slabs():
            for _ in slab.scores():
                pass
        # Heads that are not linear keep every window of a row of windows, and of the one before.
        others = 0 if slider.rescores else 2 * len(y) * len(x) / sliding.window_batch - 1
        held = int(others * (meter.live - before))
    return meter.peak + held, (min(slider.slab_rows, made_ZYX[0]) + halo) * made_ZYX[1] * made_ZYX[2]

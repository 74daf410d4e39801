"""What computes networks in prediction: PyTorch, or a compiler where it pays."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gleanseg.errors import UserError
from gleanseg.networks.network import Network
from gleanseg.parts.presence import RoiAware
from gleanseg.predict.blend import Model
from gleanseg.predict.openvino import Form, OpenVinoNetwork, OpenVinoPresence, is_installed
from gleanseg.predict.sliding import Size

Backend = Literal["auto", "eager", "openvino"]
_WORTH_COMPILING = 2**25
"""Voxels of windows in a volume that take PyTorch longer than compiling takes; 32 windows of 128x128x64."""


class Ready(NamedTuple):
    """What one volume is segmented with.

    Attributes:
        networks: one or several.
        presence: scores (B R) of the ROIs in windows (B C Z Y X), where an ROI-aware network is at hand.
    """

    networks: tuple[Model, ...]
    presence: Callable[[Tensor], Tensor] | None


class Backends:
    """The networks of a predictor in the form that a volume calls for.

    What ``auto`` takes depends on the volume alone, so that results do not depend on the volumes before it. Compiled
    networks keep the weights that they were compiled with: networks that are still trained stay eager.

    Args:
        networks: on ``device``.
        backend: ``eager``, ``openvino``, or ``auto``.
        channels: of images.
        patch_ZYX: the networks' patch.
        device: where the networks are.
        bf16: compute in bf16.
        roi_aware: on ``device``, where windows are asked what they hold.

    Raises:
        UserError: ``openvino`` on a GPU.
    """

    def __init__(
        self,
        networks: Sequence[Model],
        *,
        backend: Backend,
        channels: int,
        patch_ZYX: Size,
        device: torch.device,
        bf16: bool,
        roi_aware: RoiAware | None = None,
    ) -> None:
        if backend == "openvino" and device.type != "cpu":
            raise UserError(f"backend openvino: is for processors, and the networks are on {device}; use eager")
        self.networks, self.roi_aware = tuple(networks), roi_aware
        self.backend, self.channels, self.patch_ZYX, self.bf16 = backend, channels, patch_ZYX, bf16
        self._may_compile = device.type == "cpu" and is_installed()
        self._compiled: Ready | None = None

    def of(self, num_windows: int) -> Ready:
        """The networks for a volume of so many windows.

        Raises:
            UserError: ``openvino`` is not installed, or cannot compile one of the networks.
        """
        if self.backend == "openvino":
            return self._compile()
        worth = num_windows * math.prod(self.patch_ZYX) >= _WORTH_COMPILING
        if self.backend == "auto" and self._may_compile and worth:
            try:
                return self._compile()
            except UserError:
                self._may_compile = False
        return Ready(self.networks, self.roi_aware)

    def _compile(self) -> Ready:
        if self._compiled is None:
            form = Form(self.channels, self.patch_ZYX, self.bf16)
            networks = [OpenVinoNetwork(n, form) for n in self.networks if isinstance(n, Network)]
            if len(networks) < len(self.networks):
                raise UserError("backend openvino: compiles gleanseg's networks only; use eager")
            presence = None if self.roi_aware is None else OpenVinoPresence(self.roi_aware, form)
            self._compiled = Ready(tuple(networks), presence)
        return self._compiled

"""Networks compiled by OpenVINO for prediction on processors (extra ``fast``).

With few ROIs the whole network is compiled, as handing over a map of many channels takes long. With more, ``features``
alone is, and heads score blended maps in PyTorch.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from gleanseg.errors import UserError
from gleanseg.networks.head import Rois
from gleanseg.networks.network import Network, Size
from gleanseg.parts.presence import RoiAware
from gleanseg.predict.blend import FEW_ROIS

_RANK_OF_MAPS = 5
"""Axes of maps, B C Z Y X; scores of presence have two."""


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return find_spec("openvino") is not None


class Form(NamedTuple):
    """What networks are compiled for.

    Attributes:
        channels: of the image.
        patch_ZYX: the only patch they take.
        bf16: compute in bf16, where the processor multiplies it.
    """

    channels: int
    patch_ZYX: Size
    bf16: bool


class OpenVinoNetwork:
    """A network that OpenVINO computes; a ``predict.blend.Model``.

    Args:
        network: in evaluation mode, on the CPU.
        form: what it is compiled for.

    Raises:
        UserError: OpenVINO is not installed, or cannot compile this network.
    """

    def __init__(self, network: Network, form: Form) -> None:
        self.network, self.scored = network, network.num_rois <= FEW_ROIS
        self.compiled = _Compiled(_Outputs(network, scored=self.scored), form, name=type(network).__name__)

    @property
    def linear_head(self) -> bool:
        """That of the network; logits need no head."""
        return self.scored or self.network.linear_head

    def features(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> tuple[Tensor, ...]:
        """As the network's, or logits, to rounding."""
        return self.compiled(x_BCZYX)

    def score(self, features: tuple[Tensor, ...], rois: Rois = None) -> Float[Tensor, "B R Z Y X"]:
        """The network's own, or the logits that ``features`` gave."""
        if not self.scored:
            return self.network.score(features, rois)
        return features[0] if rois is None else features[0][:, rois]


class OpenVinoPresence:
    """An ROI-aware network, on the CPU, that OpenVINO computes; see ``OpenVinoNetwork``."""

    def __init__(self, roi_aware: RoiAware, form: Form) -> None:
        self.roi_aware = roi_aware
        self.compiled = _Compiled(roi_aware.classifier, form, name=type(roi_aware.classifier).__name__)

    def __call__(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B R"]:
        """Scores of the run's ROIs, as ``RoiAware`` gives them, to rounding."""
        (logits_BP,) = self.compiled(x_BCZYX)
        return self.roi_aware.scores(logits_BP)


class _Compiled:
    """A module that gives a tensor or a tuple of them; window by window, for that is the shape that is compiled."""

    def __init__(self, module: nn.Module, form: Form, *, name: str) -> None:
        if not is_installed():
            raise UserError("backend openvino: OpenVINO is not installed; pip install 'gleanseg[fast]'")
        try:
            self.model = _compile(module, (1, form.channels, *form.patch_ZYX), bf16=form.bf16)
        except Exception as error:  # its front end raises whatever it likes
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"backend openvino: cannot compile {name} ({first}); use --backend eager") from error

    def __call__(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> tuple[Tensor, ...]:
        rows = [self._row(row) for row in torch.split(x_BCZYX, 1)]
        return rows[0] if len(rows) == 1 else tuple(torch.cat(parts) for parts in zip(*rows, strict=True))

    def _row(self, x_1CZYX: Float[Tensor, "1 C Z Y X"]) -> tuple[Tensor, ...]:
        found = self.model([x_1CZYX.float().contiguous().numpy()], share_inputs=True)
        return tuple(_tensor(found[i]) for i in range(len(found)))


class _Outputs(nn.Module):
    def __init__(self, network: Network, *, scored: bool) -> None:
        super().__init__()
        self.network, self.scored = network, scored

    def forward(self, x_BCZYX: Tensor) -> tuple[Tensor, ...]:
        return (self.network(x_BCZYX),) if self.scored else self.network.features(x_BCZYX)


def _compile(module: nn.Module, shape: Sequence[int], *, bf16: bool) -> Any:
    # The front end alone, as torch.compile's backend uses it: openvino.convert_model would send usage statistics.
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every size that it takes for a constant, which they are
        traced = torch.jit.trace(module.eval(), torch.zeros(*shape), check_trace=False)  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    model.reshape(list(shape))
    if bf16:
        model = _with_bf16_maps(model)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return _core().compile_model(model, "CPU", settings)


@cache
def _core() -> Any:
    """The only one of this process, which is never freed.

    Each gives its thread a stack for signal handlers, large enough for all registers, and puts the former one back when
    it is freed. Freed in the order in which they were made, two of them leave the thread with a stack that is gone, and
    the next Ctrl-C or SIGTERM kills the process instead of reaching Python.
    """
    import openvino

    return openvino.Core()


def _with_bf16_maps(model: Any) -> Any:
    """Hand maps over in bf16, as PyTorch's autocast does: half as many bytes to write and to read."""
    from openvino import Type
    from openvino.preprocess import PrePostProcessor

    ends = PrePostProcessor(model)
    for i, output in enumerate(model.outputs):
        if output.partial_shape.rank.get_length() == _RANK_OF_MAPS:
            ends.output(i).tensor().set_element_type(Type.bf16)
    return ends.build()


def _tensor(found: NDArray[Any]) -> Tensor:
    """OpenVINO shows bf16, which NumPy does not have, as float16 with the same bits."""
    if found.dtype == np.float16:
        return torch.from_numpy(found.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(found)

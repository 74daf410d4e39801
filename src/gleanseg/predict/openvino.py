"""Networks compiled by OpenVINO for prediction on processors (extra ``fast``).

With few ROIs the whole network is compiled, as handing over a map of many channels takes long. With more, ``features``
alone is, and heads score blended maps in PyTorch.
"""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gleanseg.errors import UserError
from gleanseg.networks.head import Rois
from gleanseg.networks.network import Network, Size
from gleanseg.parts.presence import RoiAware
from gleanseg.predict.blend import FEW_ROIS


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return find_spec("openvino") is not None


class OpenVinoModule:
    """A module that OpenVINO computes, window by window, as one window is the shape that is compiled.

    Args:
        module: in evaluation mode, on the CPU; gives a tuple of tensors whose first axis is the batch.
        name: of what is compiled, for errors.
        channels: of the image.
        patch_ZYX: the only patch it takes.
        bf16: compute in bf16, where the processor multiplies it.

    Raises:
        UserError: OpenVINO is not installed, or cannot compile this module.
    """

    def __init__(self, module: nn.Module, *, name: str, channels: int, patch_ZYX: Size, bf16: bool) -> None:
        if not is_installed():
            raise UserError("backend openvino: OpenVINO is not installed; pip install 'gleanseg[fast]'")
        try:
            self.compiled = _compile(module, (1, channels, *patch_ZYX), bf16=bf16)
        except Exception as error:  # its front end raises whatever it likes
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"backend openvino: cannot compile {name} ({first}); use --backend eager") from error

    def __call__(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> tuple[Tensor, ...]:
        """What the module gives, to rounding."""
        rows = [self._row(row) for row in torch.split(x_BCZYX, 1)]
        return rows[0] if len(rows) == 1 else tuple(torch.cat(parts) for parts in zip(*rows, strict=True))

    def _row(self, x_1CZYX: Float[Tensor, "1 C Z Y X"]) -> tuple[Tensor, ...]:
        found = self.compiled([x_1CZYX.float().contiguous().numpy()], share_inputs=True)
        return tuple(torch.from_numpy(found[i]) for i in range(len(found)))


class OpenVinoNetwork:
    """A network that OpenVINO computes; a ``predict.blend.Model``.

    Args:
        network: in evaluation mode, on the CPU.
        channels: of the image.
        patch_ZYX: the only patch it takes.
        bf16: compute in bf16, where the processor multiplies it.

    Raises:
        UserError: OpenVINO is not installed, or cannot compile this network.
    """

    def __init__(self, network: Network, *, channels: int, patch_ZYX: Size, bf16: bool) -> None:
        self.network, self.scored = network, network.num_rois <= FEW_ROIS
        outputs = _Outputs(network, scored=self.scored)
        name = type(network).__name__
        self.compiled = OpenVinoModule(outputs, name=name, channels=channels, patch_ZYX=patch_ZYX, bf16=bf16)

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
    """An ROI-aware network that OpenVINO computes.

    Args:
        roi_aware: on the CPU.
        channels: of the image.
        patch_ZYX: the only patch it takes.
        bf16: compute in bf16, where the processor multiplies it.

    Raises:
        UserError: OpenVINO is not installed, or cannot compile its classifier.
    """

    def __init__(self, roi_aware: RoiAware, *, channels: int, patch_ZYX: Size, bf16: bool) -> None:
        self.roi_aware = roi_aware
        classifier, name = roi_aware.classifier, type(roi_aware.classifier).__name__
        self.compiled = OpenVinoModule(classifier, name=name, channels=channels, patch_ZYX=patch_ZYX, bf16=bf16)

    def __call__(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B R"]:
        """Scores of the run's ROIs, as ``RoiAware`` gives them, to rounding."""
        (logits_BP,) = self.compiled(x_BCZYX)
        return self.roi_aware.scores(logits_BP)


class _Outputs(nn.Module):
    def __init__(self, network: Network, *, scored: bool) -> None:
        super().__init__()
        self.network, self.scored = network, scored

    def forward(self, x_BCZYX: Tensor) -> tuple[Tensor, ...]:
        return (self.network(x_BCZYX),) if self.scored else self.network.features(x_BCZYX)


def _compile(module: nn.Module, shape: Sequence[int], *, bf16: bool) -> Any:
    # The front end alone, as torch.compile's backend uses it: openvino.convert_model would send usage statistics.
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every size that it takes for a constant, which they are
        traced = torch.jit.trace(module.eval(), torch.zeros(*shape), check_trace=False)  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    model.reshape(list(shape))
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return openvino.Core().compile_model(model, "CPU", settings)

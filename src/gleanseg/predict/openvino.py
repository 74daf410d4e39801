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
from gleanseg.predict.blend import FEW_ROIS


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return find_spec("openvino") is not None


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
        if not is_installed():
            raise UserError("backend openvino: OpenVINO is not installed; pip install 'gleanseg[fast]'")
        self.network, self.scored = network, network.num_rois <= FEW_ROIS
        shape = (1, channels, *patch_ZYX)
        try:
            self.compiled = _compile(_Outputs(network, scored=self.scored), shape, bf16=bf16)
        except Exception as error:  # its front end raises whatever it likes
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"backend openvino: cannot compile {type(network).__name__} ({first}); use --backend eager"
            ) from error

    @property
    def linear_head(self) -> bool:
        """That of the network; logits need no head."""
        return self.scored or self.network.linear_head

    def features(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> tuple[Tensor, ...]:
        """As the network's, or logits, to rounding; window by window, for that is the shape that was compiled."""
        rows = [self._row(row) for row in torch.split(x_BCZYX, 1)]
        return rows[0] if len(rows) == 1 else tuple(torch.cat(parts) for parts in zip(*rows, strict=True))

    def score(self, features: tuple[Tensor, ...], rois: Rois = None) -> Float[Tensor, "B R Z Y X"]:
        """The network's own, or the logits that ``features`` gave."""
        if not self.scored:
            return self.network.score(features, rois)
        return features[0] if rois is None else features[0][:, rois]

    def _row(self, x_1CZYX: Float[Tensor, "1 C Z Y X"]) -> tuple[Tensor, ...]:
        found = self.compiled([x_1CZYX.float().contiguous().numpy()], share_inputs=True)
        return tuple(torch.from_numpy(found[i]) for i in range(len(found)))


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

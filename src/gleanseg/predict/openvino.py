"""Networks compiled by OpenVINO for prediction on processors (extra ``fast``).

Only ``features`` is compiled, which is nearly all of the work. Heads score in PyTorch, so that windows are blended and
ROIs gated as ever.
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


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return find_spec("openvino") is not None


class OpenVinoNetwork:
    """A network whose ``features`` OpenVINO computes; a ``predict.blend.Model``.

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
        self.network = network
        shape = (1, channels, *patch_ZYX)
        try:
            self.compiled = _compile(_Features(network), shape, bf16=bf16)
        except Exception as error:  # its front end raises whatever it likes
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"backend openvino: cannot compile {type(network).__name__} ({first}); use --backend eager"
            ) from error

    @property
    def linear_head(self) -> bool:
        """That of the network."""
        return self.network.linear_head

    def features(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> tuple[Tensor, ...]:
        """As the network's, to rounding; window by window, for that is the shape that was compiled."""
        rows = [self.compiled([row.float().contiguous().numpy()]) for row in torch.split(x_BCZYX, 1)]
        return tuple(torch.cat([torch.from_numpy(row[i]) for row in rows]) for i in range(len(rows[0])))

    def score(self, features: tuple[Tensor, ...], rois: Rois = None) -> Float[Tensor, "B R Z Y X"]:
        """The network's own."""
        return self.network.score(features, rois)


class _Features(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCZYX: Tensor) -> tuple[Tensor, ...]:
        return self.network.features(x_BCZYX)


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

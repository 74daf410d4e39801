"""Networks and plans whose predictions are known beforehand."""

import torch
from torch import Tensor, nn

from gleanseg.data.manifest import Channel
from gleanseg.data.plan import Intensity, Plan
from gleanseg.networks.head import Rois
from gleanseg.predict.predictor import Predictor
from gleanseg.rois.ontology import builtin


class Threshold(nn.Module):
    """ROI r is where the intensity is above its level."""

    linear_head = True

    def __init__(self, *levels: float) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor(levels))
        self.calls = 0

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        assert not self.training
        self.calls += len(x)
        return (x,)

    def score(self, features: tuple[Tensor, ...], rois: Rois = None) -> Tensor:
        chosen = slice(None) if rois is None else rois
        return features[0] - self.levels[chosen][:, None, None, None]


def make_plan(
    rois: tuple[str, ...], *, spacing_ZYX_mm: tuple[float, float, float] = (1.5, 1.5, 1.5), **changes: object
) -> Plan:
    settings: dict = {
        "intensity": (Intensity(kind="none"),),
        "resample": "linear",
        "crop": "none",
        "channels": (Channel(name="mr", modality="MR"),),
        **changes,
    }
    return Plan(spacing_ZYX_mm=spacing_ZYX_mm, rois=rois, **settings)


def make_predictor(*nets: Threshold, rois: tuple[str, ...] = ("liver",), **changes: object) -> Predictor:
    plan = changes.pop("plan", None) or make_plan(rois)
    return Predictor(nets, plan=plan, rois=rois, ontology=builtin(), patch_ZYX=(16, 16, 16), **changes)

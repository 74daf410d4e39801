"""The head of DoDNet and of the text-driven universal model: its weights depend on the image and on the ROI's code.

Axes: B cases, C channels, R ROIs, K codes, M outputs per code, H hidden channels, Z Y X voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Annotated, NamedTuple, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from gleanseg.networks.head import Head, Rois

_GROUPS = 16


class Codes(NamedTuple):
    """What a dynamic head knows of its ROIs.

    Attributes:
        table: a row per code: one-hot, random, or a text's embedding.
        code_of: which code each ROI belongs to.
        output_of: which of that code's outputs it is.
    """

    table: Float[Tensor, "K d"]
    code_of: tuple[int, ...]
    output_of: tuple[int, ...]

    @classmethod
    def of_groups(cls, table_Kd: Float[Tensor, "K d"], groups: Sequence[Sequence[int]]) -> "Codes":
        """ROIs that share a code, such as an organ and its tumor that one data set annotates.

        Args:
            table_Kd: a row per group.
            groups: positions of ROIs; each occurs once.
        """
        place = {roi: (k, m) for k, group in enumerate(groups) for m, roi in enumerate(group)}
        assert sorted(place) == list(range(len(place))), "every ROI belongs to one group"
        ordered = [place[roi] for roi in range(len(place))]
        return cls(table_Kd, tuple(k for k, _ in ordered), tuple(m for _, m in ordered))


@final
class DynamicHead(Head):
    r"""A controller makes three 1x1x1 layers for each code from the image and the code.

    $$\theta_k = \varphi([\mathrm{GAP}(E(x)),\, e_k]), \qquad
    z_k = ((h * \theta_{k1}) * \theta_{k2}) * \theta_{k3}, \quad h = \mathrm{pre}(D(E(x)))$$

    with ReLU between the layers. All ROIs share the map h (8 channels), so a further ROI costs 153 numbers and three
    small matrix products, which are computed for the codes that are asked for only.

    Paper: Zhang et al., DoDNet, CVPR 2021, https://arxiv.org/abs/2011.10217 (one-hot codes, no projections);
    Liu et al., CLIP-Driven Universal Model, ICCV 2023, https://arxiv.org/abs/2301.00785 (text codes, projections).
    Deviations:
        1. Matrix products over chosen codes in place of grouped convolutions; equal values.
        2. The controller's bias starts the last layer's bias at a prior of 2 % (``head.PRIOR``).
        3. 16 groups, or as many as divide the channels.
        4. Codes that are projected are first stretched to a mean square of 1, what a linear layer's initial weights
           presume. Unit rows of 384 numbers would enter twenty times too small and be learnt late.

    Args:
        config: sizes.
        codes: see ``Codes``.
        last_channels: of the decoder's last map.
        bottleneck_channels: of the encoder's last map.
    """

    linear = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the recipe's ``[head]`` table."""

        codes: str = "minilm"
        """What tells ROIs apart: a text encoder whose table ships, ``one_hot``, ``random``, or a file made by
        ``gleanseg text encode``."""
        groups: tuple[tuple[str, ...], ...] = ()
        """ROIs that share a code, as an organ and its tumor in DoDNet; all others have their own."""
        width: Annotated[int, Field(gt=0)] = 8
        """Channels of the shared map and of the dynamic layers."""
        layers: Annotated[int, Field(ge=1)] = 3
        """Dynamic layers, the last one included."""
        projection: Annotated[int, Field(ge=0)] = 256
        """Numbers that image and code are each projected to before the controller; 0: none, as DoDNet."""

    def __init__(self, config: Config, codes: Codes, *, last_channels: int, bottleneck_channels: int) -> None:
        super().__init__()
        self.config, self.code_of, self.output_of = config, codes.code_of, codes.output_of
        self.outputs = 1 + max(codes.output_of)
        self.register_buffer("table", _stretched(codes.table.float()) if config.projection else codes.table.float())
        self.pre = nn.Sequential(_norm(last_channels), nn.ReLU(), nn.Conv3d(last_channels, config.width, 1))
        self.pool = nn.Sequential(_norm(bottleneck_channels), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
        image, code = bottleneck_channels, codes.table.shape[1]
        self.image_projection: nn.Module = nn.Identity()
        self.code_projection: nn.Module = nn.Identity()
        if config.projection:
            self.image_projection = nn.Linear(image, config.projection)
            self.code_projection = nn.Sequential(nn.Linear(code, config.projection), nn.ReLU())
            image = code = config.projection
        self.sizes = [(config.width, config.width)] * (config.layers - 1) + [(self.outputs, config.width)]
        num_weights, num_biases = sum(o * i for o, i in self.sizes), sum(o for o, _ in self.sizes)
        self.controller = nn.Linear(image + code, num_weights + num_biases)
        self.start_at_prior()

    def start_at(self, logit: float) -> None:
        """See ``Head``; the last numbers that the controller makes are the biases of the last layer."""
        with torch.no_grad():
            self.controller.bias[-self.outputs :] = logit

    def features(
        self, encoded: Sequence[Tensor], last_BCZYX: Float[Tensor, "B C Z Y X"]
    ) -> tuple[Float[Tensor, "B ..."], ...]:
        """The shared map B H Z Y X, and the parameters of each code's layers B K P."""
        image_BI = self.image_projection(self.pool(encoded[-1]))
        codes_KD = self.code_projection(self.table)
        pairs_BKC = torch.cat(
            [
                image_BI[:, None].expand(-1, len(codes_KD), -1),
                codes_KD[None].expand(len(image_BI), -1, -1).to(image_BI.dtype),
            ],
            dim=2,
        )
        return self.pre(last_BCZYX), self.controller(pairs_BKC)

    def score(self, features: tuple[Float[Tensor, "B ..."], ...], rois: Rois = None) -> Float[Tensor, "B R Z Y X"]:
        """See ``Head``; costs time and memory in proportion to the codes that ``rois`` touch."""
        map_BHZYX, theta_BKP = features
        positions = _positions(rois, len(self.code_of))
        wanted = sorted({self.code_of[r] for r in positions})
        x = map_BHZYX.flatten(2)
        theta = theta_BKP[:, wanted].to(x.dtype)
        B, K = theta.shape[:2]
        weights, biases = self._layers(theta)
        # The first layer reads the same map for every code: one matrix product per case.
        x = torch.baddbmm(biases[0].reshape(B, -1, 1), weights[0].reshape(B, -1, x.shape[1]), x)
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            rows = x.relu().reshape(B * K, -1, x.shape[-1])
            x = torch.baddbmm(bias.reshape(B * K, -1, 1), weight.reshape(B * K, *weight.shape[2:]), rows)
        z = x.reshape(B, K * self.outputs, *map_BHZYX.shape[2:])
        picked = [wanted.index(self.code_of[r]) * self.outputs + self.output_of[r] for r in positions]
        return z if picked == list(range(z.shape[1])) else z[:, picked]

    def _layers(self, theta_BKP: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Weights (B, K, out, in), then biases (B, K, out), in the order of DoDNet."""
        weights, biases, start = [], [], 0
        for o, i in self.sizes:
            weights.append(torch.unflatten(theta_BKP[..., start : start + o * i], -1, (o, i)))
            start += o * i
        for o, _ in self.sizes:
            biases.append(theta_BKP[..., start : start + o])
            start += o
        return weights, biases


def _stretched(table_Kd: Float[Tensor, "K d"]) -> Float[Tensor, "K d"]:
    """Rows with a mean square of 1; a row of zeros stays."""
    return table_Kd / table_Kd.square().mean(1, keepdim=True).sqrt().clamp_min(1e-12)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(_GROUPS, channels), channels)


def _positions(rois: Rois, num_rois: int) -> list[int]:
    if rois is None:
        return list(range(num_rois))
    if isinstance(rois, slice):
        return list(range(num_rois))[rois]
    positions: list[int] = rois.tolist()
    return positions

"""Language knowledge at a network's bottleneck, attached from outside the network.

Axes: B cases, C channels, N responses of a text, T texts, D numbers per response, Z Y X voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """How text meets image.

    Attributes:
        beta: strength; 0 leaves the image alone.
        kind: ``add`` z to every voxel, or ``film``: scale by 1 + beta * z1 and add beta * z2.
        at: ``latent``: after the bottleneck's last ReLU; ``pre-activation``: before it.
        draw: in training each patch gets one ``random`` response of each text, or their ``mean``; prediction always
            takes the mean.
    """

    beta: float
    kind: Literal["add", "film"] = "add"
    at: Literal["latent", "pre-activation"] = "latent"
    draw: Literal["random", "mean"] = "random"


class TextFusion(nn.Module):
    r"""$M(x) = D(E(x) + \beta z)$, $z = \mathrm{MLP}(v)$ of a text's vector v, the same at every voxel.

    Where a network serves several texts, their z are averaged. A constant z is a learned bias, and a convolution that
    normalises each channel afterwards removes it (hence ``film`` and ``pre-activation``); random vectors in place of
    texts are the control.

    Paper: Kumari et al., LLM-SegNet, 2024, https://arxiv.org/abs/2407.05088

    Args:
        config: see ``FusionConfig``.
        texts: vectors of each text's responses, frozen; they are no part of the state.
        channels: of the bottleneck.
    """

    def __init__(self, config: FusionConfig, texts: Sequence[Float[Tensor, "N D"]], *, channels: int) -> None:
        super().__init__()
        self.config = config
        self.lengths = [len(text) for text in texts]
        self.vectors: Tensor
        self.register_buffer("vectors", torch.cat(list(texts)), persistent=False)
        outputs = channels if config.kind == "add" else 2 * channels
        self.mlp = nn.Sequential(
            nn.Linear(texts[0].shape[1], 2 * channels), nn.GELU(), nn.Linear(2 * channels, outputs)
        )

    def forward(self, map_BCZYX: Float[Tensor, "B C Z Y X"]) -> Float[Tensor, "B C Z Y X"]:
        """The bottleneck with what the texts say."""
        z = self.config.beta * self.latent(len(map_BCZYX)).to(map_BCZYX.dtype)[:, :, None, None, None]
        if self.config.kind == "add":
            return map_BCZYX + z
        scale, shift = z.chunk(2, dim=1)
        return map_BCZYX * (1 + scale) + shift

    def latent(self, rows: int) -> Float[Tensor, "B C"]:
        """Z of each row; draws come from PyTorch's default generator, which the engine seeds every step."""
        of_texts = self.mlp(self.vectors).split(self.lengths)
        if self.training and self.config.draw == "random":
            drawn = [z[torch.randint(len(z), (rows,), device=z.device)] for z in of_texts]
        else:
            drawn = [z.mean(0, keepdim=True).expand(rows, -1) for z in of_texts]
        return torch.stack(drawn).mean(0)

    def before_activation(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Forward pre-hook of the bottleneck's last activation."""
        return (self(inputs[0]), *inputs[1:])

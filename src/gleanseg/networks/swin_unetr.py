"""Swin UNETR, a shifted-window transformer with a convolutional decoder, from MONAI."""

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, final

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from gleanseg.errors import UserError
from gleanseg.networks.attention import WindowAttention
from gleanseg.networks.blocks import Rate, adopt
from gleanseg.networks.network import Network
from gleanseg.networks.pretrained import load_matching

Count = Annotated[int, Field(ge=1)]
_CHANNELS = (1, 1, 2, 4, 8, 16)
"""Multiples of the width, finest first."""


@final
class SwinUNETR(Network):
    """Four stages of windowed attention on voxels taken two by two by two, residual convolutions on each skip and up.

    With one channel and eleven outputs: 62,187,149 parameters at width 48, 15,703,229 at 24, 4,078,181 at 12, as
    MONAI's. Weights start as MONAI's do.

    Paper: Hatamizadeh et al., Swin UNETR, BrainLes 2021, https://arxiv.org/abs/2201.01266
    Deviations:
        1. The output layer is ours (the same 1x1x1 convolution, with the bias of ``Network``).
        2. Instance norm keeps channels-last memory, convolutions avoid a fault of flat maps in bf16, and attention
           holds a few windows at a time; values are the same.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the recipe's ``[network]`` table."""

        width: Annotated[int, Field(gt=0, multiple_of=12)] = 48
        """Channels at full resolution (MONAI's feature size), a multiple of 12; the bottleneck has 16 times as many."""
        depths: tuple[Count, Count, Count, Count] = (2, 2, 2, 2)
        """Transformer blocks of each stage; every second one shifts its windows."""
        heads: tuple[Count, Count, Count, Count] = (3, 6, 12, 24)
        """Attention heads of each stage; must divide the stage's channels (width, then twice as many each)."""
        dropout: Rate = 0.0
        """Share of elements dropped after the embedding, attention and in the perceptrons, in [0, 1)."""
        attention_dropout: Rate = 0.0
        """Share of attention weights dropped, in [0, 1)."""
        path_dropout: Rate = 0.0
        """Share of samples that skip the last transformer block, rising from 0 at the first, in [0, 1)."""
        use_checkpoint: bool = False
        """Compute transformer blocks again in the backward pass: less memory, same values."""
        pretrained: str | None = None
        """File of MONAI's self-supervised encoder weights (or of a whole Swin UNETR, whose decoder is not taken)."""

    def __init__(self, config: Config, *, in_channels: int, num_rois: int) -> None:
        _check_heads(config)
        super().__init__(
            # A rebuilt network gets its weights from a checkpoint: the file may be gone by then.
            replace(config, pretrained=None),
            channels=[config.width * factor for factor in _CHANNELS],
            strides=[(2**level, 2**level, 2**level) for level in range(len(_CHANNELS))],
            num_rois=num_rois,
        )
        self.encoder = _Encoder(config, in_channels=in_channels)
        self.decoder = self.new_decoder()
        if config.pretrained is not None:
            load_matching(self.encoder, config.pretrained, rename=_rename)

    def encode(self, x_BCZYX: Float[Tensor, "B C Z Y X"]) -> list[Tensor]:
        """Six maps; see ``Network.encode``."""
        self._check_input(x_BCZYX)
        maps: list[Tensor] = self.encoder(x_BCZYX)
        return maps

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        """Five maps; see ``Network.decode``."""
        decoded: list[Tensor] = self.decoder(maps)
        return decoded

    def new_decoder(self) -> nn.Module:
        """Another decoder of the same layout."""
        return _Decoder(self.channels)


class _Encoder(nn.Module):
    """Modules have MONAI's names, so that its weight files fit."""

    def __init__(self, config: SwinUNETR.Config, *, in_channels: int) -> None:
        super().__init__()
        # Imported here, as MONAI takes seconds to import and the room's other networks do without.
        from monai.networks.blocks.unetr_block import UnetrBasicBlock
        from monai.networks.nets.swin_unetr import SwinTransformer, SwinTransformerBlock

        width, device = config.width, torch.empty(0).device
        with torch.device("cpu"):  # it reads drop-path rates off a tensor, which the meta device refuses
            swin = SwinTransformer(
                in_chans=in_channels,
                embed_dim=width,
                window_size=(7, 7, 7),
                patch_size=(2, 2, 2),
                depths=config.depths,
                num_heads=config.heads,
                drop_rate=config.dropout,
                attn_drop_rate=config.attention_dropout,
                drop_path_rate=config.path_dropout,
                use_checkpoint=config.use_checkpoint,
                spatial_dims=3,
            )
        self.swinViT = adopt(swin.to(device))
        for layer in self.swinViT.modules():
            if isinstance(layer, SwinTransformerBlock):
                layer.attn = WindowAttention(layer.attn)  # type: ignore[assignment]

        def block(cin: int, cout: int) -> nn.Module:
            return adopt(UnetrBasicBlock(3, cin, cout, kernel_size=3, stride=1, norm_name="instance", res_block=True))

        self.encoder1 = block(in_channels, width)
        self.encoder2 = block(width, width)
        self.encoder3 = block(2 * width, 2 * width)
        self.encoder4 = block(4 * width, 4 * width)
        self.encoder10 = block(16 * width, 16 * width)

    def forward(self, x: Tensor) -> list[Tensor]:
        finest = self.encoder1(x)
        last = finest.is_contiguous(memory_format=torch.channels_last_3d)
        layout = torch.channels_last_3d if last else torch.contiguous_format
        # The transformer's maps come channels-last; convolutions would be slower on a mixture.
        hidden = [h.contiguous(memory_format=layout) for h in self.swinViT(x, normalize=True)]
        skips = [finest, self.encoder2(hidden[0]), self.encoder3(hidden[1]), self.encoder4(hidden[2]), hidden[3]]
        return [*skips, self.encoder10(hidden[4])]


class _Decoder(nn.Module):
    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        from monai.networks.blocks.unetr_block import UnetrUpBlock

        self.levels = nn.ModuleList(
            adopt(
                UnetrUpBlock(
                    3, coarse, fine, kernel_size=3, upsample_kernel_size=2, norm_name="instance", res_block=True
                )
            )
            for coarse, fine in pairwise(channels[::-1])
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x, decoded = maps[-1], []
        for level, skip in zip(self.levels, maps[-2::-1], strict=True):
            x = level(x, skip)
            decoded.append(x)
        return decoded


def _check_heads(config: SwinUNETR.Config) -> None:
    for stage, heads in enumerate(config.heads):
        if (channels := config.width * 2**stage) % heads:
            raise UserError(
                f"[network] heads: stage {stage + 1} has {channels} channels, which {heads} heads do not divide; "
                "use 3, 6, 12, 24, or divisors of the channels"
            )


def _rename(name: str) -> str:
    """Names of MONAI's published files, which differ in prefixes and in those of the perceptrons."""
    name = name.removeprefix("module.").replace("swin_vit.", "swinViT.").replace(".mlp.fc", ".mlp.linear")
    name = re.sub(r"^encoder\.", "", name)
    name = re.sub(r"(layers\d\.0)\.0\.", r"\1.", name)
    return f"swinViT.{name}" if name.startswith(("patch_embed.", "layers")) else name

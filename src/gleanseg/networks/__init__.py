"""Networks: one file each; the file's name is the network's name in recipes."""

from collections.abc import Mapping

import torch

from gleanseg.networks.network import Network, Size
from gleanseg.resolve import resolve
from gleanseg.strict import build_options

Spacing = tuple[float, float, float]


def build(
    name: str,
    options: Mapping[str, object],
    *,
    in_channels: int,
    num_rois: int,
    patch_ZYX: Size | None = None,
    spacing_ZYX_mm: Spacing | None = None,
) -> Network:
    """Make a freshly initialised network.

    Args:
        name: file of this room, such as ``unet3d``.
        options: the recipe's ``[network]`` table without the name.
        in_channels: image channels.
        num_rois: logits.
        patch_ZYX: used by options that are ``auto`` only; need not be a legal patch.
        spacing_ZYX_mm: as ``patch_ZYX``.

    Returns:
        The network on PyTorch's default device. ``dataclasses.asdict(net.config)`` are options that rebuild it without
        patch and spacing.

    Raises:
        UserError: no such network, an unknown option, a bad value, or ``auto`` without patch and spacing.
    """
    cls = resolve("networks", name)
    assert issubclass(cls, Network), f"{name} is not a Network"
    config = build_options(cls.Config, options, where=f"[network] {name}")
    if patch_ZYX is not None and spacing_ZYX_mm is not None:
        config = cls.planned(config, patch_ZYX=patch_ZYX, spacing_ZYX_mm=spacing_ZYX_mm)
    return cls(config, in_channels=in_channels, num_rois=num_rois)  # type: ignore[call-arg, arg-type]


def legal_patch(name: str, options: Mapping[str, object], *, patch_ZYX: Size, spacing_ZYX_mm: Spacing) -> Size:
    """The nearest patch that the network takes; nothing is allocated.

    Planning again from the result gives the same network.

    Raises:
        UserError: as ``build``.
    """
    with torch.device("meta"):
        network = build(name, options, in_channels=1, num_rois=1, patch_ZYX=patch_ZYX, spacing_ZYX_mm=spacing_ZYX_mm)
    return network.legal_patch(patch_ZYX)

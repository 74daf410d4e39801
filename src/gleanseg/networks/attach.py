"""Giving a network the head that the recipe's ``[head]`` table asks for."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from gleanseg.errors import UserError
from gleanseg.networks.heads.dynamic import Codes, DynamicHead
from gleanseg.networks.network import Network
from gleanseg.resolve import resolve
from gleanseg.strict import build_options


def head_config(name: str, options: Mapping[str, object]) -> object:
    """The head's options, checked.

    Raises:
        UserError: no such head, or an unknown option.
    """
    config: object = build_options(resolve("networks.heads", name).Config, options, where=f"[head] {name}")  # type: ignore[attr-defined]
    return config


def attach_head(
    network: Network, config: object, *, rois: Sequence[str], table_Kd: Float[Tensor, "K d"] | None
) -> Network:
    """Give a network the head that its recipe asks for.

    Args:
        network: with the head it was built with, a fixed one.
        config: from ``head_config``.
        rois: ids in channel order.
        table_Kd: a row per group of ``code_groups``; needed by a dynamic head.
    """
    if isinstance(config, DynamicHead.Config):
        assert table_Kd is not None, "a dynamic head has codes"
        index = {roi: r for r, roi in enumerate(rois)}
        groups = [[index[roi] for roi in group] for group in code_groups(config, rois)]
        codes = Codes.of_groups(table_Kd, groups)
        last, bottleneck = network.decoder_channels[-1], network.channels[-1]
        network.attach(DynamicHead(config, codes, last_channels=last, bottleneck_channels=bottleneck))
    return network


def code_groups(config: DynamicHead.Config, rois: Sequence[str]) -> list[tuple[str, ...]]:
    """The ROIs of each code, in the order of their first ROI.

    Raises:
        UserError: a group names an ROI that is not learnt, or one that stands in another group.
    """
    grouped: dict[str, tuple[str, ...]] = {}
    for group in config.groups:
        for roi in group:
            if roi not in rois:
                raise UserError(f"[head] groups: {roi!r} is not one of the run's ROIs ({', '.join(rois)})")
            if roi in grouped:
                raise UserError(f"[head] groups: {roi!r} stands in two groups; an ROI has one code")
            grouped[roi] = group
    return list(dict.fromkeys(grouped.get(roi, (roi,)) for roi in rois))

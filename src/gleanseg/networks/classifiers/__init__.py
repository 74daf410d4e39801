"""Networks that say what a patch holds, not where; a room of its own, since they are no ``Network``."""

from collections.abc import Mapping

from torch import nn

from gleanseg.config import build_options
from gleanseg.resolve import resolve


def build(name: str, options: Mapping[str, object], *, in_channels: int, num_outputs: int) -> nn.Module:
    """Make a freshly initialised classifier.

    Args:
        name: file of this room, such as ``resnet18``.
        options: its ``Config``'s fields.
        in_channels: image channels.
        num_outputs: logits of a patch.

    Raises:
        UserError: no such classifier, an unknown option or a bad value.
    """
    cls = resolve("networks.classifiers", name)
    config = build_options(cls.Config, options, where=f"classifier {name}")  # type: ignore[attr-defined]
    made: nn.Module = cls(config, in_channels=in_channels, num_outputs=num_outputs)
    return made

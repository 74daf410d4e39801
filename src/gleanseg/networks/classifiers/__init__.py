"""Networks that say what a patch holds, not where; a room of its own, since they are no ``Network``."""

from collections.abc import Mapping

from gleanseg.networks.classifier import Classifier
from gleanseg.resolve import resolve
from gleanseg.strict import build_options


def build(name: str, options: Mapping[str, object], *, in_channels: int, num_outputs: int) -> Classifier:
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
    assert issubclass(cls, Classifier), f"{name} is not a Classifier"
    config = build_options(cls.Config, options, where=f"[network] {name}")
    return cls(config, in_channels=in_channels, num_outputs=num_outputs)  # type: ignore[call-arg]

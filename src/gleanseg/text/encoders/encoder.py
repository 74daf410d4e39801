"""What every text encoder offers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float


class Encoder(ABC):
    """Turns texts into vectors, the same on every call. Subclasses are final, one a file.

    Args:
        model_path: folder with the model; None: the encoder finds or downloads its own.
        pooling: one of ``poolings``; None: the first.
        revision: of the model hub; None: the newest.

    Attributes:
        id: what tables and the cache call the model.
        revision: which version of it.
        weights_sha256: of the weight file.
        pooling: how the tokens of a text become one vector.

    Raises:
        UserError: the model is not to be had, or not the one that ``id`` says.
    """

    poolings: ClassVar[tuple[str, ...]]
    """What ``pooling`` may be; the first is the default."""

    id: str
    revision: str
    weights_sha256: str
    pooling: str

    @abstractmethod
    def __init__(
        self, *, model_path: Path | None = None, pooling: str | None = None, revision: str | None = None
    ) -> None: ...

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "N d"]:
        """One vector per text, float32, as the network gives it: neither centred nor normalized.

        Raises:
            UserError: a text is empty or too long; nothing is cut off silently.
        """

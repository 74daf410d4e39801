"""What tensors take, counted while a small pass runs, and what the machine has.

Axes: B windows, C image channels, R ROIs, Z Y X voxels.
"""

import resource
import sys
import weakref
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gleanseg.data.bounded import available_memory
from gleanseg.errors import UserError


class Meter(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make while the context is open.

    Work space inside an operation is not seen. A convolution is taken to need as much again as it reads and writes:
    libraries bring both into an order of their own.

    Args:
        limit: bytes; more than these are not waited for.

    Attributes:
        live: bytes that are held now.
        peak: the most that were held, gradients of parameters left out.
    """

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.live: int = 0
        self.gradients: int = 0
        self.peak: int = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation; storages that it did not get, it has made."""
        read = _tensors((args, kwargs))
        for tensor in read:
            self._notice(tensor, made=False)
        result = func(*args, **(kwargs or {}))
        written = _tensors(result)
        for tensor in written:
            self._notice(tensor, made=True)
        work = num_bytes(read + written) if "convolution" in str(func) else 0
        self.peak = max(self.peak, self.live - self.gradients + work)
        if self.limit is not None and self.live > self.limit:
            raise MemoryError(f"more than {gib(self.limit)} in a small pass")
        return result

    def watch(self, module: nn.Module) -> None:
        """Tell gradients of parameters from the rest."""
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._gradient)

    def _gradient(self, parameter: Tensor) -> None:
        self.gradients += num_bytes([parameter])

    def _notice(self, tensor: Tensor, *, made: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if made else 0
        self.live += size
        self._known[key] = weakref.ref(storage, partial(self._gone, key, size))

    def _gone(self, key: int, size: int, _: object) -> None:
        self.live -= size
        self._known.pop(key, None)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and not leaf.is_sparse]


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the elements of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def resident() -> int:
    """Bytes of memory that this process holds now."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # elsewhere than on Linux: the most that it has held
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def room_on(device: torch.device) -> int:
    """Bytes that are free for tensors on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


def refuse_beyond(needed: int, *, device: torch.device, what: str, advice: str) -> None:
    """Stop before work starts that the machine cannot hold.

    Raises:
        UserError: more bytes than are free on the device.
    """
    room = room_on(device)
    if needed > room:
        raise UserError(f"{what}: needs about {gib(needed)} more memory on {device}, {gib(room)} are free; {advice}")


def gib(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 2**30:,.2f} GiB" if size < 10 * 2**30 else f"{size / 2**30:,.1f} GiB"

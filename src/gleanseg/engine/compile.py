"""Compiled networks, or eager ones where compilation is not possible."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gleanseg.errors import UserError
from gleanseg.networks.classifier import Classifier
from gleanseg.networks.network import Network

Note = Callable[[str], None]


def compile_networks(method: nn.Module, *, note: Note) -> None:
    """Compile encoder and decoder of every network of a method, in place; names of its state stay what they are.

    The rest of a step (losses, heads, ramps) stays eager: it changes with the step, and would be compiled again and
    again. A network that cannot be compiled (no C++ compiler, a construct that the compiler does not know) runs eagerly
    from its first call on.

    Args:
        method: on its device.
        note: told once why a network runs eagerly.
    """
    once = _Once(note)
    for name, network in method.named_modules():
        parts = {Network: ("encode", "decode"), Classifier: ("encode",)}
        for part in next((parts[kind] for kind in parts if isinstance(network, kind)), ()):
            setattr(network, part, Fallible(getattr(network, part), name=f"{name}.{part}", note=once))


class Fallible:
    """A function that is compiled at its first call, and called as it is where that fails.

    Args:
        eager: the function.
        name: for the note.
        note: told why it runs eagerly.
    """

    def __init__(self, eager: Callable[..., Any], *, name: str, note: Note) -> None:
        self.eager, self.name, self.note = eager, name, note
        self.compiled: Callable[..., Any] | None = torch.compile(eager)

    def __call__(self, *arguments: Any) -> Any:
        """The function's value."""
        if self.compiled is not None:
            try:
                return self.compiled(*arguments)
            except UserError:
                raise
            except Exception as error:  # compilers fail in too many ways to list; the eager call tells bugs apart
                self.compiled = None
                first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                self.note(f"train.compile: {self.name} runs eagerly, as it cannot be compiled here ({first})")
        return self.eager(*arguments)


class _Once:
    def __init__(self, note: Note) -> None:
        self.note, self.said = note, False

    def __call__(self, text: str) -> None:
        if not self.said:
            self.said = True
            self.note(text)

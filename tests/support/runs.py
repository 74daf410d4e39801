"""What tests ask of finished runs."""

import torch

from gleanseg.run.checkpoint import load
from gleanseg.run.folder import Run

STAGES = """
[[stage]]
name = "first"
steps = 3
method = {name = "supervised"}
[[stage]]
name = "second"
steps = 3
method = {name = "supervised", ce = 0.5}
"""
"""Of a recipe whose weights go from one stage to the next."""


def weights(run: Run) -> dict[str, torch.Tensor]:
    """Tensors of the last checkpoint."""
    return load(run.checkpoint("last"))[0]


def assert_same_weights(found: Run, expected: Run) -> None:
    a, b = weights(found), weights(expected)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)

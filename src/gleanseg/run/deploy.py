"""From a run's checkpoint to networks that predict."""

from pathlib import Path

from torch import nn

from gleanseg.config import Recipe, StageConfig
from gleanseg.errors import UserError, nearest
from gleanseg.methods import build_method
from gleanseg.networks import build as build_network
from gleanseg.networks.network import Network
from gleanseg.parts.method import Method
from gleanseg.run.checkpoint import load
from gleanseg.run.folder import Run

METHOD = "method."
"""Prefix of the method's tensors in a checkpoint."""


def make_method(
    recipe: Recipe,
    stage: StageConfig,
    *,
    num_channels: int,
    num_rois: int,
    spacing_ZYX_mm: tuple[float, float, float],
    pretrained: bool = True,
) -> Method:
    """The method of a stage with freshly initialised networks; ``pretrained`` tells whether to read a weight file."""
    patch = recipe.sampling.patch
    assert patch != "auto", "a resolved recipe has a patch"
    options = {key: value for key, value in recipe.network.options.items() if pretrained or key != "pretrained"}

    def network() -> Network:
        return build_network(
            recipe.network.name,
            options,
            in_channels=num_channels,
            num_rois=num_rois,
            patch_ZYX=patch[::-1],
            spacing_ZYX_mm=spacing_ZYX_mm,
        )

    return build_method(stage.method, network)


def load_deployed(run: Run, *, checkpoint: str | Path | None = None, deploy: str | None = None) -> list[Network]:
    """The networks that a predictor averages, in evaluation mode, on the CPU.

    Args:
        run: a run folder.
        checkpoint: ``last``, ``best`` or a file; default: what the recipe selects.
        deploy: one of the method's ``deploys``; default: its first.

    Raises:
        UserError: unknown ``deploy``, no or damaged checkpoint.
    """
    tensors, info = load(run.checkpoint(checkpoint))
    stage = next(s for s in run.recipe.stages if s.name == info["stage"])
    method = make_method(
        run.recipe,
        stage,
        num_channels=len(run.info["channels"]),
        num_rois=len(run.rois),
        spacing_ZYX_mm=run.plan.spacing_ZYX_mm,
        pretrained=False,  # the checkpoint holds all weights, and the file may lie on another machine
    )
    deploys = type(method).deploys
    name = deploy or next(iter(deploys))
    if name not in deploys:
        raise UserError(
            f"--deploy {name}: method {stage.method.name} offers {', '.join(deploys)}{nearest(name, deploys)}"
        )
    method.load_state_dict({k.removeprefix(METHOD): v for k, v in tensors.items() if k.startswith(METHOD)})
    return [_network(method.get_submodule(part)) for part in deploys[name]]


def _network(module: nn.Module) -> Network:
    assert isinstance(module, Network), f"deployed sub-module {type(module).__name__} is not a Network"
    return module.eval().requires_grad_(False)

"""From a run folder to methods that train and networks that predict."""

from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from gleanseg.config import Named, StageConfig
from gleanseg.errors import UserError, nearest
from gleanseg.methods import build_method
from gleanseg.networks import build as build_network
from gleanseg.networks.attach import attach_head, head_config
from gleanseg.networks.classifier import Classifier
from gleanseg.networks.classifiers import build as build_classifier
from gleanseg.networks.fusion import TextFusion
from gleanseg.networks.network import Network
from gleanseg.parts.method import Blueprint, Method
from gleanseg.run.codes import load_codes
from gleanseg.run.folder import Run
from gleanseg.run.roi_aware import load_roi_aware
from gleanseg.run.texts import fusion_config, load_texts

METHOD = "method."
"""Prefix of the method's tensors in a checkpoint."""
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def make_method(run: Run, stage: StageConfig, *, pretrained: bool = True) -> Method:
    """The method of a run's stage with freshly initialised networks.

    Args:
        run: a run folder.
        stage: one of its recipe's.
        pretrained: read the weight file that ``[network]`` may name; a checkpoint holds all weights, and the file may
            lie on another machine.
    """
    has_presence = "roi_aware" in run.info
    return build_method(
        stage.method,
        Blueprint(
            network=partial(_network, run, run.recipe.network, pretrained=pretrained),
            rois=run.rois,
            ontology=run.ontology,
            other=partial(_network, run, pretrained=pretrained),
            classifier=partial(_classifier, run, pretrained=pretrained),
            roi_aware=partial(load_roi_aware, run) if has_presence else None,
            num_channels=len(run.info["channels"]),
        ),
    )


def load_deployed(run: Run, *, checkpoint: str | Path | None = None, deploy: str | None = None) -> list[Network]:
    """The networks that a predictor averages, in evaluation mode, on the CPU.

    Args:
        run: a run folder.
        checkpoint: ``last``, ``best`` or a file; default: what the recipe selects.
        deploy: one of the method's ``deploys``; default: its first.

    Raises:
        UserError: unknown ``deploy``, no or damaged checkpoint, or a run that trained no segmentation network.
    """
    hint = "segments nothing; use `gleanseg presence`"
    return _load(run, Network, hint, checkpoint=checkpoint, deploy=deploy)  # type: ignore[type-abstract]


def load_classifier(run: Run, *, checkpoint: str | Path | None = None) -> Classifier:
    """The classifier of a presence run, in evaluation mode, on the CPU.

    Raises:
        UserError: no or damaged checkpoint, or a run that trained no classifier.
    """
    hint = "is no presence run"
    (classifier,) = _load(run, Classifier, hint, checkpoint=checkpoint, deploy=None)  # type: ignore[type-abstract]
    return classifier


def _load(
    run: Run, kind: type[ModuleT], otherwise: str, *, checkpoint: str | Path | None, deploy: str | None
) -> list[ModuleT]:
    tensors, info = run.read(run.checkpoint(checkpoint))
    stage = next(s for s in run.recipe.stages if s.name == info["stage"])
    method = make_method(run, stage, pretrained=False)
    deploys = type(method).deploys
    name = deploy or next(iter(deploys))
    if name not in deploys:
        raise UserError(
            f"--deploy {name}: method {stage.method.name} offers {', '.join(deploys)}{nearest(name, deploys)}"
        )
    try:
        method.load_state_dict({k.removeprefix(METHOD): v for k, v in tensors.items() if k.startswith(METHOD)})
    except RuntimeError as error:
        raise UserError(
            f"{run.path}: its checkpoint does not fit the method of this version "
            f"({' '.join(str(error).split())[:200]}); use gleanseg {run.info.get('version', 'of that time')}"
        ) from None
    modules = [method.get_submodule(part).eval().requires_grad_(False) for part in deploys[name]]
    found = [module for module in modules if isinstance(module, kind)]
    if len(found) < len(modules):
        raise UserError(f"{run.path}: its method {stage.method.name!r} {otherwise}")
    return found


def _network(run: Run, named: Named, *, pretrained: bool) -> Network:
    recipe = run.recipe
    patch = recipe.sampling.patch
    assert patch != "auto", "a resolved recipe has a patch"
    network = build_network(
        named.name,
        _options(named, pretrained=pretrained),
        in_channels=len(run.info["channels"]),
        num_rois=len(run.rois),
        patch_ZYX=patch[::-1],
        spacing_ZYX_mm=run.plan.spacing_ZYX_mm,
    )
    attach_head(network, head_config(recipe.head.name, recipe.head.options), rois=run.rois, table_Kd=load_codes(run))
    texts = load_texts(run)
    if texts is not None:
        network.add_text(TextFusion(fusion_config(recipe.text), texts, channels=network.channels[-1]))
    return network


def _classifier(run: Run, *, pretrained: bool) -> Classifier:
    named = run.recipe.network
    options = _options(named, pretrained=pretrained)
    return build_classifier(named.name, options, in_channels=len(run.info["channels"]), num_outputs=len(run.rois))


def _options(named: Named, *, pretrained: bool) -> dict[str, Any]:
    return {key: value for key, value in named.options.items() if pretrained or key != "pretrained"}

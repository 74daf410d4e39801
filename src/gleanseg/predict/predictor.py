"""From an image to label layers on its own grid.

Axes: C image channels, R ROIs, L layers, Z Y X voxels.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32
from numpy.typing import NDArray
from torch import nn

from gleanseg.config import PredictConfig
from gleanseg.data.crop import Box
from gleanseg.data.plan import LabelBox, Plan
from gleanseg.data.resample import AxisMap
from gleanseg.data.standardize import preprocess_image
from gleanseg.data.volume import Volume
from gleanseg.errors import UserError
from gleanseg.networks.folding import fold_batch_norms
from gleanseg.parts.presence import RoiAware
from gleanseg.predict.backends import Backend, Backends
from gleanseg.predict.blend import Model
from gleanseg.predict.hardware import best_device, channels_last, has_fast_bf16
from gleanseg.predict.layers import Labels, Layering
from gleanseg.predict.passes import air_test, all_flips, presence_gate, side_swap, trained_flips
from gleanseg.predict.postprocess import Repair, check_rois, drop_small, keep_largest, repair_hierarchy
from gleanseg.predict.restore import Restorer
from gleanseg.predict.sliding import Poll, Size, Slider, Sliding, step_of
from gleanseg.rois.ontology import Ontology
from gleanseg.run.deploy import load_deployed
from gleanseg.run.folder import Run, text_encoder
from gleanseg.run.roi_aware import load_roi_aware


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the recipe's ``[predict]`` table leaves to the call.

    Attributes:
        mirror_ZYX: axes to flip where the table says ``mirror``; None: all, but not X when a sided ROI is predicted.
        skip_air: do not run networks on windows that hold nothing but air or a constant.
        roi_chunk: ROIs scored at once, at most.
        probabilities: ROIs whose probability maps are kept, as float16.
        backend: ``eager`` PyTorch; ``openvino``, which compiles networks on processors (extra ``fast``); ``auto``: that
            where it is installed and can compile the networks, for volumes large enough to make up for it.
        repair: what to do with voxels of a part outside its parent: leave, remove, or give them to the parent; None: as
            the table says.
    """

    mirror_ZYX: tuple[bool, bool, bool] | None = None
    skip_air: bool = True
    roi_chunk: int = 8
    probabilities: tuple[str, ...] = ()
    backend: Backend = "auto"
    repair: Repair | None = None


class Prediction(NamedTuple):
    """Label layers on one grid, and what their values mean.

    Attributes:
        layers: Z Y X label maps.
        layering: which value of which layer is which ROI.
        probabilities: Z Y X, in [0, 1], of the ROIs that were asked for.
    """

    layers: tuple[Labels, ...]
    layering: Layering
    probabilities: Mapping[str, NDArray[np.float16]]

    def mask(self, roi: str) -> Bool[np.ndarray, "Z Y X"]:
        """Voxels of an ROI."""
        return self.layering.mask(self.layers, roi)

    def flat(self) -> Labels:
        """One map for viewers, parts painted over their parents."""
        return self.layering.flat(self.layers)


class Predictor:
    """Segments whole volumes with one network, or with several whose probabilities are averaged.

    Overlapping windows of a network are blended as logits (or probabilities, see ``PredictConfig.average``) first.

    Args:
        networks: one logit per ROI; on ``device``.
        plan: how images are prepared.
        rois: ids in channel order.
        ontology: relations between ROIs.
        patch_ZYX: the networks' patch.
        overlaps: further pairs of ROIs that share voxels, from the training data.
        config: the recipe's ``[predict]`` table.
        options: what is set for this call.
        device: where the networks are.
        bf16: run them under bf16 autocast.
        provenance: what made this predictor; written beside predictions.
        roi_aware: says which ROIs a window may hold, where ``config.gate`` asks for it.

    Raises:
        UserError: an option names an ROI that is not predicted, or X is mirrored where a side has no counterpart.
    """

    def __init__(
        self,
        networks: Sequence[Model],
        *,
        plan: Plan,
        rois: Sequence[str],
        ontology: Ontology,
        patch_ZYX: Size,
        overlaps: Collection[frozenset[str]] = frozenset(),
        config: PredictConfig | None = None,
        options: Options | None = None,
        device: torch.device | None = None,
        bf16: bool = False,
        provenance: Mapping[str, str] | None = None,
        roi_aware: RoiAware | None = None,
    ) -> None:
        self.plan, self.rois, self.ontology = plan, tuple(rois), ontology
        self.config, self.options = config or PredictConfig(), options or Options()
        self.device, self.provenance = device or torch.device("cpu"), dict(provenance or {})
        check_rois(self.config.keep_largest, self.rois, option="keep_largest")
        check_rois(self.options.probabilities, self.rois, option="probabilities")
        self.backends = Backends(
            networks,
            backend=self.options.backend,
            channels=len(plan.channels),
            patch_ZYX=patch_ZYX,
            device=self.device,
            bf16=bf16,
            roi_aware=roi_aware,
        )
        self.layering = Layering.of(self.rois, ontology, overlaps=overlaps)
        mirror_ZYX = self.options.mirror_ZYX or trained_flips("auto", self.rois, ontology)
        flips = all_flips(mirror_ZYX if self.config.mirror else (False, False, False))
        self.sliding = Sliding(
            patch_ZYX=patch_ZYX,
            step_ZYX=_step(self.config, patch_ZYX),
            blend=self.config.blend,
            average=self.config.average,
            window_batch=self.config.window_batch,
            roi_chunk=self.options.roi_chunk,
            flips=flips,
            swap=side_swap(self.rois, ontology) if any(-1 in flip for flip in flips) else None,
            bf16=bf16,
            is_air=air_test(plan.intensity) if self.options.skip_air else None,
            may_hold=presence_gate(roi_aware, self.config.gate),
        )

    @classmethod
    def from_run(
        cls,
        run: Path,
        *,
        checkpoint: str | Path | None = None,
        deploy: str | None = None,
        config: PredictConfig | None = None,
        options: Options | None = None,
        device: torch.device | None = None,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
    ) -> "Predictor":
        """The predictor of a run folder.

        Args:
            run: the folder.
            checkpoint: ``last``, ``best`` or a file; default: what the recipe selects.
            deploy: which of the method's networks, or average of them; default: its first.
            config: in place of the recipe's ``[predict]`` table.
            options: what is set for this call; ``mirror_ZYX`` is by default what training mirrored.
            device: default: the first GPU, else the processor.
            precision: ``auto`` takes bf16 where the hardware multiplies it.

        Raises:
            UserError: no run folder, no such checkpoint or deploy, or options that do not fit.
        """
        opened = Run.open(run)
        recipe = opened.recipe
        assert recipe.sampling.patch != "auto", "a run's recipe is resolved"
        x, y, z = recipe.sampling.patch
        device, options = device or best_device(), options or Options()
        file = opened.checkpoint(checkpoint)
        networks = load_deployed(opened, checkpoint=file, deploy=deploy)
        bf16 = precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
        for network in networks:
            channels_last(fold_batch_norms(network).to(device), bf16=bf16)
        if options.mirror_ZYX is None:
            options = replace(options, mirror_ZYX=trained_flips(recipe.augment.mirror, opened.rois, opened.ontology))
        config = config or recipe.predict
        roi_aware = load_roi_aware(opened).to(device) if config.gate > 0 and "roi_aware" in opened.info else None
        if roi_aware is not None:
            channels_last(roi_aware.classifier, bf16=bf16)
        return cls(
            networks,
            plan=opened.plan,
            rois=opened.rois,
            ontology=opened.ontology,
            patch_ZYX=(z, y, x),
            overlaps=opened.overlaps,
            config=config,
            options=options,
            roi_aware=roi_aware,
            device=device,
            bf16=bf16,
            provenance={
                "run": str(opened.path.resolve()),
                "checkpoint": file.name,
                "checkpoint_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "deploy": deploy or "default",
                **({"text_encoder": encoder} if (encoder := text_encoder(opened.info)) else {}),
            },
        )

    @property
    def reads_labels(self) -> bool:
        """Whether images are cropped around their labels, as some benchmarks publish it."""
        return isinstance(self.plan.crop, LabelBox)

    def predict_volume(self, volume: Volume, *, keep: Box | None = None, poll: Poll | None = None) -> Prediction:
        """Segment a volume; the layers lie on exactly its grid.

        Args:
            volume: (Z, Y, X) or (C, Z, Y, X) in any orientation and spacing, with the plan's channels.
            keep: box of the labels in RAS order, where ``reads_labels``; outside the crop nothing is predicted.
            poll: called between windows with (done, total); what it raises ends the prediction.

        Raises:
            UserError: another number of channels, no finite voxel, or no box of the labels where one is needed.
        """
        prepared = preprocess_image(volume, self.plan, keep=keep if self.reads_labels else None)
        z, y, x = (part.start for part in prepared.box)
        found = self._segment(
            prepared.image,
            [axis.inverse() for axis in prepared.maps],
            native_ZYX=prepared.native.shape_ZYX,
            crop_start_ZYX=(z, y, x),
            spacing_ZYX_mm=prepared.native.spacing_ZYX_mm,
            poll=poll,
        )
        undo = prepared.axes.undo
        return Prediction(
            tuple(np.ascontiguousarray(undo(layer)) for layer in found.layers),
            self.layering,
            {roi: np.ascontiguousarray(undo(p)) for roi, p in found.probabilities.items()},
        )

    def segment_prepared(
        self, image_CZYX: Float32[np.ndarray, "C Z Y X"], *, poll: Callable[[], None] | None = None
    ) -> Prediction:
        """Segment an image that lies on the plan's grid and intensity scale already; so do the layers.

        Args:
            image_CZYX: as the store keeps it.
            poll: called between windows; what it raises ends the prediction.
        """
        _, z, y, x = image_CZYX.shape
        return self._segment(
            image_CZYX,
            [AxisMap(n, n, 1.0, 0.0) for n in (z, y, x)],
            native_ZYX=(z, y, x),
            crop_start_ZYX=(0, 0, 0),
            spacing_ZYX_mm=self.plan.spacing_ZYX_mm,
            poll=None if poll is None else lambda done, total: poll(),
        )

    def _segment(
        self,
        image_CZYX: Float32[np.ndarray, "C Z Y X"],
        maps_ZYX: Sequence[AxisMap],
        *,
        native_ZYX: Size,
        crop_start_ZYX: Size,
        spacing_ZYX_mm: tuple[float, float, float],
        poll: Poll | None,
    ) -> Prediction:
        restorer = Restorer(
            maps_ZYX,
            native_ZYX=native_ZYX,
            crop_start_ZYX=crop_start_ZYX,
            layering=self.layering,
            probabilities=[self.rois.index(roi) for roi in self.options.probabilities],
            scores_are_logits=self.config.average == "logits" and len(self.backends.networks) == 1,
        )
        with evaluating(self.backends.networks):
            ready = self.backends.of(self.sliding.num_windows(image_CZYX.shape[1:]))
            slider = Slider(
                ready.networks,
                image_CZYX,
                num_rois=len(self.rois),
                sliding=replace(self.sliding, may_hold=presence_gate(ready.presence, self.config.gate)),
                device=self.device,
                halo=restorer.halo,
                poll=poll,
            )
            for slab in slider.slabs():
                fold = restorer.slab(slab.start, slab.stop)
                for rois, scores in slab.scores():
                    fold.fold(rois, scores.numpy())
        self._clean(restorer.layers, voxel_mm3=math.prod(spacing_ZYX_mm))
        return Prediction(restorer.layers, self.layering, {self.rois[r]: p for r, p in restorer.probabilities.items()})

    def _clean(self, layers: Sequence[Labels], *, voxel_mm3: float) -> None:
        if self.config.keep_largest:
            keep_largest(layers, self.layering, self.config.keep_largest)
        if self.config.min_component_mm3:
            drop_small(layers, self.layering, voxels=self.config.min_component_mm3 / voxel_mm3)
        repair = self.options.repair or ("remove" if self.config.repair_hierarchy else "leave")
        if repair != "leave":
            repair_hierarchy(layers, self.layering, self.ontology, how=repair)


def _step(config: PredictConfig, patch_ZYX: Size) -> Size:
    """Voxels from one window to the next."""
    if config.stride is None:
        return step_of(patch_ZYX, overlap=config.overlap)
    x, y, z = config.stride
    if any(step > side for step, side in zip((z, y, x), patch_ZYX, strict=True)):
        raise UserError(
            f"predict.stride = {list(config.stride)}: expected at most the patch {list(patch_ZYX[::-1])}, or windows"
            " leave gaps"
        )
    return z, y, x


@contextmanager
def evaluating(networks: Sequence[Model]) -> Iterator[None]:
    """Networks in evaluation mode; each module's own mode is given back afterwards."""
    modules = [m for network in networks if isinstance(network, nn.Module) for m in network.modules()]
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode

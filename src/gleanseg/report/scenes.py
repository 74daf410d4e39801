"""What pictures of a case are made from: image, reference and predictions, turned to canonical RAS order."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gleanseg.data.images import to_ras
from gleanseg.data.labels import read_image, read_labels
from gleanseg.data.manifest import Case, Manifest, State
from gleanseg.evaluate.labels import Labels, Layer
from gleanseg.evaluate.predictions import Predictions
from gleanseg.evaluate.surface import Box, join_boxes


class Scene(NamedTuple):
    """One case in canonical RAS order.

    Attributes:
        image: first channel, Z Y X.
        spacing_ZYX_mm: voxel size.
        modality: of the first channel.
        reference: masks of the annotated ROIs.
        prediction: masks of the predicted ROIs whose truth is known.
    """

    image: NDArray[np.float32]
    spacing_ZYX_mm: tuple[float, float, float]
    modality: str
    reference: Labels
    prediction: Labels

    def box(self, roi: str) -> Box | None:
        """Bounding box of an ROI in reference and prediction; None when both are empty."""
        return join_boxes(self.reference.box(roi), self.prediction.box(roi))


def read_scenes(
    manifest: Manifest, case: Case, predicted: Sequence[Predictions], *, rois: Sequence[str]
) -> tuple[Scene, ...]:
    """Read a case once, with one scene for each set of predictions.

    Args:
        manifest: where image and reference are listed.
        case: to read.
        predicted: of one run each.
        rois: to show; of those, predictions keep the ones that are known in the case.

    Raises:
        UserError: a file is missing, broken or on another grid.
    """
    volume = read_image(manifest, case)
    canonical, grid, axes = to_ras(volume)
    states = manifest.states(case)
    known = [roi for roi in rois if states.get(roi, State.UNKNOWN) is not State.UNKNOWN] or list(rois)

    def turned(labels: Labels) -> Labels:
        layers = [layer._replace(codes_ZYX=axes.apply(layer.codes_ZYX)) for layer in labels.layers]
        return Labels(layers, rois=labels.rois, shape_ZYX=grid.shape_ZYX)

    labels = read_labels(manifest, case)
    layers = [Layer(axes.apply(labels.codes), labels.table)] if labels is not None else []
    reference = _only(rois, Labels(layers, rois=manifest.rois, shape_ZYX=grid.shape_ZYX))
    return tuple(
        Scene(
            image=canonical[0],
            spacing_ZYX_mm=grid.spacing_ZYX_mm,
            modality=manifest.channels[0].modality,
            reference=reference,
            prediction=_only(known, turned(one.read(case.id, volume.grid))),
        )
        for one in predicted
    )


def _only(rois: Sequence[str], labels: Labels) -> Labels:
    """The same masks of some ROIs."""
    held = [roi for roi in rois if roi in labels]
    columns = [labels.rois.index(roi) for roi in held]
    layers = [layer._replace(table_VR=layer.table_VR[:, columns]) for layer in labels.layers]
    return Labels(layers, rois=held, shape_ZYX=labels.shape_ZYX)

"""Metrics of one mask against another, and of all ROIs of a case."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gleanseg.evaluate.cleanup import ProtocolMasks
from gleanseg.evaluate.labels import Labels
from gleanseg.evaluate.overlap import dice, jaccard
from gleanseg.evaluate.protocol import DISTANCES, OVERLAPS, Empty, Metric, Protocol
from gleanseg.evaluate.surface import Spacing, SurfaceDistances, bounding_box, join_boxes, surface_distances

VOLUMES = ("reference_ml", "prediction_ml")
"""Volumes that every (case, ROI) pair reports besides the protocol's metrics."""


class Row(NamedTuple):
    """One number.

    Attributes:
        case: case id.
        roi: ROI id.
        metric: a metric of the protocol, or one of ``VOLUMES``.
        value: NaN when undefined under the protocol.
    """

    case: str
    roi: str
    metric: str
    value: float


def score_masks(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    *,
    spacing_ZYX_mm: Spacing,
    tolerance_mm: float = 2.0,
    protocol: Protocol,
) -> dict[str, float]:
    """Score one mask.

    Args:
        prediction: mask of the whole image, Z Y X (its shape gives the image's diagonal).
        reference: mask of the same shape.
        spacing_ZYX_mm: voxel size.
        tolerance_mm: for NSD, when the protocol takes it from the ontology.
        protocol: definitions, and what empty masks score.

    Returns:
        The protocol's metrics in its order, then ``VOLUMES``; NaN is undefined.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, reference {reference.shape}; they must be equal")
    box = join_boxes(bounding_box(prediction), bounding_box(reference))
    Z, Y, X = prediction.shape
    inside = (prediction[box], reference[box]) if box else (prediction[:0], reference[:0])
    return _score(*inside, (Z, Y, X), spacing_ZYX_mm, tolerance_mm, protocol)


def score_case(
    case: str,
    prediction: Labels,
    reference: Labels,
    rois: Sequence[str],
    *,
    spacing_ZYX_mm: Spacing,
    protocol: Protocol,
    tolerance_mm: Mapping[str, float],
    valid_ZYX: NDArray[np.bool_] | None = None,
    num_workers: int = 1,
) -> list[Row]:
    """Score all ``rois`` of a case; each is cropped to the box that holds both of its masks.

    Args:
        case: id for the rows.
        prediction: predicted masks.
        reference: true masks on the same grid; an ROI that it does not hold is empty.
        rois: what is known of the case.
        spacing_ZYX_mm: voxel size.
        protocol: definitions, post-processing, and what empty masks score.
        tolerance_mm: of each ROI; 2 mm for those it does not name.
        valid_ZYX: voxels that somebody judged; both masks are emptied elsewhere. None: all.
        num_workers: ROIs at a time.
    """
    if prediction.shape_ZYX != reference.shape_ZYX:
        raise ValueError(f"prediction has shape {prediction.shape_ZYX}, reference {reference.shape_ZYX}")
    masks = ProtocolMasks(prediction, protocol)

    def score(roi: str) -> list[Row]:
        box = join_boxes(masks.box(roi), reference.box(roi))
        if box is None:
            predicted = true = np.zeros((0, 0, 0), dtype=np.bool_)
        else:
            predicted, true = masks.mask(roi, box), reference.mask(roi, box)
            if valid_ZYX is not None:
                predicted, true = predicted & valid_ZYX[box], true & valid_ZYX[box]
        values = _score(predicted, true, prediction.shape_ZYX, spacing_ZYX_mm, tolerance_mm.get(roi, 2.0), protocol)
        return [Row(case, roi, metric, value) for metric, value in values.items()]

    if num_workers == 1 or len(rois) == 1:
        return [row for roi in rois for row in score(roi)]
    with ThreadPoolExecutor(num_workers) as pool:
        return [row for rows in pool.map(score, rois) for row in rows]


def _score(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    shape_ZYX: tuple[int, int, int],
    spacing_ZYX_mm: Spacing,
    tolerance_mm: float,
    protocol: Protocol,
) -> dict[str, float]:
    num_predicted, num_true = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    voxel_ml = math.prod(spacing_ZYX_mm) / 1000
    volumes = {"reference_ml": num_true * voxel_ml, "prediction_ml": num_predicted * voxel_ml}
    spacing = spacing_ZYX_mm if protocol.unit == "mm" else (1.0, 1.0, 1.0)
    if num_predicted == 0 or num_true == 0:
        empty = {(True, True): protocol.both_empty, (True, False): protocol.prediction_empty}.get(
            (num_predicted == 0, num_true == 0), protocol.reference_empty
        )
        diagonal = math.hypot(*(n * s for n, s in zip(shape_ZYX, spacing, strict=True)))
        return {m: _of_empty(m, empty, diagonal) for m in protocol.metrics} | volumes
    shared, total = int(np.count_nonzero(prediction & reference)), num_predicted + num_true
    if any(m in (*DISTANCES, "nsd") for m in protocol.metrics):
        distances = surface_distances(prediction, reference, spacing_ZYX=spacing)
    else:
        distances = SurfaceDistances(np.empty(0), np.empty(0))
    tolerance = tolerance_mm if protocol.nsd_tolerance == "ontology" else protocol.nsd_tolerance
    values: dict[str, float] = {}
    for metric in protocol.metrics:
        if metric == "dice":
            values[metric] = dice(shared, total, plus=protocol.dice_plus)
        elif metric == "jaccard":
            values[metric] = jaccard(shared, total)
        else:
            values[metric] = _of_surfaces(metric, distances, protocol, tolerance)
    return values | volumes


def _of_surfaces(metric: Metric, distances: SurfaceDistances, protocol: Protocol, tolerance: float) -> float:
    if metric == "hd95":
        return distances.percentile(protocol.percentile, pooled=protocol.percentile_of == "pooled")
    if metric == "assd":
        return distances.symmetric_mean()
    if metric == "nsd":
        return distances.share_within(tolerance)
    one_way = distances.from_prediction if protocol.asd_from == "prediction" else distances.from_reference
    return float(one_way.mean())


def _of_empty(metric: Metric, empty: Empty, diagonal: float) -> float:
    value = empty.overlap if metric in OVERLAPS else empty.distance
    if value == "undefined":
        return float("nan")
    return diagonal if value == "diagonal" else float(value)

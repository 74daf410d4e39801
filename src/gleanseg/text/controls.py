"""Tables without any text: whatever text gains must beat both of them.

Axes: R ROIs asked for, D numbers per row.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gleanseg.rois.ontology import Ontology

RANDOM_DIM = 384
"""Numbers per row of ``random_rows``, those of MiniLM."""


def one_hot_rows(rois: Sequence[str]) -> Float[np.ndarray, "R R"]:
    """The identity: every ROI has its own number, as in DoDNet."""
    return np.eye(len(rois), dtype=np.float32)


def random_rows(rois: Sequence[str], ontology: Ontology, *, seed: int) -> Float[np.ndarray, "R D"]:
    """Random unit rows at right angles to each other.

    An ROI's row depends on the seed and on its place in the ontology, not on the other ROIs asked for.

    Args:
        rois: ids.
        ontology: that knows them.
        seed: of the draw.

    Raises:
        UserError: an id that the ontology does not know.
    """
    places = {id: place for place, id in enumerate(ontology)}
    dim = max(RANDOM_DIM, len(places))
    draws = np.stack([np.random.default_rng((seed, place)).standard_normal(dim) for place in range(len(places))])
    # Column j of Q depends on the first j columns alone, so ROIs that a manifest adds leave the built-in ones alone.
    q, r = np.linalg.qr(draws.T)
    rows = (q * np.sign(np.diag(r))).T
    return rows[[places[ontology[roi].id] for roi in rois]].astype(np.float32)

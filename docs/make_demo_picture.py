"""Write docs/images/demo.png: a test case of a finished demo, reference and prediction in three planes.

python docs/make_demo_picture.py demo
"""

import sys
from pathlib import Path

from gleanseg.data.images import to_ras
from gleanseg.data.labels import read_image, read_labels
from gleanseg.data.manifest import Manifest
from gleanseg.predict.predictor import Predictor
from gleanseg.report.figures import overlay

PICTURE = Path(__file__).parent / "images" / "demo.png"


def main(demo: Path, case_id: str = "t_003") -> None:
    """Draw one test case of a finished demo."""
    manifest = Manifest.load(demo / "manifest.json")
    ontology, case = manifest.ontology(), manifest.case(case_id)
    volume, labels = read_image(manifest, case), read_labels(manifest, case)
    assert labels is not None, f"{case_id} has labels"
    prediction = Predictor.from_run(demo / "run").predict_volume(volume)
    image, grid, axes = to_ras(volume)
    rois = [roi for r, roi in enumerate(manifest.rois) if labels.mask(r).any()]
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(
        overlay(
            image[0],
            reference={roi: axes.apply(labels.mask(manifest.rois.index(roi))) for roi in rois},
            prediction={roi: axes.apply(prediction.mask(roi)) for roi in rois},
            colors={roi: ontology[roi].color for roi in rois},
            names={roi: ontology[roi].name for roi in rois},
            spacing_ZYX_mm=grid.spacing_ZYX_mm,
            focus="kidney_right",
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

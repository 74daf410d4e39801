"""A small CT-like phantom data set: three sites that annotate different ROIs, unlabelled cases, a complete test set.

Every patient is drawn by chance (shape, size, pose, tumors, contrast phase) and scanned on the grid of a site:

====================  =====================  ====================================================  ===========
folder                layout                 annotated                                             orientation
====================  =====================  ====================================================  ===========
``site_a``            MSD                    liver, liver_tumor, spleen, stomach                   LPS
``site_b``            nnU-Net v2 raw         kidneys, kidney_tumor (regions), urinary_bladder      RAS
``site_c``            TotalSegmentator       aorta, lungs, spleen, stomach, urinary_bladder        PIR
``unlabelled``        plain folder           nothing                                               LAS
``held_out``          TotalSegmentator       everything (validation and test cases)                mixed
``truth``             one mask per ROI       everything, of every case; in no manifest
====================  =====================  ====================================================  ===========
"""

from gleanseg.data.phantom.make import (
    ROIS,
    Phantom,
    PhantomCase,
    complete_manifest,
    make_phantom,
    phantom_manifest,
    phantom_truth,
)

__all__ = ["ROIS", "Phantom", "PhantomCase", "complete_manifest", "make_phantom", "phantom_manifest", "phantom_truth"]

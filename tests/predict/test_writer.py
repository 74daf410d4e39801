import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by

from gleanseg.config import PredictConfig
from gleanseg.data import images
from gleanseg.data.manifest import Channel, Manifest
from gleanseg.data.plan import Intensity, Plan
from gleanseg.errors import UserError
from gleanseg.evaluate.predictions import Predictions
from gleanseg.predict.predictor import Options, Predictor
from gleanseg.predict.writer import file_items, manifest_items, predict_manifest, write_predictions
from gleanseg.rois.ontology import builtin
from tests.predict.nets import Threshold

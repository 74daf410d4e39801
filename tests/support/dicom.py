"""Small DICOM series."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROWS = np.array([[1.0, 0, 0], [0, 1.0, 0]])
ORIGIN = np.array([10.0, -20.0, 30.0])
VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)  # Z Y X, stored values


def series(
    folder: Path,
    *,
    voxels: NDArray[np.int16] = VOXELS,
    uid: str = "1.2.3",
    directions: NDArray[np.float64] = ROWS,
    step: NDArray[np.float64] | None = None,
    origin: NDArray[np.float64] = ORIGIN,
    skip: int | None = None,
    prefix: str = "s",
    **tags: object,
) -> Path:
    """Write one file per slice: 2.5 mm apart, rows of 0.7 and columns of 0.8 mm, stored values 1024 above HU."""
    folder.mkdir(parents=True, exist_ok=True)
    step = np.cross(*directions) * 2.5 if step is None else step
    for z, pixels in enumerate(voxels):
        if z == skip:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
        d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        d.Modality, d.SeriesInstanceUID, d.SeriesDescription = "CT", uid, f"body {uid}"
        d.ImagePositionPatient = [*map(float, origin + z * step)]
        d.ImageOrientationPatient = [*map(float, directions.ravel())]
        d.PixelSpacing, d.SliceThickness = [0.7, 0.8], 5.0
        d.Rows, d.Columns = pixels.shape
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
        d.RescaleSlope, d.RescaleIntercept = 1, -1024
        d.PixelData = pixels.tobytes()
        for key, value in tags.items():
            setattr(d, key, value)
        # Names run against positions, so that only the positions can give the order.
        d.save_as(folder / f"{prefix}{9 - z}.dcm", enforce_file_format=True)
    return folder

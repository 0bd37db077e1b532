"""Labelled images: load a data set of any kind by its address (load.py), and read batches of pixels (loader.py)."""

from inception_v3.data.duplicates import duplicates
from inception_v3.data.file_labels import LabelsFrom
from inception_v3.data.labelled_images import LabelledImages
from inception_v3.data.load import load_data, load_held_out
from inception_v3.data.loader import Batch, TrainingBatches, batches

__all__ = [
    "Batch",
    "LabelledImages",
    "LabelsFrom",
    "TrainingBatches",
    "batches",
    "duplicates",
    "load_data",
    "load_held_out",
]

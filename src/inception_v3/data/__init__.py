"""Labelled images: data sets of any kind by one address (load.py) and batches of their pixels (loader.py)."""

from inception_v3.data.duplicates import duplicates
from inception_v3.data.labelled_images import LabelledImages
from inception_v3.data.load import load_data, load_held_out
from inception_v3.data.loader import Batch, TrainingBatches, batches

__all__ = ["Batch", "LabelledImages", "TrainingBatches", "batches", "duplicates", "load_data", "load_held_out"]

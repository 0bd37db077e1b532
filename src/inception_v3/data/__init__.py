"""Labelled pictures: what they are (pictures.py), where from (load.py), and batches of their pixels (loader.py)."""

from inception_v3.data.duplicates import duplicates
from inception_v3.data.load import load_data, load_held_out
from inception_v3.data.loader import Batch, TrainingBatches, batches
from inception_v3.data.pictures import Pictures

__all__ = ["Batch", "Pictures", "TrainingBatches", "batches", "duplicates", "load_data", "load_held_out"]

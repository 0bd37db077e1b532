"""Labelled pictures: what they are and how they are split (pictures.py), and batches of their pixels (loader.py)."""

from inception_v3.data.loader import Batch, TrainingBatches, batches
from inception_v3.data.pictures import Pictures, load_data, load_held_out

__all__ = ["Batch", "Pictures", "TrainingBatches", "batches", "load_data", "load_held_out"]

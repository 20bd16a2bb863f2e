"""Training a detector as every stage does it."""

from yolo_compress.training.job import StageContext
from yolo_compress.training.trainer import StageTrainer, train

__all__ = ["StageContext", "StageTrainer", "train"]

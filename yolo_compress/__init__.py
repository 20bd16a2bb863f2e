"""Compression of YOLOv8 detectors: sparsity training, channel pruning, distillation, export, evaluation."""

__version__ = "0.1.0"

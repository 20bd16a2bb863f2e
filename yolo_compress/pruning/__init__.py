"""Structured channel pruning of Ultralytics detectors to a stated budget."""

"""What a model is worth: its accuracy and its latency, through the detector that flies."""

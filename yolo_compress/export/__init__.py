"""Export to ONNX files that describe themselves, checked against torch."""

"""Sparsity training: the penalty on the BatchNorm scales that pruning can remove."""

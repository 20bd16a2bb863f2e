"""Structured channel pruning of YOLOv8 by BatchNorm scales, to a stated number of MACs.

The dependency tracker cannot follow the ``chunk`` inside Ultralytics' C2f, so every C2f is first replaced by
an equal module whose first convolution is two. After pruning, the halves are merged back: the result consists
of stock Ultralytics modules only and opens wherever Ultralytics is installed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from yolo_compress import ultralytics_env  # noqa: F401  (must come before any import of Ultralytics)
from yolo_compress.errors import UserError

from ultralytics.nn.modules import C2f, Conv  # isort: skip
from ultralytics.nn.modules.head import DFL, Detect  # isort: skip
from ultralytics.nn.tasks import DetectionModel  # isort: skip

# No layer loses more than this share of its channels; beyond it a YOLOv8 no longer recovers.
MAX_RATIO = 0.95
# Bisection stops here: the share of channels is then known to 1/256, finer than any rounding to 8 can follow.
BISECTION_STEPS = 8


class SplitC2f(nn.Module):
    """A C2f whose first convolution is two, one for each half of its output; gives exactly the same output.

    Attributes:
        cv1_pass: convolution of the half that goes straight to the concatenation.
        cv1_chain: convolution of the half that also feeds the bottlenecks.
    """

    def __init__(self, block: C2f) -> None:
        super().__init__()
        width = block.c
        self.cv1_pass = _conv_slice(block.cv1, slice(0, width))
        self.cv1_chain = _conv_slice(block.cv1, slice(width, 2 * width))
        self.cv2 = block.cv2
        self.m = block.m
        _copy_graph_attributes(block, self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute ``[N, c1, H, W] -> [N, c2, H, W]`` as C2f does."""
        features = [self.cv1_pass(x), self.cv1_chain(x)]
        features.extend(bottleneck(features[-1]) for bottleneck in self.m)
        return self.cv2(torch.cat(features, 1))

    def merged(self) -> C2f:
        """Return the stock C2f that equals this module.

        Raises:
            ValueError: the two halves have different widths, which a C2f cannot express.
        """
        width = self.cv1_pass.conv.out_channels
        if self.cv1_chain.conv.out_channels != width:
            raise ValueError(
                f"the halves of a C2f kept {width} and {self.cv1_chain.conv.out_channels} channels; "
                "both must keep the same number to be merged"
            )
        # Built empty and filled: the constructor's own layers would have the widths of an unpruned block.
        block = C2f.__new__(C2f)
        nn.Module.__init__(block)
        block.c = width
        block.cv1 = _conv_concat(self.cv1_pass, self.cv1_chain)
        block.cv2 = self.cv2
        block.m = self.m
        _copy_graph_attributes(self, block)
        return block


def _copy_graph_attributes(source: nn.Module, target: nn.Module) -> None:
    """Copy what Ultralytics hangs on each layer of its graph: inputs, index, type and parameter count."""
    for name in ("f", "i", "type", "np"):
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))
    target.training = source.training


_BATCH_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


def _conv_like(conv: Conv, out_channels: int) -> Conv:
    """Build an Ultralytics Conv (convolution, BatchNorm, activation) of another output width, untrained."""
    result = copy.deepcopy(conv)
    old = conv.conv
    result.conv = nn.Conv2d(
        old.in_channels,
        out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        old.dilation,
        old.groups,
        bias=False,
    )
    result.bn = nn.BatchNorm2d(out_channels, eps=conv.bn.eps, momentum=conv.bn.momentum)
    result.bn.num_batches_tracked.copy_(conv.bn.num_batches_tracked)
    return result.to(old.weight).train(conv.training)


@torch.no_grad()
def _conv_slice(conv: Conv, channels: slice) -> Conv:
    """Return the part of a Conv that computes the output channels of ``channels``."""
    result = _conv_like(conv, len(range(*channels.indices(conv.conv.out_channels))))
    result.conv.weight.copy_(conv.conv.weight[channels])
    for name in _BATCH_NORM_TENSORS:
        getattr(result.bn, name).copy_(getattr(conv.bn, name)[channels])
    return result


@torch.no_grad()
def _conv_concat(first: Conv, second: Conv) -> Conv:
    """Return the Conv whose output is that of ``first`` and ``second``, one after the other."""
    result = _conv_like(first, first.conv.out_channels + second.conv.out_channels)
    result.conv.weight.copy_(torch.cat([first.conv.weight, second.conv.weight]))
    for name in _BATCH_NORM_TENSORS:
        getattr(result.bn, name).copy_(torch.cat([getattr(first.bn, name), getattr(second.bn, name)]))
    return result


def split_c2f(model: nn.Module) -> None:
    """Replace every C2f of ``model`` by the equal :class:`SplitC2f`, in place."""
    _replace_modules(model, C2f, SplitC2f)


def merge_c2f(model: nn.Module) -> None:
    """Replace every :class:`SplitC2f` of ``model`` by the equal stock C2f, in place."""
    _replace_modules(model, SplitC2f, SplitC2f.merged)


def _replace_modules(model: nn.Module, kind: type, replacement: Callable[[Any], nn.Module]) -> None:
    for name, child in model.named_children():
        # Exactly this type: a subclass (C3k2) has other insides.
        if type(child) is kind:
            setattr(model, name, replacement(child))
        else:
            _replace_modules(child, kind, replacement)


def count_params(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, input_size: int) -> int:
    """Return the multiply-accumulates for one square RGB image of ``input_size`` pixels.

    Counted as torch-pruning counts them (convolutions, and the normalisation and activation after them), so
    that the figures compare with the published ones: YOLOv8n with 10 classes has 4.08 G at 640.
    """
    weight = next(model.parameters())
    example = torch.zeros(1, 3, input_size, input_size, device=weight.device, dtype=weight.dtype)
    macs, _ = tp.utils.count_ops_and_params(model, example)
    return int(macs)


def _kept_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers whose output width has a meaning: the last convolutions of Detect, and its DFL."""
    kept: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, Detect):
            kept += [branch[-1] for branches in (module.cv2, module.cv3) for branch in branches]
        elif isinstance(module, DFL):
            kept.append(module.conv)
    return kept


def _raw_outputs(model: nn.Module, example: torch.Tensor) -> list[torch.Tensor]:
    """Run the model up to Detect's raw maps: decoding adds nothing to the dependencies but time and traps."""
    detect = next(m for m in model.modules() if isinstance(m, Detect))
    detect.training = True
    try:
        outputs = model(example)
    finally:
        detect.training = False
    return [outputs["boxes"], outputs["scores"]]


def _prepare(model: DetectionModel) -> DetectionModel:
    """Return a copy of ``model``, its C2f split, ready to be traced."""
    if type(model.model[-1]) is not Detect:
        raise UserError(
            f"only YOLOv8 detectors can be pruned; this model ends in {type(model.model[-1]).__name__}"
        )
    result = copy.deepcopy(model).eval()
    # Checkpoints load with frozen parameters, and the tracker follows gradients.
    for parameter in result.parameters():
        parameter.requires_grad_(True)
    split_c2f(result)
    return result


def _example(model: nn.Module) -> torch.Tensor:
    return torch.zeros(1, 3, 64, 64, device=next(model.parameters()).device)


def prunable_batchnorms(model: DetectionModel) -> list[str]:
    """Return the names of the BatchNorm layers whose channels pruning can remove, in the model's order.

    These are the layers that the dependency tracker finds in the groups that :func:`prune_to_macs` prunes; a
    sparsity penalty belongs on their scales and nowhere else.
    """
    working = _prepare(model)
    graph = tp.DependencyGraph().build_dependency(working, _example(working), forward_fn=_raw_outputs)
    kept = _kept_layers(working)
    found = {
        item.dep.target.module
        for group in graph.get_all_groups(ignored_layers=kept, root_module_types=[nn.Conv2d])
        for item in group
        if isinstance(item.dep.target.module, nn.BatchNorm2d)
    }
    # The two halves of a split C2f are one layer of the original.
    names = {
        name.replace(".cv1_pass.", ".cv1.").replace(".cv1_chain.", ".cv1.")
        for name, module in working.named_modules()
        if module in found
    }
    return [name for name, _ in model.named_modules() if name in names]


@dataclass(frozen=True)
class Pruned:
    """A pruned model and how it came about.

    Attributes:
        model: the pruned network, stock Ultralytics modules only, parameters in fp32.
        ratio: share of the channels taken from each layer, before rounding.
        macs: multiply-accumulates at the input size that was asked for.
        dense_macs: the same before pruning.
    """

    model: DetectionModel
    ratio: float
    macs: int
    dense_macs: int


def prune_uniformly(model: DetectionModel, ratio: float, round_to: int) -> DetectionModel:
    """Remove the same share of channels from every layer: those with the smallest BatchNorm scales.

    The importance of a channel is the mean of the scales |gamma| over the layers coupled to it (residual
    sums), unnormalised, as in network slimming (Liu et al., 2017, arXiv 1708.06519).

    Args:
        model: a YOLOv8 detector; it is left as it is.
        ratio: share of channels to remove from each layer, 0 to 1.
        round_to: the number of channels kept is a multiple of this (rounded down), and at least this.

    Returns:
        A new model of stock Ultralytics modules.
    """
    working = _prepare(model)
    # The pruner skips a layer that rounding would empty, and so leaves it whole: the narrow layers would be
    # the only ones not pruned. Each keeps one step of the rounding instead.
    ratios = {
        layer: min(ratio, max(0.0, 1.0 - round_to / layer.out_channels - 1e-9))
        for layer in working.modules()
        if isinstance(layer, nn.Conv2d)
    }
    pruner = tp.pruner.BasePruner(
        working,
        _example(working),
        importance=tp.importance.BNScaleImportance(normalizer=None),
        pruning_ratio=ratio,
        pruning_ratio_dict=ratios,
        round_to=round_to,
        ignored_layers=_kept_layers(working),
        root_module_types=[nn.Conv2d],
        forward_fn=_raw_outputs,
    )
    pruner.step()
    merge_c2f(working)
    for layer in working.model:
        layer.np = count_params(layer)
    return working


def prune_to_macs(model: DetectionModel, share: float, input_size: int, round_to: int) -> Pruned:
    """Prune every layer by the smallest uniform share of channels that meets a target of MACs.

    Args:
        model: a YOLOv8 detector; it is left as it is.
        share: MACs to keep, as a share of the model's own, in (0, 1).
        input_size: side of the square input in pixels at which MACs are counted.
        round_to: the number of channels kept in each layer is a multiple of this.

    Raises:
        UserError: the target cannot be reached with this rounding; the message names the least that can.
    """
    dense_macs = count_macs(model, input_size)

    def pruned_by(ratio: float) -> Pruned:
        candidate = prune_uniformly(model, ratio, round_to)
        return Pruned(candidate, ratio, count_macs(candidate, input_size), dense_macs)

    best = pruned_by(MAX_RATIO)
    if best.macs > share * dense_macs:
        raise UserError(
            f"prune.macs: {share:g} of the MACs cannot be reached with channels rounded to {round_to}; "
            f"the least is {best.macs / dense_macs:.3f}. Raise prune.macs or lower prune.round_to"
        )
    low = 0.0
    for _ in range(BISECTION_STEPS):
        candidate = pruned_by((low + best.ratio) / 2)
        if candidate.macs <= share * dense_macs:
            best = candidate
        else:
            low = candidate.ratio
    return best

"""Taking a detector apart, removing channels, and folding it back into stock Ultralytics modules.

The dependency tracker cannot follow the ``chunk`` inside Ultralytics' C2f, so every C2f is first replaced by
an equal module whose first convolution is two. After pruning, the halves are merged back: the result consists
of stock Ultralytics modules only and opens wherever Ultralytics is installed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import nn

from yolo_compress import ultralytics_env  # noqa: F401  (must come before any import of Ultralytics)
from yolo_compress.errors import UserError

from ultralytics.nn.modules import C2PSA, C3, SPPF, C2f, C3k2, Concat, Conv  # isort: skip
from ultralytics.nn.modules.block import Attention, PSABlock  # isort: skip
from ultralytics.nn.modules.head import DFL, Detect  # isort: skip
from ultralytics.nn.tasks import DetectionModel  # isort: skip

# The blocks of YOLOv8, YOLOv5u and YOLO11; surgery on any other has not been proven exact.
SUPPORTED_BLOCKS = (Conv, C2f, C3, C3k2, SPPF, C2PSA, Concat, nn.Upsample, Detect)


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
        self._stock = type(block)
        _copy_graph_attributes(block, self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute ``[N, c1, H, W] -> [N, c2, H, W]`` as C2f does."""
        features = [self.cv1_pass(x), self.cv1_chain(x)]
        features.extend(bottleneck(features[-1]) for bottleneck in self.m)
        return self.cv2(torch.cat(features, 1))

    def merged(self) -> C2f:
        """Return the stock C2f (or C3k2) that equals this module.

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
        block: Any = object.__new__(self._stock)
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
    """Replace every C2f and C3k2 of ``model`` by the equal :class:`SplitC2f`, in place."""
    _replace_modules(model, (C2f, C3k2), SplitC2f)


def merge_c2f(model: nn.Module) -> None:
    """Replace every :class:`SplitC2f` of ``model`` by the equal stock block, in place."""
    _replace_modules(model, (SplitC2f,), SplitC2f.merged)


def _replace_modules(
    model: nn.Module, kinds: Sequence[type], replacement: Callable[[Any], nn.Module]
) -> None:
    for name, child in model.named_children():
        # Exactly these types: other subclasses of C2f compute something else.
        if type(child) in kinds:
            setattr(model, name, replacement(child))
        else:
            _replace_modules(child, kinds, replacement)


Role = Literal["out", "in", "norm"]


@dataclass(frozen=True)
class ChannelPart:
    """What a group of channels owns in one layer.

    Attributes:
        layer: name of the layer in the opened model.
        role: output channels of a convolution, its input channels, or channels of a BatchNorm.
        positions: M int64, channels of the layer.
        channels: M int64, the channel of the group that each of them belongs to. A channel may own several
            (the concatenation in SPPF repeats its input four times).
    """

    layer: str
    role: Role
    positions: torch.Tensor
    channels: torch.Tensor


@dataclass(frozen=True)
class Group:
    """Channels coupled by residual sums, concatenations and BatchNorms: each goes everywhere or nowhere.

    Attributes:
        root: name of the convolution that the group starts from.
        width: number of channels.
        parts: where they lie.
    """

    root: str
    width: int
    parts: tuple[ChannelPart, ...]

    def of(self, role: Role) -> tuple[ChannelPart, ...]:
        """Return the parts with one role."""
        return tuple(part for part in self.parts if part.role == role)


class Surgery:
    """A detector opened for pruning. Good for one operation; the model given stays as it is.

    Attributes:
        model: a copy with its C2f split, all parameters in fp32 and trainable.
        groups: all coupled channels that can be removed, in the order of the forward pass.
        units: which groups keep the same number of channels, each a tuple of positions in ``groups``: the two
            halves of a C2f together, every other group by itself.

    Raises:
        UserError: the model has blocks on which this surgery is not exact.
    """

    def __init__(self, model: DetectionModel) -> None:
        _check_supported(model)
        # In fp32, since stock checkpoints may hold half precision; trainable, since they load frozen and the
        # tracker follows gradients.
        self.model = copy.deepcopy(model).float().eval().requires_grad_(True)
        self.model.criterion = None
        split_c2f(self.model)
        example = torch.zeros(1, 3, 64, 64, device=next(model.parameters()).device)
        with torch.enable_grad():
            self._graph = tp.DependencyGraph().build_dependency(self.model, example, forward_fn=_raw_outputs)
        self.groups = self._find_groups()
        self.units = self._tie_halves()

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of channels of each unit's groups."""
        return tuple(self.groups[unit[0]].width for unit in self.units)

    def remove(self, kept: Sequence[torch.Tensor]) -> None:
        """Remove all channels but those named from the opened model.

        Args:
            kept: for each group the channels that stay, int64, in ascending order; the two halves of a C2f
                must keep the same number.
        """
        for group, stays in zip(self.groups, kept, strict=True):
            gone = torch.ones(group.width, dtype=torch.bool)
            gone[stays] = False
            if gone.any():
                root = self.model.get_submodule(group.root)
                indices = gone.nonzero().flatten().tolist()
                self._graph.get_pruning_group(root, tp.prune_conv_out_channels, indices).prune()

    def folded(self) -> DetectionModel:
        """Fold the opened model back into stock modules and return it, a plain Ultralytics model."""
        merge_c2f(self.model)
        for layer in self.model.model:
            layer.np = sum(parameter.numel() for parameter in layer.parameters())
        return self.model

    def stock_place(self, part: ChannelPart) -> tuple[str, torch.Tensor]:
        """Return a part's layer and positions in the model as it was given, with its C2f whole.

        The positions are ordered by the group's channels; each channel must lie there once, as it does in
        outputs and BatchNorms.
        """
        positions = part.positions[part.channels.argsort()]
        block, half, rest = part.layer.rpartition(".cv1_chain.")
        if half:  # the chain is the second half of the stock convolution
            width = self.model.get_submodule(block).cv1_pass.conv.out_channels
            return f"{block}.cv1.{rest}", positions + width
        return part.layer.replace(".cv1_pass.", ".cv1."), positions

    def _find_groups(self) -> tuple[Group, ...]:
        names = {module: name for name, module in self.model.named_modules()}
        order = {module: position for position, module in enumerate(self.model.modules())}
        found = self._graph.get_all_groups(
            ignored_layers=_kept_layers(self.model), root_module_types=[nn.Conv2d]
        )
        groups = []
        for group in found:
            items = [item for item in group if item.dep.target.module in names]
            items.sort(key=lambda item: order[item.dep.target.module])
            parts = tuple(
                ChannelPart(
                    names[item.dep.target.module],
                    self._role(item),
                    torch.tensor(item.idxs),
                    torch.tensor(item.root_idxs),
                )
                for item in items
            )
            root = group[0].dep.target.module
            groups.append(Group(names[root], root.out_channels, parts))
        return tuple(sorted(groups, key=lambda group: order[self.model.get_submodule(group.root)]))

    def _role(self, item: Any) -> Role:
        if isinstance(item.dep.target.module, nn.BatchNorm2d):
            return "norm"
        return "out" if self._graph.is_out_channel_pruning_fn(item.dep.handler) else "in"

    def _tie_halves(self) -> tuple[tuple[int, ...], ...]:
        owner = {part.layer: index for index, group in enumerate(self.groups) for part in group.of("out")}
        partner = {
            owner[f"{name}.cv1_pass.conv"]: owner[f"{name}.cv1_chain.conv"]
            for name, module in self.model.named_modules()
            if isinstance(module, SplitC2f)
        }
        second = set(partner.values())
        return tuple(
            (index, partner[index]) if index in partner else (index,)
            for index in range(len(self.groups))
            if index not in second
        )


def coupled_gammas(model: DetectionModel) -> list[list[tuple[str, torch.Tensor]]]:
    """Return, for each group of coupled channels that pruning can remove, where its BatchNorm scales lie.

    Returns:
        One list a group: pairs of a BatchNorm's name in ``model`` and an index (W int64) into its scales; row
        i of every index belongs to channel i of the group. A sparsity penalty belongs on these scales and
        nowhere else.
    """
    surgery = Surgery(model)
    return [[surgery.stock_place(part) for part in group.of("norm")] for group in surgery.groups]


def _check_supported(model: DetectionModel) -> None:
    """Refuse a model on which the surgery is not exact, naming the block."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        raise UserError(
            "this model has no BatchNorm layers: it was fused, as for deployment; prune the checkpoint that "
            "it was fused from"
        )
    head = model.model[-1]
    wrong = next((type(layer).__name__ for layer in model.model if type(layer) not in SUPPORTED_BLOCKS), None)
    if wrong is None and getattr(head, "one2one_cv2", None) is not None:
        wrong = "an end-to-end Detect"
    if wrong is None and any(type(m) is C3k2 and _has_attention(m) for m in model.model):
        wrong = "a C3k2 with attention"
    if wrong is not None:
        raise UserError(
            f"this model has {wrong} in its graph, which cannot be pruned; supported are YOLOv8, YOLOv5u and "
            f"YOLO11 detectors (blocks: {', '.join(block.__name__ for block in SUPPORTED_BLOCKS)})"
        )


def _has_attention(block: nn.Module) -> bool:
    return any(isinstance(module, Attention) for module in block.modules())


def _kept_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers whose output width has a meaning.

    These are the last convolutions of Detect and its DFL; and in YOLO11 everything that adds to an attention
    block's features, whose width is a number of heads times a number of channels.
    """
    kept: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, Detect):
            kept += [branch[-1] for branches in (module.cv2, module.cv3) for branch in branches]
        elif isinstance(module, DFL):
            kept.append(module.conv)
        elif isinstance(module, C2PSA):
            kept.append(module.cv1.conv)
        elif isinstance(module, PSABlock):
            kept.append(module.ffn[-1].conv)
        elif isinstance(module, Attention):
            kept += [module.qkv.conv, module.proj.conv, module.pe.conv]
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

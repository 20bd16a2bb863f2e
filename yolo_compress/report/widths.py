"""Widths that the hardware does not compute as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from yolo_compress.report.page import Rows

MULTIPLES = {"fp16": 8, "int8": 32}
"""Channels that a GPU's tensor cores take at once: a layer in between takes the time of the next multiple."""

# Rows shown, those that waste most.
_MOST = 12


def off_multiples(layers: Mapping[str, tuple[int, int]], precisions: Sequence[str]) -> Rows | None:
    """List the layers whose kept widths are no multiple of what a precision wants.

    Args:
        layers: of each convolution its output channels before and after.
        precisions: of the files that are delivered; fp32 counts as fp16, in which TensorRT runs it.

    Returns:
        The layers, those first that waste the largest share; ``None`` where all widths fit.
    """
    wanted = [name for name in MULTIPLES if name in precisions or (name == "fp16" and "fp32" in precisions)]
    found = []
    for layer, (before, after) in layers.items():
        computed = {name: -(-after // MULTIPLES[name]) * MULTIPLES[name] for name in wanted}
        if any(width != after for width in computed.values()):
            cells = [layer, str(before), str(after), *(str(width) for width in computed.values())]
            found.append((max(computed.values()) / after, cells))
    if not found:
        return None
    found.sort(key=lambda entry: -entry[0])
    rule = " and ".join(f"{MULTIPLES[name]} in {name}" for name in wanted)
    note = (
        f"{len(found)} of {len(layers)} layers keep a width that is no multiple of what tensor cores take at "
        f"once ({rule}), and cost the time of the next one. prune.round_to keeps widths at multiples of 8, "
        "16 or 32."
    )
    if len(found) > _MOST:
        note += f" Shown: the {_MOST} that waste most."
    header = ("layer", "before", "kept", *(f"computed in {name}" for name in wanted))
    return Rows(header, [cells for _, cells in found[:_MOST]], note)
